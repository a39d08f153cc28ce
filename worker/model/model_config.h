// The configuration of a model folder (config.json, generation_config.json), read into validated
// values: Llama, Mixtral, Qwen3-MoE, DeepSeek-V2 and V3. Pure functions over text plus loaders; any
// thread. Links no kernel: the gateway reads it too.
//
// Invariants of a parsed ModelConfig:
// 1. Every dimension is within common/limits.h, rotary_dim() is a multiple of 2 rope_heads(), heads
//    is a multiple of kv_heads, every layer that is_mixture has at least as many experts as a token
//    takes.
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

enum class Family : uint8_t { kLlama, kMixtral, kQwen3Moe, kDeepseekV2, kDeepseekV3 };

enum class RopeKind : uint8_t { kDefault, kLinear, kLlama3, kYarn };

struct RopeScaling {
  RopeKind kind = RopeKind::kDefault;
  double factor = 1;  // >= 1
  // kLlama3 only: wavelengths above original_context / low_freq_factor are stretched by `factor`,
  // those below original_context / high_freq_factor are kept, those between are blended.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_context = 8192;  // kYarn too
  // kYarn only (arXiv 2309.00071): dims that turn more than beta_fast times within the original
  // context are kept, those that turn less than beta_slow are stretched, those between are blended.
  double beta_fast = 32;
  double beta_slow = 1;
  double amplitude = 1;       // of cos and sin
  double mscale_all_dim = 0;  // weight of ln(factor) in the softmax scale; 0: it is not in it
  bool operator==(const RopeScaling&) const = default;
};

// Multi-head latent attention (arXiv 2405.04434, section 2.1): one latent and one rotated key a
// token for all heads.
struct LatentAttention {
  int64_t q_rank = 0;  // 0: queries come straight from the hidden state
  int64_t kv_rank = 0;
  int64_t nope_dim = 0;  // of a head's query and key, not rotated
  int64_t rope_dim = 0;  // rotated
  int64_t value_dim = 0;
  bool interleaved = true;  // rotated pairs are neighbours in the checkpoint, not halves apart
  // Two keys of our own, for models converted from others (docs/models.md):
  int64_t rope_heads = 1;  // "qk_rope_heads": the rotated key is so many side by side, each with
                           // the frequencies of rope_dim / rope_heads dims
  double scale_dims = 0;   // "query_pre_attn_scalar": scores are divided by its root; 0: head_dim's
  bool operator==(const LatentAttention&) const = default;
};

// A mixture of experts in place of the MLP.
struct ExpertMixture {
  int64_t experts = 0;
  int64_t per_token = 0;
  int64_t intermediate = 0;         // of one expert
  int64_t shared_intermediate = 0;  // of the expert every token goes to; 0: there is none
  bool sigmoid = false;             // gating; else softmax
  bool bias = false;                // of the choice
  int64_t groups = 1;
  int64_t groups_kept = 1;
  bool normalize = false;
  double scale = 1;
  std::vector<bool> layers;  // which have it; the others have an MLP
  bool operator==(const ExpertMixture&) const = default;
};

// FP8 matrices: each block of so many rows and columns has a scale.
struct BlockScales {
  int64_t rows = 0;
  int64_t cols = 0;
  bool operator==(const BlockScales&) const = default;
};

struct ModelConfig {
  Family family = Family::kLlama;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;  // of queries and keys; latent: nope_dim + rope_dim
  int64_t vocab = 0;
  int64_t context = 0;  // tokens
  double rms_eps = 1e-6;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tied_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;  // each head's query and key are normed before they are rotated
  std::optional<LatentAttention> latent;
  std::optional<ExpertMixture> mixture;
  std::optional<BlockScales> block_scales;  // of the matrices that are stored in FP8
  // Layers after the last that predict further tokens (DeepSeek-V3): their tensors are left out.
  int64_t predict_layers = 0;
  std::optional<int32_t> bos_id;
  std::vector<int32_t> eos_ids;
  std::string dtype;  // as declared, "" when absent; the tensors themselves decide

  // One text per set of values that changes what the model computes: bos, eos and dtype left out.
  std::string CanonicalText() const;
  // Of the tensors ModelTensors names.
  int64_t parameters() const;
  // Dims of a head that are rotated.
  int64_t rotary_dim() const { return latent ? latent->rope_dim : head_dim; }
  // Of which every so many dims have all frequencies.
  int64_t rope_heads() const { return latent ? latent->rope_heads : 1; }
  // Of a head, as the output projection reads them.
  int64_t value_dim() const { return latent ? latent->value_dim : head_dim; }
  bool is_mixture(int64_t layer) const {
    return mixture && mixture->layers[static_cast<size_t>(layer)];
  }
  // What scores are multiplied by: head_dim^-1/2, YaRN's share included.
  double attention_scale() const;
  bool operator==(const ModelConfig&) const = default;
};

// As config.json's "architectures" names it.
absl::string_view FamilyName(Family family);
// As its "model_type" does.
absl::string_view ModelTypeName(Family family);

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
  bool linear = false;  // a matrix inside a layer that may be stored in FP8
};
// Hugging Face names, in order of use; lm_head.weight only when untied.
std::vector<TensorSpec> ModelTensors(const ModelConfig& config);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_MODEL_CONFIG_H_
