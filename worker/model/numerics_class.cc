#include "worker/model/numerics_class.h"

#include <span>
#include <utility>
#include <vector>

#include "kernels/known_answer.h"
#include "worker/engine/sampling_ops.h"
#include "worker/model/known_model.h"
#include "worker/model/rope_frequencies.h"
#include "worker/model/transformer.h"

namespace reprise::worker {
namespace {

using kernels::DType;

// Long enough for a full block, a partial one and several k slices.
constexpr int64_t kTokens = 70;
constexpr int64_t kSteps = 2;
constexpr int64_t kPageTokens = 64;
constexpr int64_t kPages = 2;

template <typename T>
void Update(Sha256& hash, std::span<const T> values) {
  hash.Update(std::span(reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()));
}

void UpdateWithModelRun(Sha256& hash, const ModelConfig& model, const NumericsChoices& choices) {
  const ModelConfig c = KnownModelConfig(model, HeadDims::kSmall);
  const kernels::CpuOps& ops = kernels::Select(choices.isa);
  Transformer known(c, KnownModelWeights(c, choices.weights),
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
