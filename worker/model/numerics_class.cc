#include "worker/model/numerics_class.h"

#include <span>
#include <utility>
#include <vector>

#include "kernels/known_answer.h"
#include "kernels/philox.h"
#include "worker/engine/sampling_ops.h"
#include "worker/model/rope_frequencies.h"
#include "worker/model/transformer.h"

namespace reprise::worker {
namespace {

using kernels::DType;
using kernels::PackedWeights;

// Long enough for a full block, a partial one and several k slices.
constexpr int64_t kTokens = 70;
constexpr int64_t kSteps = 2;
constexpr int64_t kPageTokens = 64;
constexpr int64_t kPages = 2;

// Small, with the parts the model has.
ModelConfig KnownConfig(const ModelConfig& model) {
  ModelConfig c;
  c.family = model.family;
  c.hidden = 64;
  c.intermediate = 288;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 16;
  c.vocab = 96;
  c.context = kPages * kPageTokens;
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
    c.head_dim = c.latent->nope_dim + c.latent->rope_dim;
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

// Weights made of exact integers: uniform in (-1, 1) times a power of two.
class KnownWeights {
 public:
  KnownWeights(const kernels::CpuOps& ops, DType dtype) : ops_(ops), dtype_(dtype) {}

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

template <typename T>
void Update(Sha256& hash, std::span<const T> values) {
  hash.Update(std::span(reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()));
}

void UpdateWithModelRun(Sha256& hash, const ModelConfig& model, const NumericsChoices& choices) {
  const ModelConfig c = KnownConfig(model);
  const kernels::CpuOps& ops = kernels::Select(choices.isa);
  Transformer known(c, KnownWeights(ops, choices.weights).Model(c),
                    {.isa = choices.isa, .kv_dtype = choices.kv, .block_tokens = kPageTokens});
  kernels::PagedKv kv = KvShape(c);
  kv.dtype = choices.kv;
  kv.block_tokens = kPageTokens;
  std::vector<std::byte> pool(static_cast<size_t>(c.layers * kPages * SegmentBytes(kv)));
  known.AttachPool(pool.data());

  const std::vector<int32_t> pages = {1, 0};
  std::vector<int32_t> tokens(kTokens);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 37 % 96);
  SamplingParams params;
  params.top_p = 0.9f;
  params.repetition_penalty = 1.25f;
  params.seed = 5;
  for (int64_t step = 0; step <= kSteps; ++step) {
    const int64_t first = step == 0 ? 0 : kTokens + step - 1;
    const std::vector<StepItem> items = {
        {std::span(tokens).subspan(static_cast<size_t>(first)), first, pages, true, kTokens}};
    // Without ranks nothing can fail.
    known.Forward(items, Transformer::Outputs::kAll, nullptr).IgnoreError();
    for (int64_t i = 0; i < known.outputs(); ++i) Update(hash, known.logits(i));
    const std::span<const float> last = known.logits(known.outputs() - 1);
    std::vector<float> scratch(last.begin(), last.end());
    const SampledToken token =
        SampleWith(ops, scratch, {&params, 0, static_cast<uint32_t>(step), tokens, {}});
    Update(hash, std::span<const float>(&token.logprob, 1));
    tokens.push_back(token.id);
  }
  Update(hash, std::span<const int32_t>(tokens));
  Update(hash, std::span<const std::byte>(pool));
}

}  // namespace

Digest256 NumericsClass(const ModelConfig& config, const NumericsChoices& choices) {
  Sha256 hash;
  hash.Update("reprise.cpu.numerics.v1");
  hash.UpdateU32le(static_cast<uint32_t>(choices.weights));
  hash.UpdateU32le(static_cast<uint32_t>(choices.kv));
  hash.Update(kernels::KnownAnswerBytes(kernels::Select(choices.isa)));
  Update(hash, std::span<const double>(RopeInverseFrequencies(config)));
  UpdateWithModelRun(hash, config, choices);
  return hash.Finish();
}

}  // namespace reprise::worker
