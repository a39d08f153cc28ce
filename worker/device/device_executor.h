// A model on a device behind the engine's Executor interface. The engine's pool in host memory has
// every row, as soon as its layer is computed; the device has the same pages, number for number. So
// streaming, replication, swapping and restoring know nothing of the device, and a device that
// fails takes nothing with it but what was not yet on the host. Owned by the engine, called from
// its step thread only.
//
// Invariants:
// 1. A page that somebody else wrote is copied to the device before a step reads it.
// 2. After a layer is done its rows are in the host's pages.
// 3. An error of the device is UNAVAILABLE and final: the process is of no use any more.
#ifndef REPRISE_WORKER_DEVICE_DEVICE_EXECUTOR_H_
#define REPRISE_WORKER_DEVICE_DEVICE_EXECUTOR_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/device/device_model.h"
#include "worker/device/host_pages.h"
#include "worker/device/loaded_device.h"
#include "worker/engine/executor.h"
#include "worker/engine/sampling.h"

namespace reprise::worker {

class DeviceExecutor final : public Executor {
 public:
  // FAILED_PRECONDITION without a device, INVALID_ARGUMENT and UNIMPLEMENTED for what it cannot do,
  // by name, RESOURCE_EXHAUSTED when weights, pool and scratch do not fit, saying what would.
  static StatusOr<std::unique_ptr<DeviceExecutor>> Create(const DeviceOptions& options);

  const ExecutorInfo& info() const override { return info_; }
  const DeviceKernels& kernels() const { return kernels_; }
  bool repeated() const { return model_->repeated(); }
  int64_t shared_rows() const { return model_->shared_rows(); }
  // Tokens of the last step that the device drew.
  int64_t drawn() const { return drawn_; }

  void SetTick(Tick tick) override;
  void AttachPool(uint8_t* base, int32_t pages) override;
  void OnPagesReplaced(std::span<const int32_t> pages) override;
  Status Run(std::span<const StepItem> items, const LayerDone& layer_done) override;
  std::optional<uint32_t> SegmentPart(int32_t page, uint32_t layer) override;
  SampledToken Sample(size_t item, const SampleInput& input) override;
  // On the device, where the rule of docs/gpu.md allows: then no logits cross the bus.
  Status RunAndSample(std::span<const StepItem> items, std::span<const StepSample> samples,
                      const LayerDone& layer_done, std::vector<SampledToken>* tokens) override;

  // As Run, but every row gives logits.
  Status RunAll(std::span<const StepItem> items);
  std::span<const float> logits(int64_t output) const { return model_->logits(output); }

 private:
  DeviceExecutor(ExecutorInfo info, const DeviceKernels& kernels,
                 std::unique_ptr<DeviceModel> model);
  Status Step(const StepWishes& wishes, const LayerDone& layer_done);
  SampledToken SampleOnHost(std::span<const float> logits, const SampleInput& input);

  const ExecutorInfo info_;
  const DeviceKernels kernels_;
  const std::unique_ptr<DeviceModel> model_;
  HostPages pages_;
  Status attached_ = absl::FailedPreconditionError("no KV pool is attached");
  Tick tick_;
  std::vector<int64_t> output_of_item_;  // -1: none
  std::vector<float> sample_scratch_;
  int64_t drawn_ = 0;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_DEVICE_EXECUTOR_H_
