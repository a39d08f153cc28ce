// A model folder run outside any server, over a private pool: logits at every position, greedy
// texts and negative log-likelihoods for tests, golden comparisons and benchmarks. One thread at a
// time per object.
#ifndef REPRISE_WORKER_MODEL_OFFLINE_H_
#define REPRISE_WORKER_MODEL_OFFLINE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/status.h"
#include "worker/model/model_executor.h"

namespace reprise::worker {

class OfflineModel {
 public:
  // The pool holds one sequence of the model's context, or of `context_tokens_max` when that is
  // smaller and not zero.
  static StatusOr<std::unique_ptr<OfflineModel>> Open(const ModelExecutorOptions& options,
                                                      int64_t context_tokens_max = 0);

  ModelExecutor& executor() { return *executor_; }
  int64_t vocab() const { return executor_->info().vocab_size; }
  // Block table of the one sequence, covering the whole pool; the pages' bytes.
  std::span<const int32_t> pages() const { return pages_; }
  std::span<const uint8_t> pool() const { return pool_; }

  // Logits after each token, [tokens, vocab], the tokens run from position 0 in chunks of
  // `chunk_tokens` (0: all at once), those from position `prompt_end` on in step form.
  StatusOr<std::vector<float>> ForwardAll(std::span<const int32_t> tokens, int64_t chunk_tokens = 0,
                                          int64_t prompt_end = INT64_MAX);

  // The `count` most probable tokens in turn after `prompt`, end tokens not heeded.
  StatusOr<std::vector<int32_t>> Greedy(std::span<const int32_t> prompt, int64_t count);

  // -sum of log p(tokens[i] | tokens[0 .. i)) for i >= 1, in nats, the softmax in double.
  StatusOr<double> NegativeLogLikelihood(std::span<const int32_t> tokens);

  // Runs the tokens from position 0, for what that leaves in the pool.
  Status Read(std::span<const int32_t> tokens);

 private:
  using RowDone = std::function<void(size_t position, std::span<const float> logits)>;

  OfflineModel() = default;
  // In chunks, so that no more logits are in memory at a time than those of `chunk_tokens`.
  Status ForEachRow(std::span<const int32_t> tokens, size_t chunk_tokens, int64_t prompt_end,
                    const RowDone& row_done);

  std::unique_ptr<ModelExecutor> executor_;
  std::vector<uint8_t> pool_;
  std::vector<int32_t> pages_;
};

// log softmax(logits)[id] in double.
double LogSoftmax(std::span<const float> logits, int32_t id);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_OFFLINE_H_
