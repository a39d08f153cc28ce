#include "worker/group/device_links.h"

namespace reprise::worker {
namespace {

class EmulatedLinks final : public DeviceLinks {
 public:
  LinkMaker maker() override { return nullptr; }
  int processors() const override { return 0; }
};

}  // namespace

StatusOr<std::unique_ptr<DeviceLinks>> OpenDeviceLinks() {
  return std::make_unique<EmulatedLinks>();
}

}  // namespace reprise::worker
