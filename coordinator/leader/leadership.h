// A coordinator's part in its group: runs LeaderCore against the clock, etcd and its peers' doors.
// Owned by the role's main.
//
// Threads: one of its own ticks and talks to etcd; OnBeat, OnEpoch and CheckOrders may come from
// any thread. `changed` is called from all of these, outside the lock and so perhaps out of order:
// whoever is called keeps the highest epoch.
//
// Invariants:
// 1. No call to etcd or a peer is made under the lock.
// 2. After Stop no call is under way and nothing is called back.
#ifndef REPRISE_COORDINATOR_LEADER_LEADERSHIP_H_
#define REPRISE_COORDINATOR_LEADER_LEADERSHIP_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/gate.h"
#include "common/mutex.h"
#include "common/role.h"
#include "common/thread.h"
#include "coordinator/leader/etcd_client.h"
#include "coordinator/leader/leader_core.h"
#include "reprise/v1/cluster.grpc.pb.h"

namespace reprise::coordinator {

struct LeadershipOptions {
  LeaderOptions core;
  EtcdOptions etcd;
  std::vector<std::string> peers;  // host:port of the others; its own address is left out
};

class Leadership {
 public:
  struct View {
    bool leads = false;
    uint64_t epoch = 0;                  // the highest known
    std::optional<LeaderRecord> leader;  // under that epoch, once known
    uint64_t elections = 0;
    uint64_t steps_down = 0;
    uint64_t failed = 0;  // tries that etcd did not answer
  };
  using Changed = std::function<void(const View&)>;

  Leadership(LeadershipOptions options, const Clock& clock, Changed changed);
  ~Leadership();

  void Start();
  void Stop();

  // A peer says that it leads. The highest epoch known here.
  uint64_t OnBeat(const LeaderRecord& leader);
  // A node has seen orders of `epoch`.
  void OnEpoch(uint64_t epoch);
  // OK while this coordinator may give orders; else UNAVAILABLE, naming who leads.
  Status CheckOrders() const;
  View view() const;

 private:
  struct Peer;
  void Loop();
  void Execute(std::vector<LeaderCommand> commands);
  StatusOr<StoredLeader> Read();
  void Beat(const LeaderRecord& record);
  // Gives `event` to the core, says what changed and does what it asks for, the latter only on its
  // own thread.
  template <typename Event>
  std::vector<LeaderCommand> Feed(const Event& event);
  View ViewLocked() const REQUIRES(mu_);

  const LeadershipOptions options_;
  const Clock& clock_;
  const Changed changed_;
  EtcdClient etcd_;  // of the thread
  std::vector<std::unique_ptr<Peer>> peers_;
  Gate gate_;  // entered by every beat
  StopSignal stop_;

  mutable Mutex mu_;
  LeaderCore core_ GUARDED_BY(mu_);
  std::pair<bool, uint64_t> told_ GUARDED_BY(mu_){false, 0};  // leads, epoch
  Thread thread_;
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_LEADER_LEADERSHIP_H_
