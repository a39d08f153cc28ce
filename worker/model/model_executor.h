// The CPU model executor: a model folder behind the engine's Executor interface. Checks every step
// before it computes, so a wrong page or position is a named error of one step, never a stray
// write. Owned by the engine, called from its step thread only.
#ifndef REPRISE_WORKER_MODEL_MODEL_EXECUTOR_H_
#define REPRISE_WORKER_MODEL_MODEL_EXECUTOR_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/engine/executor.h"
#include "worker/engine/sampling.h"
#include "worker/model/model_setup.h"
#include "worker/model/transformer.h"

namespace reprise::worker {

class ModelExecutor final : public Executor {
 public:
  // Refuses a bad folder, an unknown dtype or isa, and an isa this machine lacks, by name.
  static StatusOr<std::unique_ptr<ModelExecutor>> Create(const ModelExecutorOptions& options);

  const ExecutorInfo& info() const override { return info_; }
  const ModelConfig& config() const { return model_.config(); }
  // Packed weights, bytes.
  int64_t weight_bytes() const { return model_.weights().bytes(); }

  void SetTick(Tick tick) override { model_.SetTick(std::move(tick)); }
  void AttachPool(uint8_t* base, int32_t pages) override;

  // INVALID_ARGUMENT names the item and what is out of range; nothing is written then.
  Status Run(std::span<const StepItem> items, const LayerDone& layer_done) override;
  SampledToken Sample(size_t item, const SampleInput& input) override;

  // As Run, but every row gives logits, whatever the items want: for offline evaluation.
  Status RunAll(std::span<const StepItem> items);
  // Output `i` of the last Run (of the items that wanted one) or RunAll (of all rows), in order.
  std::span<const float> logits(int64_t i) const { return model_.logits(i); }

 private:
  ModelExecutor(ExecutorInfo info, const ModelConfig& config, ModelWeights weights,
                const TransformerOptions& options);

  const ExecutorInfo info_;
  Transformer model_;
  bool attached_ = false;
  int32_t pages_ = 0;
  std::vector<int64_t> output_of_item_;  // -1: none
  std::vector<float> sample_scratch_;
};

StatusOr<std::unique_ptr<Executor>> MakeModelExecutor(const ModelExecutorOptions& options);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_MODEL_EXECUTOR_H_
