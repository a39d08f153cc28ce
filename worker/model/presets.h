// The shapes `reprise make-model` can write, by name, and config.json for any configuration. Pure;
// any thread.
#ifndef REPRISE_WORKER_MODEL_PRESETS_H_
#define REPRISE_WORKER_MODEL_PRESETS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "worker/model/model_config.h"

namespace reprise::worker {

std::vector<std::string> PresetNames();
// NOT_FOUND lists the names there are.
StatusOr<ModelConfig> PresetConfig(absl::string_view name);

// Sizes other than a preset's, to make a shape smaller or larger; 0: the preset's own.
struct ShapeSizes {
  int64_t layers = 0;  // those without experts stay the first
  int64_t hidden = 0;
  int64_t heads = 0;  // of queries; as many share a key as did
  int64_t intermediate = 0;
  int64_t experts = 0;
  int64_t experts_per_token = 0;
  int64_t expert_intermediate = 0;  // as many shared experts as there were
  int64_t vocab = 0;                // ids of begin and end that are outside it become 0
  int64_t context = 0;              // tokens
};

// INVALID_ARGUMENT for experts of a shape that has none. ParseModelConfig judges the rest.
StatusOr<ModelConfig> Resized(ModelConfig config, const ShapeSizes& sizes);

// A config.json that ParseModelConfig reads back as `config`.
std::string ConfigJson(const ModelConfig& config);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_PRESETS_H_
