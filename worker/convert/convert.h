// Making a model of another kind of attention out of a Llama folder, and writing it as a folder our
// loader serves. docs/models.md works out the algebra. One thread per call.
//
// What is read: LlamaForCausalLM in f32, bf16 or f16. Errors name the thing, the limit and the
// value; nothing is written after one but what a full disk leaves, and then no config.json.
#ifndef REPRISE_WORKER_CONVERT_CONVERT_H_
#define REPRISE_WORKER_CONVERT_CONVERT_H_

#include <cstdint>
#include <span>
#include <string>

#include "common/status.h"
#include "worker/convert/latent_plan.h"
#include "worker/convert/moments.h"

namespace reprise::convert {

// Keys and values of every layer become one latent and one rotated key (DeepseekV2ForCausalLM). At
// full size, the default, the model is the same function; below it the calibration tokens decide
// what is lost. INVALID_ARGUMENT when they are needed and empty, UNIMPLEMENTED for a source with
// biases in its attention, with YaRN, or of another family.
struct ToLatentOptions {
  LatentSizes sizes;
  // The latent is normed as DeepSeek's own is, by the size it has on the calibration text: another
  // function, whose numbers are of a size to train on.
  bool live_norm = false;
  std::span<const int32_t> calibration;
  TextOptions text;
};
Status ConvertToLatent(const std::string& from, const std::string& to,
                       const ToLatentOptions& options);

// Every kv_heads-th of the source's KV heads becomes one, the mean of theirs (Ainslie et al., GQA,
// arXiv 2305.13245, section 2.1). The same number of heads gives the same model.
Status ConvertToGrouped(const std::string& from, const std::string& to, int64_t kv_heads);

}  // namespace reprise::convert

#endif  // REPRISE_WORKER_CONVERT_CONVERT_H_
