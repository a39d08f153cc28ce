#include "worker/group/device_compute.h"

namespace reprise::worker {

Status DeviceCompute::SetLinks(const GroupLinks& links) {
  model_->SetRanks({.tensor = links.tensor.get(), .pipeline = links.pipeline.get()});
  return absl::OkStatus();
}

Status DeviceCompute::Forward(std::span<const StepItem> items,
                              const Executor::LayerDone& layer_done, TimeNs deadline_ns) {
  RETURN_IF_ERROR(pages_.GiveReplaced(items));
  uint32_t taken = 0;
  const auto take_below = [&](uint32_t layer) -> Status {
    for (; taken < layer; ++taken) {
      RETURN_IF_ERROR(pages_.TakeLayer(taken));
      layer_done(taken);
      if (tick_) tick_();
    }
    return absl::OkStatus();
  };
  // A layer's rows are taken while the device has the next one.
  RETURN_IF_ERROR(model_->Forward({.items = items}, take_below, deadline_ns));
  RETURN_IF_ERROR(take_below(layers_));
  return model_->AwaitOutputs();
}

}  // namespace reprise::worker
