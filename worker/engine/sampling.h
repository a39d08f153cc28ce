// From logits to a token: penalties, bias, temperature, top-k, top-p, min-p and a counter-based
// draw, all in fixed order so that equal logits give equal tokens on every machine. Pure; any
// thread.
//
// Invariants:
// 1. The draw of (seed, branch, index) uses Philox4x32-10 at that counter and nothing else.
// 2. Ties go to the lowest token id.
// 3. The reported logprob is log-softmax of the raw logits (before penalties and temperature), as
//    the model gave them.
#ifndef REPRISE_WORKER_ENGINE_SAMPLING_H_
#define REPRISE_WORKER_ENGINE_SAMPLING_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace reprise::worker {

struct SamplingParams {
  float temperature = 1;  // 0: greedy
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;
  std::vector<int32_t> stop_ids;
  std::vector<int32_t> eos_ids;
  int32_t max_tokens = 128;
  int32_t min_tokens = 0;
  int32_t top_logprobs = 0;
  int32_t n = 1;
};

struct SampleInput {
  const SamplingParams* params = nullptr;
  uint32_t branch = 0;
  uint32_t index = 0;  // of the token being drawn, from 0
  std::span<const int32_t> prompt;
  std::span<const int32_t> generated;  // tokens 0 .. index - 1 of this branch
};

struct SampledToken {
  int32_t id = 0;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;
};

// `logits` is scratch: [vocab], overwritten.
SampledToken SampleFromLogits(std::span<float> logits, const SampleInput& input);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_SAMPLING_H_
