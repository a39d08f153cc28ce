// NCCL without cards, for tests: devices and communicators of one process, over host memory. What
// is queued runs on a thread of its own, one thing after the other a communicator, and a message
// moves only while both sides have it at the front, as NCCL's do: what would hang there hangs here.
// Owned by the test; outlives its devices and communicators. Any thread.
//
// What the real one makes undefined or would block on is counted: Violations() must stay empty.
#ifndef REPRISE_WORKER_PARALLEL_NCCL_FAKE_NCCL_H_
#define REPRISE_WORKER_PARALLEL_NCCL_FAKE_NCCL_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "common/thread.h"
#include "worker/parallel/nccl/nccl_api.h"

namespace reprise::parallel {

class FakeNccl {
 public:
  FakeNccl();
  ~FakeNccl();
  // Of a process that this test numbers.
  std::unique_ptr<NcclDevice> MakeDevice(int process);

  // When the process has begun that many more messages it dies: nothing of it moves any more, and
  // nobody's NCCL notices. `died` is told, without a lock held.
  void KillAfter(int process, int messages, std::function<void()> died);
  // The process's communicators report this from now on.
  void Fail(int process, const Status& error);
  // While held, no message moves and no abort returns, respectively.
  void HoldMessages(bool hold);
  void HoldAborts(bool hold);
  // Returns when the process has a group under way.
  void AwaitExchange(int process);

  std::vector<std::string> Violations();
  // Device memory that was not freed.
  size_t Allocations();

 private:
  friend class FakeComm;
  friend class FakeDevice;
  struct Work {
    std::vector<std::pair<NcclSend, bool>> sends;  // whether it has moved
    std::vector<std::pair<NcclReceive, bool>> receives;
    const void* copy_from = nullptr;
    void* copy_to = nullptr;
    size_t copy_bytes = 0;
    bool Ended() const;
  };
  struct Comm {
    int process = 0;
    NcclUniqueId id{};
    int rank = 0;
    int size = 0;
    std::deque<Work> stream;
    bool launching = true;  // the last call, at first that of joining
    bool aborted = false;
  };

  void Run();
  // When all ranks have come.
  void Connect(const NcclUniqueId& id, int size) REQUIRES(mu_);
  bool RunFront(Comm& comm) REQUIRES(mu_);
  bool MoveMessages(Comm& comm) REQUIRES(mu_);
  Comm* Find(const NcclUniqueId& id, int rank) REQUIRES(mu_);
  void Queue(Comm& comm, Work work) REQUIRES(mu_);
  void CheckUsable(const Comm& comm, const char* call) REQUIRES(mu_);
  // What an aborted kernel and the copies behind it still do.
  void LastWrites(Comm& comm) REQUIRES(mu_);
  void Changed() REQUIRES(mu_);

  Mutex mu_;
  CondVar changed_;
  bool dirty_ GUARDED_BY(mu_) = false;
  bool stopping_ GUARDED_BY(mu_) = false;
  bool hold_messages_ GUARDED_BY(mu_) = false;
  bool hold_aborts_ GUARDED_BY(mu_) = false;
  uint8_t next_id_ GUARDED_BY(mu_) = 1;
  std::vector<Comm*> comms_ GUARDED_BY(mu_);
  std::set<int> dead_ GUARDED_BY(mu_);
  std::map<int, std::pair<int, std::function<void()>>> kill_after_ GUARDED_BY(mu_);
  std::map<int, Status> errors_ GUARDED_BY(mu_);
  std::map<const uint8_t*, std::pair<std::unique_ptr<uint8_t[]>, size_t>> blocks_ GUARDED_BY(mu_);
  std::vector<std::string> violations_ GUARDED_BY(mu_);
  Thread thread_;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_NCCL_FAKE_NCCL_H_
