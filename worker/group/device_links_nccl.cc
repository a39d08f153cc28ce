#include <utility>

#include "worker/group/device_links.h"
#include "worker/parallel/nccl/nccl_communicator.h"
#include "worker/parallel/nccl/real_nccl.h"

namespace reprise::worker {
namespace {

class NcclLinks final : public DeviceLinks {
 public:
  explicit NcclLinks(std::unique_ptr<parallel::NcclDevice> device) : device_(std::move(device)) {}
  LinkMaker maker() override {
    return
        [this](parallel::GroupHost& host, const parallel::GroupSpec& spec, TimeNs deadline_ns,
               const std::stop_token& stop) -> StatusOr<std::unique_ptr<parallel::Communicator>> {
          ASSIGN_OR_RETURN(auto control, host.JoinLink(spec, deadline_ns, stop));
          return parallel::MakeNcclCommunicator(device_.get(), std::move(control), deadline_ns);
        };
  }
  int processors() const override { return parallel::kNcclBlocksMax; }

 private:
  const std::unique_ptr<parallel::NcclDevice> device_;
};

}  // namespace

StatusOr<std::unique_ptr<DeviceLinks>> OpenDeviceLinks() {
  ASSIGN_OR_RETURN(auto device, parallel::OpenNcclDevice(0));
  return std::make_unique<NcclLinks>(std::move(device));
}

}  // namespace reprise::worker
