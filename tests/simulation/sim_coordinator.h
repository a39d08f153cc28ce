// A coordinator process around CoordinatorCore and, in a group, LeaderCore, as coordinator/server
// runs them; and the one key in etcd they contend for. Owned by the cluster; one thread.
#ifndef REPRISE_TESTS_SIMULATION_SIM_COORDINATOR_H_
#define REPRISE_TESTS_SIMULATION_SIM_COORDINATOR_H_

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "coordinator/core/coordinator_core.h"
#include "coordinator/leader/leader_core.h"
#include "tests/simulation/context.h"

namespace reprise::sim {

// The group's key: replaced only by who names its revision. It outlives every process.
class SimEtcd {
 public:
  // `blind`: the planted bug.
  SimEtcd(World& world, bool blind) : pid_(world.Spawn("etcd")), blind_(blind) {}
  Pid pid() const { return pid_; }
  coordinator::StoredLeader Read() const { return stored_; }
  bool Take(const coordinator::TakeKey& take) {
    if (take.revision != stored_.revision && !blind_) return false;
    stored_ = {stored_.revision + 1, take.record};
    return true;
  }

 private:
  const Pid pid_;
  const bool blind_;
  coordinator::StoredLeader stored_;
};

class SimCoordinator {
 public:
  // `etcd`: null when it is the only one.
  SimCoordinator(Context& context, size_t index, uint64_t incarnation, SimEtcd* etcd);

  Pid pid() const { return pid_; }
  const coordinator::CoordinatorCore& core() const { return core_; }
  // May give orders now.
  bool leads() const { return !leader_ || (leader_->MayOrder(Now()) && !core_.standby()); }
  uint64_t elections() const { return leader_ ? leader_->elections() : 0; }

  StatusOr<coordinator::ReportAnswer> OnReport(const coordinator::Report& report);
  using Placed = std::variant<coordinator::Placement, coordinator::Refusal>;
  // UNAVAILABLE where it does not lead.
  StatusOr<Placed> OnPlace(const coordinator::PlaceQuery& query);
  Status OnDrain(const std::string& node, int64_t deadline_ms);
  // A peer says that it leads; the highest epoch known.
  uint64_t OnBeat(const coordinator::LeaderRecord& leader);
  std::vector<coordinator::NodeSummary> Nodes() const { return core_.Nodes(Now()); }

 private:
  TimeNs Now() const { return context_.world.Clock(pid_); }
  void Tick();
  // After every event of the leader core.
  void Settle();
  Placed PlaceCountingOn(const coordinator::PlaceQuery& query);
  Attempt Meant(const RequestKey& shown) const;
  void Do(const coordinator::ReadKey& command);
  void Do(const coordinator::TakeKey& command);
  void Do(const coordinator::BeatPeers& command);

  Context& context_;
  const size_t index_;
  const Pid pid_;
  SimEtcd* const etcd_;
  coordinator::CoordinatorCore core_;
  std::optional<coordinator::LeaderCore> leader_;
  std::pair<bool, uint64_t> told_{false, 0};  // leads, epoch
  std::map<RequestKey, Attempt> shown_;       // of the planted bug
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_SIM_COORDINATOR_H_
