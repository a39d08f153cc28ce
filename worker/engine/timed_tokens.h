// What the timed engine computes, without pages or time: the bytes of every KV row, the fold over
// rows and the token drawn from it. Tests, the simulator and benchmarks compare against this.
// Pure; any thread.
//
// Invariants:
// 1. The bytes of a row are a function of (key, token, position, layer) alone, and of its form
//    where the model has two.
// 2. A token is a function of the bytes of all rows before it, in order, and of (seed, branch,
//    index): one wrong, missing or stale row changes it and, through it, every later one.
#ifndef REPRISE_WORKER_ENGINE_TIMED_TOKENS_H_
#define REPRISE_WORKER_ENGINE_TIMED_TOKENS_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/block/kv_format.h"
#include "worker/engine/executor.h"
#include "worker/engine/sampling.h"

namespace reprise::worker {

struct TimedModel {
  uint64_t key = 1;
  int32_t vocab_size = 4096;
  int32_t context_tokens = 8192;
  uint32_t layers = 4;
  uint32_t row_bytes = 64;  // of one token in one layer; a positive multiple of 8
  uint32_t block_tokens = 64;
  bool two_forms = false;  // as models with latent attention have
};

enum class RowForm : uint8_t { kPrompt, kStep };

// INVALID_ARGUMENT names the setting and the value.
Status ValidateTimedModel(const TimedModel& model);
kv::KvFormat TimedFormat(const TimedModel& model);

inline RowForm FormAt(const StepItem& item, int64_t position) {
  return position < item.prompt_end ? RowForm::kPrompt : RowForm::kStep;
}

// The row's bytes; `row` has model.row_bytes of them.
void WriteTimedRow(const TimedModel& model, int32_t token, int64_t position, RowForm form,
                   uint32_t layer, std::span<uint8_t> row);

// Eight independent multiply-xor chains, so that folding is bounded by memory, not by latency.
class TimedFold {
 public:
  explicit TimedFold(const TimedModel& model);
  // Some rows of one layer of one block, contiguous as a segment holds them.
  void Add(std::span<const uint8_t> rows);
  uint64_t Value() const;

 private:
  std::array<uint64_t, 8> lanes_;
};

// The token after rows that fold to `fold`. End-of-sequence and stop ids are barred before
// min_tokens; the other sampling parameters have no effect.
SampledToken TimedSample(const TimedModel& model, uint64_t fold, const SampleInput& input);

// All tokens of one branch, to its end.
std::vector<SampledToken> ExpectedTimedTokens(const TimedModel& model,
                                              std::span<const int32_t> prompt,
                                              const SamplingParams& params, uint32_t branch);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_TIMED_TOKENS_H_
