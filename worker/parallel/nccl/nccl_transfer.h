// One fused group of messages at a time over an NcclComm: host memory goes through buffers on the
// device, device memory is used in place. Owned by the rank's NcclLink, on its thread.
//
// Invariants:
// 1. Host memory of a receive is written only after the whole group has ended well. (A copy to
//    pageable memory would also wait for the stream, and so for other ranks.)
// 2. A buffer is used again only after a group that ended well; after one that did not, it is left
//    alone until the destructor, which runs when the communicator is quiet.
#ifndef REPRISE_WORKER_PARALLEL_NCCL_NCCL_TRANSFER_H_
#define REPRISE_WORKER_PARALLEL_NCCL_NCCL_TRANSFER_H_

#include <vector>

#include "worker/parallel/nccl/device_room.h"
#include "worker/parallel/nccl/nccl_api.h"
#include "worker/parallel/peer_link.h"

namespace reprise::parallel {

class NcclTransfer {
 public:
  NcclTransfer(NcclDevice* device, NcclComm* comm) : device_(device), comm_(comm), room_(device) {}

  bool busy() const { return phase_ != Phase::kNone; }
  // When not busy. Messages without bytes are left out.
  Status Begin(std::span<const Outgoing> out, std::span<const Incoming> in);
  // Moves on without waiting; an error when the communicator failed.
  Status Poll();

 private:
  enum class Phase : uint8_t { kNone, kMoving, kLanding };  // landing: to host memory
  struct Landing {
    const uint8_t* from = nullptr;
    std::span<uint8_t> to;
  };
  NcclDevice* const device_;
  NcclComm* const comm_;
  Phase phase_ = Phase::kNone;
  DeviceRoom room_;  // for messages from and to host memory
  std::vector<Landing> landings_;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_NCCL_NCCL_TRANSFER_H_
