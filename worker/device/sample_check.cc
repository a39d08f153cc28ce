#include "worker/device/sample_check.h"

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/device/buffer.h"
#include "kernels/cuda/sample.h"
#include "kernels/ops.h"
#include "worker/device/device_status.h"
#include "worker/device/sample_plan.h"
#include "worker/engine/sampling_ops.h"

namespace reprise::worker {
namespace {

constexpr int kVocab = 1009;
constexpr int32_t kTop = 3;

std::vector<SamplingParams> KnownParams() {
  std::vector<SamplingParams> all(7);
  for (size_t i = 0; i < all.size(); ++i) {
    all[i].seed = 77 + i;
    all[i].top_logprobs = kTop;
  }
  all[0].temperature = 0;
  all[1].temperature = 0.8F;
  all[2].top_k = 5;
  all[3].top_p = 0.9F;
  all[4].min_p = 0.02F;
  all[5].repetition_penalty = 1.3F;
  all[5].presence_penalty = 0.5F;
  all[5].frequency_penalty = 0.25F;
  all[6].logit_bias = {{3, 4}, {500, -2}};
  all[6].min_tokens = 9;
  all[6].eos_ids = {3};
  return all;
}

// Between -8 and 8, some of them equal.
std::vector<float> KnownLogits(size_t rows) {
  std::vector<float> logits(rows * kVocab);
  uint32_t state = 1;
  for (float& value : logits) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(state >> 20) / 256 - 8;
  }
  return logits;
}

template <class T>
Status Upload(const std::vector<T>& values, cuda::Buffer* to) {
  const size_t bytes = values.size() * sizeof(T);
  RETURN_IF_ERROR(DeviceStatus(to->Reset(bytes), "known logits"));
  return DeviceStatus(cuda::CopyIn(to->data(), values.data(), bytes, nullptr), "known logits");
}

template <class T>
StatusOr<std::vector<T>> Download(const cuda::Buffer& from) {
  std::vector<T> values(from.bytes() / sizeof(T));
  RETURN_IF_ERROR(DeviceStatus(
      cuda::CopyOut(values.data(), from.data(), values.size() * sizeof(T), nullptr), "sampling"));
  RETURN_IF_ERROR(DeviceStatus(cuda::Synchronize(nullptr), "sampling"));
  return values;
}

bool Same(const SampledToken& want, const cuda::SampledToken& token,
          std::span<const cuda::SampledTop> top) {
  const auto same = [](float a, float b) {
    return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
  };
  bool equal = token.id == want.id && same(token.logprob, want.logprob);
  for (size_t i = 0; i < want.top.size(); ++i) {
    equal = equal && top[i].id == want.top[i].first && same(top[i].logprob, want.top[i].second);
  }
  return equal;
}

}  // namespace

StatusOr<bool> DrawsAsTheHost() {
  const std::vector<SamplingParams> params = KnownParams();
  const std::vector<int32_t> before = {5, 17, 17, 900};
  std::vector<float> logits = KnownLogits(params.size());
  std::vector<StepSample> samples;
  std::vector<int64_t> outputs;
  for (size_t i = 0; i < params.size(); ++i) {
    samples.push_back({i, {.params = &params[i], .index = 4, .generated = before}});
    outputs.push_back(static_cast<int64_t>(i));
  }
  SamplePlan plan;
  plan.Plan(samples, outputs, static_cast<int64_t>(outputs.size()));
  cuda::Buffer device_logits, rows, edits, tokens, top;
  RETURN_IF_ERROR(Upload(logits, &device_logits));
  RETURN_IF_ERROR(Upload(plan.rows(), &rows));
  RETURN_IF_ERROR(Upload(plan.edits(), &edits));
  RETURN_IF_ERROR(Upload(std::vector<cuda::SampledToken>(params.size()), &tokens));
  RETURN_IF_ERROR(Upload(std::vector<cuda::SampledTop>(params.size() * kTop), &top));
  RETURN_IF_ERROR(DeviceStatus(cuda::Sample({.logits = device_logits.as<float>(),
                                             .stride = kVocab,
                                             .rows = static_cast<int64_t>(params.size()),
                                             .vocab = kVocab,
                                             .params = rows.as<cuda::SampleRow>(),
                                             .edits = edits.as<cuda::TokenEdit>(),
                                             .tokens = tokens.as<cuda::SampledToken>(),
                                             .top = top.as<cuda::SampledTop>(),
                                             .top_stride = kTop},
                                            nullptr),
                               "sampling"));
  ASSIGN_OR_RETURN(const auto drawn, Download<cuda::SampledToken>(tokens));
  ASSIGN_OR_RETURN(const auto alternatives, Download<cuda::SampledTop>(top));
  for (size_t i = 0; i < params.size(); ++i) {
    const SampledToken want =
        SampleWith(kernels::Select(kernels::BestIsa()),
                   std::span(logits).subspan(i * kVocab, kVocab), samples[i].input);
    const auto found = std::span(alternatives).subspan(i * kTop, kTop);
    if (plan.place(i).row < 0 || !Same(want, drawn[i], found)) return false;
  }
  return true;
}

}  // namespace reprise::worker
