// From logits to tokens on the device, for rows of different parameters in one launch: penalties,
// biases, barred tokens, temperature, top-k, top-p, min-p and the counter-based draw. Equal logits
// give the token, the log-probability and the alternatives of the CPU's sampler (SampleWith of
// worker/engine/sampling_ops.h), bit for bit. Device pointers, owned by the caller. Threads: any;
// work is queued on the stream.
//
// What the device does not do is left to the host by SampleRow::on_host: logits processed by a
// grammar, and biases that name a token twice (the order of their sums shows).
#ifndef REPRISE_KERNELS_CUDA_SAMPLE_H_
#define REPRISE_KERNELS_CUDA_SAMPLE_H_

#include <cstdint>

#include "kernels/cuda/device/runtime.h"

namespace reprise::cuda {

inline constexpr int kSampleVocabMax = 1 << 19;

// What a row does to one logit, in this order: penalty, bias, bar. A row names a token once.
struct TokenEdit {
  int32_t id = 0;
  int32_t prompt = 0;  // how often it occurs; none: not penalized
  int32_t output = 0;
  float bias = 0;
  uint32_t barred = 0;  // 1: to -inf
  float raw = 0;        // by the kernel: the logit before
};

struct SampleRow {
  uint64_t seed = 0;
  uint64_t index = 0;  // of the token, from 0
  uint32_t branch = 0;
  float temperature = 1;  // below 1e-5: greedy
  int32_t top_k = 0;      // 0: off
  float top_p = 1;
  float min_p = 0;
  float repetition = 1;
  float presence = 0;
  float frequency = 0;
  int64_t first_edit = 0;
  int32_t edits = 0;
  int32_t top = 0;       // alternatives wanted, with their log-probabilities
  uint32_t logprob = 1;  // 0: not wanted, saves a pass and the canonical sum
  uint32_t on_host = 0;  // 1: the row and its results are left as they are
};

struct SampledToken {
  int32_t id = 0;
  float logprob = 0;  // NaN when it was not wanted
};
struct SampledTop {
  int32_t id = 0;  // -1: there are no more
  float logprob = 0;
};

struct SampleArgs {
  float* logits = nullptr;  // [rows, vocab], overwritten
  int64_t stride = 0;
  int64_t rows = 0;
  int vocab = 0;                      // 1 to kSampleVocabMax
  const SampleRow* params = nullptr;  // [rows]
  TokenEdit* edits = nullptr;
  SampledToken* tokens = nullptr;  // [rows]
  SampledTop* top = nullptr;       // [rows, top_stride]
  int top_stride = 0;              // at least any row's top
};
int Sample(const SampleArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_SAMPLE_H_
