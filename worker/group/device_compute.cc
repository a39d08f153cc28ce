#include "worker/group/device_compute.h"

#include "worker/device/loaded_device.h"

namespace reprise::worker {

namespace {

// What the ways of attending together cost on cards that NVLink connects: a copy of what NCCL's
// blocks move in a second, half of what attention reaches. No card has measured it.
constexpr parallel::Machine kCards = {.latency_s = 30e-6,
                                      .bytes_per_s = 150e9,
                                      .macs_per_s = 150e12,
                                      .gather_bytes_max = kContextGatherBytes,
                                      .query_rows_max = 1024};

}  // namespace

Status DeviceCompute::SetLinks(const GroupLinks& links) {
  // What the model has of the epoch before goes.
  model_->SetRanks({});
  pages_.SetContext(nullptr);
  context_.reset();
  DeviceRanks ranks{.tensor = links.tensor.get(), .pipeline = links.pipeline.get()};
  if (links.context != nullptr) {
    ASSIGN_OR_RETURN(const parallel::Stripes stripes,
                     parallel::Stripes::Make(static_cast<int>(links.split.context),
                                             static_cast<int64_t>(links.split.stripe_leaves)));
    ASSIGN_OR_RETURN(auto compute, DeviceContextCompute::Make(model_->stream()));
    ranks.compute = compute.get();
    ranks.busy_processors = links_->processors();
    context_.emplace(*links.context, std::move(compute), stripes,
                     parallel::ContextRules{.machine = kCards, .way = {}, .merge = {}});
    ranks.context = &*context_;
    pages_.SetContext(ranks.context);
  }
  model_->SetRanks(ranks);
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
