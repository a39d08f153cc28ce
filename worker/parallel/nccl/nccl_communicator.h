// The communicator over NCCL: the collectives of LinkedCommunicator, their bytes moved by NCCL from
// and to device memory or host memory, in any mixture, their sums made by our own tree where the
// operands lie. Owned and called as communicator.h says; the device outlives it.
//
// Operands in device memory must be ready when a call is made (the caller has synchronised what it
// queued on them) and are when it returns.
//
// Rank 0 orders the group's calls (call_order.h), so it is the last to leave: with it the group
// ends. After a failure make another over the control link of the next epoch.
#ifndef REPRISE_WORKER_PARALLEL_NCCL_NCCL_COMMUNICATOR_H_
#define REPRISE_WORKER_PARALLEL_NCCL_NCCL_COMMUNICATOR_H_

#include <functional>
#include <memory>
#include <string>

#include "worker/parallel/communicator.h"
#include "worker/parallel/nccl/nccl_api.h"
#include "worker/parallel/peer_link.h"

namespace reprise::parallel {

struct NcclOptions {
  // What an abort may take before `on_stuck`: memory that NCCL does not let go of can neither be
  // returned nor freed.
  TimeNs quiet_patience_ns = 10 * kSecond;
  // What rank 0 waits for the others to leave before it.
  TimeNs leave_patience_ns = kSecond;
  // Any thread. Empty: ends the process.
  std::function<void(const std::string&)> on_stuck = {};
};

// Returns when NCCL has connected all ranks. `control` is the group's link in this epoch, over
// which ranks agree, are told of failures and notice deaths; its failures are this one's and the
// other way round. DEADLINE_EXCEEDED, UNAVAILABLE or what NCCL says; then the group has failed.
StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(NcclDevice* device,
                                                             std::unique_ptr<PeerLink> control,
                                                             TimeNs deadline_ns,
                                                             const NcclOptions& options = {});

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_NCCL_NCCL_COMMUNICATOR_H_
