// A rank's share on a device.
#ifndef REPRISE_WORKER_GROUP_DEVICE_COMPUTE_H_
#define REPRISE_WORKER_GROUP_DEVICE_COMPUTE_H_

#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "worker/device/device_model.h"
#include "worker/device/host_pages.h"
#include "worker/group/device_links.h"
#include "worker/group/share_compute.h"
#include "worker/model/context_parallel.h"

namespace reprise::worker {

class DeviceCompute final : public ShareCompute {
 public:
  // `format` is that of the part's pages, `layers` how many the share has.
  DeviceCompute(std::unique_ptr<DeviceModel> model, const kv::KvFormat& format,
                std::unique_ptr<DeviceLinks> links)
      : model_(std::move(model)),
        layers_(format.layers),
        pages_(model_.get(), format),
        links_(std::move(links)) {}

  Status AttachPool(uint8_t* base, int32_t pages) override { return pages_.Attach(base, pages); }
  void OnPageGiven(int32_t page) override { pages_.OnReplaced(page); }
  void SetTick(std::function<void()> tick) override { tick_ = std::move(tick); }
  LinkMaker link_maker() override { return links_->maker(); }
  Status SetLinks(const GroupLinks& links) override;
  Status Forward(std::span<const StepItem> items, const Executor::LayerDone& layer_done,
                 TimeNs deadline_ns) override;
  Status Settle(TimeNs deadline_ns) override { return model_->Settle(deadline_ns); }
  std::span<const float> logits(int64_t output) const override { return model_->logits(output); }

 private:
  const std::unique_ptr<DeviceModel> model_;
  const uint32_t layers_;
  HostPages pages_;
  const std::unique_ptr<DeviceLinks> links_;
  std::optional<ContextParallel> context_;
  std::function<void()> tick_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_DEVICE_COMPUTE_H_
