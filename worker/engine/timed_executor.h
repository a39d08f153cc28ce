// The timed engine: an Executor that writes verifiable KV rows, takes a set time for each step and
// draws each token from the rows its pages really hold, for cluster behaviour at any scale.
// Owned by the engine, called from its step thread only.
#ifndef REPRISE_WORKER_ENGINE_TIMED_EXECUTOR_H_
#define REPRISE_WORKER_ENGINE_TIMED_EXECUTOR_H_

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "common/status.h"
#include "worker/engine/executor.h"
#include "worker/engine/sampling.h"
#include "worker/engine/timed_tokens.h"

namespace reprise::worker {

struct TimedOptions {
  TimedModel model;
  std::string name = "timed";
  double prefill_ms_per_token = 0;  // of items with more than one row
  double step_ms = 0;               // every step
  // Work between two steps that the device does not wait for, as in engines that queue a step
  // before the last one ends: a step started within it begins when the last one was due to end.
  double hidden_ms = 0;
  int32_t chunk_tokens_max = 512;
};

// When the device begins a step handed to it at `now_ns`, the last one having been due to end at
// `due_ns` (0: there was none).
int64_t TimedStepBegin(int64_t now_ns, int64_t due_ns, double hidden_ms);

class TimedExecutor : public Executor {
 public:
  static StatusOr<std::unique_ptr<TimedExecutor>> Create(const TimedOptions& options);

  const ExecutorInfo& info() const override { return info_; }
  void AttachPool(uint8_t* base, int32_t pages) override;
  Status Run(std::span<const StepItem> items, const LayerDone& layer_done) override;
  SampledToken Sample(size_t item, const SampleInput& input) override;

 private:
  explicit TimedExecutor(const TimedOptions& options);
  Status CheckItem(const StepItem& item) const;
  uint8_t* Segment(int32_t page, uint32_t layer) const;
  void WriteLayer(const StepItem& item, uint32_t layer) const;
  uint64_t FoldOf(const StepItem& item) const;
  // Until `until_ns` of RealClock().
  void WaitUntil(int64_t until_ns);

  const TimedOptions options_;
  ExecutorInfo info_;
  uint8_t* base_ = nullptr;
  int32_t pages_ = 0;
  int64_t due_ns_ = 0;           // when the last step was to end
  std::vector<uint64_t> folds_;  // of the last Run's items that wanted output, else 0

  Mutex mu_;
  CondVar timer_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_TIMED_EXECUTOR_H_
