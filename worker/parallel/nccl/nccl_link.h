// A rank's link over NCCL: one thread agrees with the other ranks on what may begin, has NCCL move
// it, and watches the communicator, the control link and its own failures meanwhile. Owned by the
// LinkedCommunicator; threads as in peer_link.h.
//
// Invariants:
// 1. NcclComm, CallAgreement and NcclTransfer are used by the link's thread alone.
// 2. The first failure is the control link's status; the thread then aborts NCCL, waits until its
//    stream and the control link are quiet, and only then says so to those who wait.
// 3. Nothing of a failed communicator is used again: its thread has ended.
#ifndef REPRISE_WORKER_PARALLEL_NCCL_NCCL_LINK_H_
#define REPRISE_WORKER_PARALLEL_NCCL_NCCL_LINK_H_

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "common/mutex.h"
#include "common/thread.h"
#include "worker/parallel/nccl/call_agreement.h"
#include "worker/parallel/nccl/nccl_communicator.h"
#include "worker/parallel/nccl/nccl_transfer.h"

namespace reprise::parallel {

// Waits of 2 us to 1 ms, an eighth of what was waited before: neither a busy core nor a late end.
class Backoff {
 public:
  void Reset() { waited_ns_ = 0; }
  TimeNs Next() {
    const TimeNs wait_ns = std::clamp(waited_ns_ / 8, 2 * kMicrosecond, kMillisecond);
    waited_ns_ += wait_ns;
    return wait_ns;
  }

 private:
  TimeNs waited_ns_ = 0;
};

// Calls on_stuck, or ends the process.
void ReportStuck(const NcclOptions& options, int rank);

class NcclLink final : public PeerLink {
 public:
  // The communicator is settled.
  NcclLink(NcclDevice* device, std::unique_ptr<PeerLink> control, std::unique_ptr<NcclComm> comm,
           const NcclOptions& options);
  ~NcclLink() override;

  int rank() const override { return control_->rank(); }
  int size() const override { return control_->size(); }
  Status status() const override { return control_->status(); }
  BatchId Start(Batch batch) override;
  bool Done(BatchId batch) const override;
  Status Wait(BatchId batch, TimeNs deadline_ns) override;
  void Fail(const Status& cause) override;

 private:
  // What begins and ends as one: a step of a collective, or one message.
  struct Item {
    BatchId batch = kNoBatch;
    CallTag tag;
    PostKind kind = PostKind::kCollective;
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
  };
  struct Due {
    size_t items = 0;  // that have not ended
    CallTag tag;
    uint64_t bytes = 0;  // sent and received
  };

  Status WaitedInVain(const Due& due) const;
  void Poke() REQUIRES(mu_);
  void AwaitQuiet() REQUIRES(mu_);  // reports what is stuck without the lock

  // The thread's.
  void Run();
  StatusOr<bool> Step();  // whether something moved
  Status Post(Item item);
  Status Leave();
  StatusOr<bool> Advance();  // ditto
  void Finish();
  void Retire();

  NcclDevice* const device_;
  const NcclOptions options_;
  const std::unique_ptr<PeerLink> control_;
  BatchId next_batch_ = kNoBatch + 1;  // the caller's

  // mu_ before the control link's locks.
  mutable Mutex mu_;
  CondVar changed_;  // for the caller
  CondVar poke_;     // for the thread
  std::map<BatchId, Due> unfinished_ GUARDED_BY(mu_);
  std::deque<Item> posted_ GUARDED_BY(mu_);
  bool poked_ GUARDED_BY(mu_) = false;
  bool leaving_ GUARDED_BY(mu_) = false;
  bool ended_ GUARDED_BY(mu_) = false;  // the thread; all is quiet

  // The thread's.
  const std::unique_ptr<NcclComm> comm_;
  NcclTransfer transfer_;
  CallAgreement agreement_;
  uint64_t next_number_ = 1;
  std::map<uint64_t, Item> waiting_;  // for agreement, by number
  std::deque<Item> ready_;
  std::vector<BatchId> moving_;  // of the items under way, one each
  bool left_ = false;            // has said bye
  TimeNs leave_by_ns_ = INT64_MAX;

  Thread thread_;  // last: ends first
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_NCCL_NCCL_LINK_H_
