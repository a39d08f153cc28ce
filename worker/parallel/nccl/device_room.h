// Device memory that only grows. What it has outgrown is freed at the end, since freeing waits for
// all that runs on the device. One owner, one thread; the owner sees to it that nothing uses it
// when it goes.
#ifndef REPRISE_WORKER_PARALLEL_NCCL_DEVICE_ROOM_H_
#define REPRISE_WORKER_PARALLEL_NCCL_DEVICE_ROOM_H_

#include <algorithm>
#include <vector>

#include "worker/parallel/nccl/nccl_api.h"

namespace reprise::parallel {

class DeviceRoom {
 public:
  explicit DeviceRoom(NcclDevice* device) : device_(device) {}
  ~DeviceRoom() {
    for (void* memory : all_) device_->Free(memory);
  }
  DeviceRoom(const DeviceRoom&) = delete;
  DeviceRoom& operator=(const DeviceRoom&) = delete;

  // At least that large, until the next call; what was in it is lost.
  StatusOr<uint8_t*> Get(size_t bytes) {
    if (bytes > bytes_) {
      const size_t grown = std::max({bytes, 2 * bytes_, size_t{1} << 20});
      ASSIGN_OR_RETURN(void* const memory, device_->Allocate(grown));
      all_.push_back(memory);
      bytes_ = grown;
    }
    return all_.empty() ? nullptr : static_cast<uint8_t*>(all_.back());
  }

 private:
  NcclDevice* const device_;
  std::vector<void*> all_;
  size_t bytes_ = 0;  // of the last
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_NCCL_DEVICE_ROOM_H_
