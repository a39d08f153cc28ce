// The back end for tests: ranks are threads of one process, messages are copies. Owned by the
// test; the group outlives its communicators. Kill and MakeCommunicator from any thread.
//
// Every copy is made under the group's one lock while the group lives, so nothing is touched after
// a failure; the first failure is every rank's.
#ifndef REPRISE_WORKER_PARALLEL_IN_PROCESS_H_
#define REPRISE_WORKER_PARALLEL_IN_PROCESS_H_

#include <deque>
#include <map>
#include <memory>
#include <utility>

#include "common/mutex.h"
#include "worker/parallel/communicator.h"
#include "worker/parallel/peer_link.h"

namespace reprise::parallel {

class InProcessGroup {
 public:
  explicit InProcessGroup(int size) : size_(size) {}
  // Once for each rank.
  std::unique_ptr<Communicator> MakeCommunicator(int rank);
  // The same, for a back end that is built on it.
  std::unique_ptr<PeerLink> MakeLink(int rank);
  // As if its process had died.
  void Kill(int rank) { KillAfter(rank, 0); }
  // As soon as it has sent that many more messages.
  void KillAfter(int rank, int messages);

 private:
  friend class InProcessLink;
  struct Sent {
    CallTag tag;
    std::span<const uint8_t> data;
    BatchId batch;
  };
  struct Awaited {
    CallTag tag;
    std::span<uint8_t> data;
    BatchId batch;
  };
  // From one rank to another; at most one of the two is not empty.
  struct Pair {
    std::deque<Sent> sent;
    std::deque<Awaited> awaited;
  };

  BatchId Start(int rank, const Batch& batch);
  bool Done(BatchId batch) const;
  Status Wait(int rank, BatchId batch, TimeNs deadline_ns);
  void Fail(const Status& cause);
  Status status() const;
  // The rank makes no more calls: whoever needs it fails.
  void Leave(int rank);
  void FailLocked(const Status& cause) REQUIRES(mu_);
  void Match(int from, int to) REQUIRES(mu_);
  void FailIfLeft(int from, int to) REQUIRES(mu_);
  void Finish(BatchId batch) REQUIRES(mu_);
  void CountSent(int rank) REQUIRES(mu_);

  const int size_;
  mutable Mutex mu_;
  CondVar changed_;
  Status status_ GUARDED_BY(mu_);
  BatchId next_batch_ GUARDED_BY(mu_) = 1;
  std::map<BatchId, size_t> unfinished_ GUARDED_BY(mu_);  // messages left; absent: done
  std::map<std::pair<int, int>, Pair> pairs_ GUARDED_BY(mu_);
  std::map<int, bool> left_ GUARDED_BY(mu_);
  std::map<int, int> kill_after_ GUARDED_BY(mu_);  // messages until a rank dies
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_IN_PROCESS_H_
