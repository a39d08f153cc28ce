#include "worker/model/numerics_class.h"

#include <span>
#include <utility>
#include <vector>

#include "kernels/known_answer.h"
#include "kernels/philox.h"
#include "worker/engine/sampling_ops.h"
#include "worker/model/llama.h"
#include "worker/model/rope_frequencies.h"

namespace reprise::worker {
namespace {

using kernels::DType;
using kernels::PackedWeights;

// Long enough for a full block, a partial one and several k slices.
constexpr int64_t kTokens = 70;
constexpr int64_t kSteps = 2;
constexpr int64_t kPageTokens = 64;
constexpr int64_t kPages = 2;

ModelConfig KnownConfig() {
  ModelConfig c;
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

  PackedWeights Matrix(int64_t rows, int64_t cols) {
    const std::vector<float> values = Vector(rows * cols, 0, 0.25f);
    std::vector<std::byte> stored(values.size() * static_cast<size_t>(SizeOf(dtype_)));
    ops_.convert(values.data(), DType::kF32, stored.data(), dtype_, rows * cols);
    return PackedWeights::Pack(kernels::ConstMatrix{stored.data(), dtype_, rows, cols, cols});
  }

  LlamaWeights Model(const ModelConfig& c) {
    LlamaWeights w;
    w.tied = true;
    w.embedding = Matrix(c.vocab, c.hidden);
    for (int64_t layer = 0; layer < c.layers; ++layer) {
      LlamaLayerWeights l;
      l.attention_norm = Vector(c.hidden, 1, 0.125f);
      l.qkv = Matrix((c.heads + 2 * c.kv_heads) * c.head_dim, c.hidden);
      l.o = Matrix(c.hidden, c.heads * c.head_dim);
      l.mlp_norm = Vector(c.hidden, 1, 0.125f);
      l.gate_up = Matrix(2 * c.intermediate, c.hidden);
      l.down = Matrix(c.hidden, c.intermediate);
      w.layers.push_back(std::move(l));
    }
    w.final_norm = Vector(c.hidden, 1, 0.125f);
    return w;
  }

 private:
  const kernels::CpuOps& ops_;
  const DType dtype_;
  uint32_t counter_ = 0;
};

template <typename T>
void Update(Sha256& hash, std::span<const T> values) {
  hash.Update(std::span(reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()));
}

void UpdateWithModelRun(Sha256& hash, const NumericsChoices& choices) {
  const ModelConfig c = KnownConfig();
  const kernels::CpuOps& ops = kernels::Select(choices.isa);
  Llama llama(c, KnownWeights(ops, choices.weights).Model(c),
              {.isa = choices.isa, .kv_dtype = choices.kv, .block_tokens = kPageTokens});
  const int64_t row_bytes = 2 * c.kv_heads * c.head_dim * SizeOf(choices.kv);
  std::vector<std::byte> pool(static_cast<size_t>(c.layers * kPages * kPageTokens * row_bytes));
  llama.AttachPool(pool.data());

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
        {std::span(tokens).subspan(static_cast<size_t>(first)), first, pages, true}};
    llama.Forward(items, Llama::Outputs::kAll, nullptr);
    for (int64_t i = 0; i < llama.outputs(); ++i) Update(hash, llama.logits(i));
    const std::span<const float> last = llama.logits(llama.outputs() - 1);
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
  UpdateWithModelRun(hash, choices);
  return hash.Finish();
}

}  // namespace reprise::worker
