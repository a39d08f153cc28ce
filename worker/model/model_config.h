// The configuration of a Llama-architecture model folder (config.json, generation_config.json),
// read into validated values. Pure functions over text plus loaders; any thread. Links no kernel:
// the gateway reads it too.
//
// Invariants of a parsed ModelConfig:
// 1. Every dimension is within common/limits.h, head_dim is even, heads is a multiple of kv_heads.
// 2. A feature that would change the computation and that we do not implement is refused by name.
#ifndef REPRISE_WORKER_MODEL_MODEL_CONFIG_H_
#define REPRISE_WORKER_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise::worker {

enum class RopeKind : uint8_t { kDefault, kLinear, kLlama3 };

struct RopeScaling {
  RopeKind kind = RopeKind::kDefault;
  double factor = 1;  // >= 1
  // kLlama3 only: wavelengths above original_context / low_freq_factor are stretched by `factor`,
  // those below original_context / high_freq_factor are kept, those between are blended.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_context = 8192;
  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab = 0;
  int64_t context = 0;  // tokens
  double rms_eps = 1e-6;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tied_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  std::optional<int32_t> bos_id;
  std::vector<int32_t> eos_ids;
  std::string dtype;  // as declared, "" when absent; the tensors themselves decide

  // One text per set of values that changes what the model computes: bos, eos and dtype left out.
  std::string CanonicalText() const;
  // Of the tensors LlamaTensors names.
  int64_t parameters() const;
  bool operator==(const ModelConfig&) const = default;
};

// INVALID_ARGUMENT names the key, the limit and the value found.
StatusOr<ModelConfig> ParseModelConfig(absl::string_view json);
// DIR/config.json; messages start with the path.
StatusOr<ModelConfig> LoadModelConfig(const std::string& dir);

// What generation_config.json proposes for requests that leave a value open.
struct GenerationDefaults {
  std::optional<int32_t> bos_id;
  std::vector<int32_t> eos_ids;
  std::optional<float> temperature;  // 0 when do_sample is false
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<int32_t> max_new_tokens;
};

// `config` supplies bos and eos where the text has none, and the range of ids.
StatusOr<GenerationDefaults> ParseGenerationDefaults(absl::string_view json,
                                                     const ModelConfig& config);
// DIR/generation_config.json; an absent file means no proposals beyond config's ids.
StatusOr<GenerationDefaults> LoadGenerationDefaults(const std::string& dir,
                                                    const ModelConfig& config);

// A tensor the model must have.
struct TensorSpec {
  std::string name;
  std::vector<uint64_t> shape;
};
// Hugging Face names, in order of use; lm_head.weight only when untied.
std::vector<TensorSpec> LlamaTensors(const ModelConfig& config);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_MODEL_CONFIG_H_
