// The tensors of each family by their Hugging Face names.
#include "absl/strings/str_cat.h"
#include "worker/model/model_config.h"

namespace reprise::worker {
namespace {

uint64_t U(int64_t n) { return static_cast<uint64_t>(n); }

class Names {
 public:
  explicit Names(const ModelConfig& config) : c_(config) {}

  std::vector<TensorSpec> All() {
    specs_.push_back({"model.embed_tokens.weight", {U(c_.vocab), U(c_.hidden)}});
    for (int64_t layer = 0; layer < c_.layers; ++layer) {
      prefix_ = absl::StrCat("model.layers.", layer, ".");
      Vector("input_layernorm.weight", c_.hidden);
      c_.latent ? Latent(*c_.latent) : Heads();
      Vector("post_attention_layernorm.weight", c_.hidden);
      c_.is_mixture(layer) ? Mixture(*c_.mixture) : Mlp("mlp.", c_.intermediate, c_.mlp_bias);
    }
    specs_.push_back({"model.norm.weight", {U(c_.hidden)}});
    if (!c_.tied_embeddings) specs_.push_back({"lm_head.weight", {U(c_.vocab), U(c_.hidden)}});
    return std::move(specs_);
  }

 private:
  void Vector(absl::string_view name, int64_t n) {
    specs_.push_back({absl::StrCat(prefix_, name), {U(n)}});
  }
  void Linear(absl::string_view name, int64_t out, int64_t in, bool bias = false) {
    specs_.push_back({absl::StrCat(prefix_, name, ".weight"), {U(out), U(in)}, true});
    if (bias) Vector(absl::StrCat(name, ".bias"), out);
  }

  void Heads() {
    const int64_t q = c_.heads * c_.head_dim;
    const int64_t kv = c_.kv_heads * c_.head_dim;
    Linear("self_attn.q_proj", q, c_.hidden, c_.attention_bias);
    Linear("self_attn.k_proj", kv, c_.hidden, c_.attention_bias);
    Linear("self_attn.v_proj", kv, c_.hidden, c_.attention_bias);
    if (c_.qk_norm) {
      Vector("self_attn.q_norm.weight", c_.head_dim);
      Vector("self_attn.k_norm.weight", c_.head_dim);
    }
    Linear("self_attn.o_proj", c_.hidden, q, c_.attention_bias);
  }

  void Latent(const LatentAttention& l) {
    const int64_t q = c_.heads * c_.head_dim;
    if (l.q_rank == 0) {
      Linear("self_attn.q_proj", q, c_.hidden);
    } else {
      Linear("self_attn.q_a_proj", l.q_rank, c_.hidden, c_.attention_bias);
      Vector("self_attn.q_a_layernorm.weight", l.q_rank);
      Linear("self_attn.q_b_proj", q, l.q_rank);
    }
    Linear("self_attn.kv_a_proj_with_mqa", l.kv_rank + l.rope_dim, c_.hidden, c_.attention_bias);
    Vector("self_attn.kv_a_layernorm.weight", l.kv_rank);
    Linear("self_attn.kv_b_proj", c_.heads * (l.nope_dim + l.value_dim), l.kv_rank);
    Linear("self_attn.o_proj", c_.hidden, c_.heads * l.value_dim, c_.attention_bias);
  }

  void Mlp(absl::string_view name, int64_t inner, bool bias = false) {
    Linear(absl::StrCat(name, "gate_proj"), inner, c_.hidden, bias);
    Linear(absl::StrCat(name, "up_proj"), inner, c_.hidden, bias);
    Linear(absl::StrCat(name, "down_proj"), c_.hidden, inner, bias);
  }

  void Mixture(const ExpertMixture& m) {
    const bool mixtral = c_.family == Family::kMixtral;
    const absl::string_view block = mixtral ? "block_sparse_moe." : "mlp.";
    specs_.push_back({absl::StrCat(prefix_, block, "gate.weight"), {U(m.experts), U(c_.hidden)}});
    if (m.bias) Vector(absl::StrCat(block, "gate.e_score_correction_bias"), m.experts);
    for (int64_t expert = 0; expert < m.experts; ++expert) {
      const std::string name = absl::StrCat(block, "experts.", expert, ".");
      if (!mixtral) {
        Mlp(name, m.intermediate);
        continue;
      }
      Linear(name + "w1", m.intermediate, c_.hidden);
      Linear(name + "w3", m.intermediate, c_.hidden);
      Linear(name + "w2", c_.hidden, m.intermediate);
    }
    if (m.shared_intermediate > 0) Mlp("mlp.shared_experts.", m.shared_intermediate);
  }

  const ModelConfig& c_;
  std::string prefix_;
  std::vector<TensorSpec> specs_;
};

}  // namespace

int64_t ModelConfig::parameters() const {
  int64_t total = 0;
  for (const TensorSpec& spec : ModelTensors(*this)) {
    int64_t n = 1;
    for (const uint64_t dim : spec.shape) n *= static_cast<int64_t>(dim);
    total += n;
  }
  return total;
}

std::vector<TensorSpec> ModelTensors(const ModelConfig& config) { return Names(config).All(); }

}  // namespace reprise::worker
