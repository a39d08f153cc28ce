#include "worker/model/known_model.h"

#include <utility>
#include <vector>

#include "kernels/packed_weights.h"
#include "kernels/philox.h"

namespace reprise::worker {
namespace {

using kernels::DType;
using kernels::PackedWeights;

class KnownWeights {
 public:
  explicit KnownWeights(DType dtype)
      : ops_(kernels::Select(kernels::Isa::kScalar)), dtype_(dtype) {}

  std::vector<float> Vector(int64_t n, float offset, float scale) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& v : values) {
      const uint32_t bits = kernels::Philox4x32({counter_++, 0, 0, 0}, {7, 11})[0] >> 8;
      v = offset + scale * (static_cast<float>(bits) * 0x1p-23f - 1.0f);
    }
    return values;
  }

  PackedWeights Matrix(int64_t rows, int64_t cols) { return Matrix(rows, cols, dtype_); }

  ModelWeights Model(const ModelConfig& c) {
    ModelWeights w;
    w.embedding = Matrix(c.vocab, c.hidden);
    for (int64_t layer = 0; layer < c.layers; ++layer) {
      LayerWeights l;
      l.attention_norm = Vector(c.hidden, 1, 0.125f);
      c.latent ? AddLatent(c, &l) : AddHeads(c, &l);
      l.o.matrix = Matrix(c.hidden, c.heads * c.value_dim());
      l.mlp_norm = Vector(c.hidden, 1, 0.125f);
      if (c.is_mixture(layer)) {
        AddMixture(c, &l);
      } else {
        l.mlp = Mlp(c, c.intermediate);
      }
      w.layers.push_back(std::move(l));
    }
    w.final_norm = Vector(c.hidden, 1, 0.125f);
    return w;
  }

 private:
  PackedWeights Matrix(int64_t rows, int64_t cols, DType dtype) {
    const std::vector<float> values = Vector(rows * cols, 0, 0.25f);
    std::vector<std::byte> stored(values.size() * static_cast<size_t>(SizeOf(dtype)));
    ops_.convert(values.data(), DType::kF32, stored.data(), dtype, rows * cols);
    return PackedWeights::Pack(kernels::ConstMatrix{stored.data(), dtype, rows, cols, cols});
  }

  void AddHeads(const ModelConfig& c, LayerWeights* l) {
    l->heads.emplace();
    l->heads->qkv.matrix = Matrix((c.heads + 2 * c.kv_heads) * c.head_dim, c.hidden);
    if (!c.qk_norm) return;
    l->heads->q_norm = Vector(c.head_dim, 1, 0.125f);
    l->heads->k_norm = Vector(c.head_dim, 1, 0.125f);
  }

  void AddLatent(const ModelConfig& c, LayerWeights* l) {
    const LatentAttention& a = *c.latent;
    LatentWeights& w = l->latent.emplace();
    if (a.q_rank > 0) {
      w.q_a.matrix = Matrix(a.q_rank, c.hidden);
      w.q_a_norm = Vector(a.q_rank, 1, 0.125f);
    }
    w.q = Matrix(c.heads * c.head_dim, a.q_rank > 0 ? a.q_rank : c.hidden);
    w.kv_a.matrix = Matrix(a.kv_rank + a.rope_dim, c.hidden);
    w.kv_a_norm = Vector(a.kv_rank, 1, 0.125f);
    for (int64_t head = 0; head < c.heads; ++head) {
      w.key.push_back(Matrix(a.nope_dim, a.kv_rank));
      w.absorb.push_back(Matrix(a.kv_rank, a.nope_dim));
      w.value.push_back(Matrix(a.value_dim, a.kv_rank));
    }
  }

  MlpWeights Mlp(const ModelConfig& c, int64_t inner) {
    MlpWeights w;
    w.gate_up.matrix = Matrix(2 * inner, c.hidden);
    w.down.matrix = Matrix(c.hidden, inner);
    return w;
  }

  void AddMixture(const ModelConfig& c, LayerWeights* l) {
    MixtureWeights& w = l->mixture.emplace();
    w.gate = Matrix(c.mixture->experts, c.hidden, DType::kF32);
    if (c.mixture->bias) w.bias = Vector(c.mixture->experts, 0, 0.125f);
    w.own = {0, c.mixture->experts};
    for (int64_t i = 0; i < c.mixture->experts; ++i) {
      w.experts.push_back(Mlp(c, c.mixture->intermediate));
    }
    if (c.mixture->shared_intermediate > 0) w.shared = Mlp(c, c.mixture->shared_intermediate);
  }

  const kernels::CpuOps& ops_;
  const DType dtype_;
  uint32_t counter_ = 0;
};

}  // namespace

ModelConfig KnownModelConfig(const ModelConfig& model, HeadDims dims) {
  ModelConfig c;
  c.family = model.family;
  c.hidden = 64;
  c.intermediate = 288;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 16;
  c.vocab = 96;
  c.context = 128;
  c.rms_eps = 1e-5;
  c.tied_embeddings = true;
  c.qk_norm = model.qk_norm;
  if (model.latent) {
    c.latent = LatentAttention{.q_rank = model.latent->q_rank > 0 ? 48 : 0,
                               .kv_rank = 40,
                               .nope_dim = 24,
                               .rope_dim = 16,
                               .value_dim = 20,
                               .interleaved = model.latent->interleaved};
    if (dims == HeadDims::kOfModel) {
      const int64_t q_rank = c.latent->q_rank;
      c.latent = model.latent;
      c.latent->q_rank = q_rank;
    }
    c.head_dim = c.latent->nope_dim + c.latent->rope_dim;
  } else if (dims == HeadDims::kOfModel) {
    c.head_dim = model.head_dim;
  }
  if (model.mixture) {
    c.mixture = *model.mixture;
    c.mixture->experts = 8;
    c.mixture->per_token = 3;
    c.mixture->intermediate = 40;
    c.mixture->shared_intermediate = model.mixture->shared_intermediate > 0 ? 80 : 0;
    c.mixture->groups = model.mixture->groups > 1 ? 4 : 1;
    c.mixture->groups_kept = model.mixture->groups > 1 ? 2 : 1;
    c.mixture->layers = {false, true};
  }
  return c;
}

ModelWeights KnownModelWeights(const ModelConfig& known, DType dtype) {
  return KnownWeights(dtype).Model(known);
}

}  // namespace reprise::worker
