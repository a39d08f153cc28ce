// A rank's share on the CPU.
#ifndef REPRISE_WORKER_GROUP_HOST_COMPUTE_H_
#define REPRISE_WORKER_GROUP_HOST_COMPUTE_H_

#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "worker/group/share_compute.h"
#include "worker/model/host_context_parallel.h"
#include "worker/model/transformer.h"

namespace reprise::worker {

class HostCompute final : public ShareCompute {
 public:
  explicit HostCompute(std::unique_ptr<Transformer> model) : model_(std::move(model)) {}

  Status AttachPool(uint8_t* base, int32_t pages) override;
  void OnPageGiven(int32_t) override {}
  void SetTick(std::function<void()> tick) override { model_->SetTick(std::move(tick)); }
  Status SetLinks(const GroupLinks& links) override;
  Status Forward(std::span<const StepItem> items, const Executor::LayerDone& layer_done,
                 TimeNs deadline_ns) override {
    return model_->Forward(items, Transformer::Outputs::kWanted, layer_done, deadline_ns);
  }
  Status Settle(TimeNs deadline_ns) override { return model_->Settle(deadline_ns); }
  std::span<const float> logits(int64_t output) const override { return model_->logits(output); }

 private:
  const std::unique_ptr<Transformer> model_;
  std::optional<HostContextParallel> context_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_HOST_COMPUTE_H_
