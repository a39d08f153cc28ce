// Communicators for operands in a device's memory: NCCL's for cards, in a build that has them; the
// emulated device's memory is the host's, and so are its communicators. Any thread.
#ifndef REPRISE_WORKER_GROUP_DEVICE_LINKS_H_
#define REPRISE_WORKER_GROUP_DEVICE_LINKS_H_

#include <memory>

#include "common/status.h"
#include "worker/group/group_links.h"

namespace reprise::worker {

class DeviceLinks {
 public:
  virtual ~DeviceLinks() = default;
  // Outlived by this; so are the communicators it makes.
  virtual LinkMaker maker() = 0;
  // Of the device, that move bytes while kernels run.
  virtual int processors() const = 0;
};

// UNAVAILABLE without the library or a card, by name.
StatusOr<std::unique_ptr<DeviceLinks>> OpenDeviceLinks();

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_DEVICE_LINKS_H_
