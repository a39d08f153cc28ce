#include "worker/parallel/nccl/nccl_communicator.h"

#include <chrono>
#include <future>
#include <thread>
#include <utility>

#include "worker/parallel/linked_communicator.h"
#include "worker/parallel/nccl/device_room.h"
#include "worker/parallel/nccl/nccl_link.h"

namespace reprise::parallel {
namespace {

// Where operands may be on the device.
class NcclMemory final : public LinkMemory {
 public:
  explicit NcclMemory(NcclDevice* device) : device_(device), terms_(device) {}
  Status Copy(std::span<const uint8_t> from, std::span<uint8_t> to) override {
    if (from.empty() || from.data() == to.data()) return absl::OkStatus();
    if (!device_->OnDevice(from.data()) && !device_->OnDevice(to.data())) {
      return LinkMemory::Copy(from, to);
    }
    return device_->Copy(from.data(), to.data(), from.size());
  }
  StatusOr<float*> Terms(size_t n, const float* beside) override {
    if (!device_->OnDevice(beside)) return LinkMemory::Terms(n, beside);
    ASSIGN_OR_RETURN(uint8_t* const terms, terms_.Get(n * sizeof(float)));
    return reinterpret_cast<float*>(terms);
  }
  Status Sum(std::span<float* const> terms, size_t n) override {
    return device_->OnDevice(terms[0]) ? device_->TreeSum(terms, n) : LinkMemory::Sum(terms, n);
  }

 private:
  NcclDevice* const device_;
  DeviceRoom terms_;
};

// Rank 0's, for all.
StatusOr<NcclUniqueId> ShareUniqueId(NcclDevice& device, PeerLink& control, TimeNs deadline_ns) {
  NcclUniqueId id{};
  Batch batch;
  if (control.rank() == 0) {
    ASSIGN_OR_RETURN(id, device.MakeUniqueId());
    for (int peer = 1; peer < control.size(); ++peer) batch.out.push_back({peer, id});
  } else {
    batch.in.push_back({0, id});
  }
  // Once it has failed, nobody writes to `id` any more.
  RETURN_IF_ERROR(control.Wait(control.Start(std::move(batch)), deadline_ns));
  return id;
}

Status AwaitConnected(NcclComm& comm, PeerLink& control, TimeNs deadline_ns) {
  for (Backoff backoff;;) {
    RETURN_IF_ERROR(control.status());
    ASSIGN_OR_RETURN(const bool settled, comm.Settled());
    if (settled) return absl::OkStatus();
    if (RealClock().NowNs() >= deadline_ns) {
      return absl::DeadlineExceededError(absl::StrCat(
          "rank ", control.rank(), ": NCCL has not connected all ", control.size(), " ranks"));
    }
    std::this_thread::sleep_for(std::chrono::nanoseconds(backoff.Next()));
  }
}

// Returns when it has ended, which needs no other rank.
void End(NcclComm& comm, int rank, const NcclOptions& options) {
  std::promise<void> promise;
  auto ended = promise.get_future();
  const Thread aborting("nccl-abort", [&] {
    comm.Abort();
    comm.Quiesce().IgnoreError();
    promise.set_value();
  });
  const std::chrono::nanoseconds patience(options.quiet_patience_ns);
  if (ended.wait_for(patience) != std::future_status::ready) ReportStuck(options, rank);
}

StatusOr<std::unique_ptr<NcclComm>> Connect(NcclDevice& device, PeerLink& control,
                                            TimeNs deadline_ns, const NcclOptions& options) {
  ASSIGN_OR_RETURN(const NcclUniqueId id, ShareUniqueId(device, control, deadline_ns));
  ASSIGN_OR_RETURN(auto comm, device.Join(id, control.rank(), control.size()));
  const Status connected = AwaitConnected(*comm, control, deadline_ns);
  if (connected.ok()) return comm;
  control.Fail(connected);  // the others hear before this rank ends its part
  End(*comm, control.rank(), options);
  return connected;
}

}  // namespace

StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(NcclDevice* device,
                                                             std::unique_ptr<PeerLink> control,
                                                             TimeNs deadline_ns,
                                                             const NcclOptions& options) {
  auto comm = Connect(*device, *control, deadline_ns, options);
  if (!comm.ok()) {
    control->Fail(comm.status());
    return control->Wait(kNoBatch, INT64_MAX);  // the first cause
  }
  return std::make_unique<LinkedCommunicator>(
      std::make_unique<NcclLink>(device, std::move(control), std::move(*comm), options),
      std::make_unique<NcclMemory>(device));
}

}  // namespace reprise::parallel
