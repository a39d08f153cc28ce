// The coordinator as a state machine: reports, placements and the passing of time go in, answers
// come out. It joins membership, prefix index, request table and placement, and is what both the
// server and the simulator run.
//
// Threads: one at a time; the owner locks. Deterministic: no clock, randomness, logging or I/O.
//
// Invariants:
// 1. All of it is soft: a fresh core learns everything but the past from reports.
// 2. Workers and stores of another KV format than the cluster's are never placed on.
// 3. An attempt is granted only together with a placement, or with the name of the worker that goes
//    on with the request; a refusal changes no request.
// 4. A core that does not lead takes reports, so that it is warm, and gives no orders. Whether it
//    may answer Place and Drain is its owner's to decide.
#ifndef REPRISE_COORDINATOR_CORE_COORDINATOR_CORE_H_
#define REPRISE_COORDINATOR_CORE_COORDINATOR_CORE_H_

#include <array>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/prefix_index.h"
#include "coordinator/core/refusal.h"
#include "coordinator/core/request_table.h"
#include "coordinator/core/reservations.h"
#include "coordinator/core/types.h"
#include "coordinator/core/verdicts.h"
#include "coordinator/policy/placement.h"
#include "coordinator/policy/roles.h"

namespace reprise::coordinator {

struct CoreOptions {
  uint64_t incarnation = 1;
  int32_t report_interval_ms = 200;
  // While no node has a request; 0: the same. With nothing to lose, rarer reports cost nothing.
  int32_t idle_report_interval_ms = 0;
  bool standby = false;        // until Lead
  bool elastic_roles = false;  // workers move between prefill and decode
  MembershipOptions membership;
  PrefixIndexOptions index;
  RequestTableOptions requests;
  ReservationOptions reservations;
  PlacementOptions placement;
  RolePolicyOptions roles;
};

class CoordinatorCore {
 public:
  CoordinatorCore(const CoreOptions& options, TimeNs now);

  StatusOr<ReportAnswer> OnReport(const Report& report, TimeNs now);
  std::variant<Placement, Refusal> OnPlace(const PlaceQuery& query, TimeNs now);
  void OnTick(TimeNs now);
  // Orders a node to hand its work over. How many requests it reported last; NOT_FOUND for a name
  // that is not alive.
  StatusOr<int32_t> OnDrain(const std::string& name, int64_t deadline_ms);

  // This coordinator leads from now on under `epoch`: what it grants is above all that lower epochs
  // granted. Or another does, or nobody. A call about an epoch lower than one before changes
  // nothing.
  void Lead(uint64_t epoch, TimeNs now);
  void Follow(uint64_t epoch);
  bool standby() const { return standby_; }

  // What the workers serve. UNAVAILABLE (NO_WORKERS) while there is none, NOT_FOUND
  // (MODEL_MISMATCH) for another name; an empty name asks for whatever is served.
  StatusOr<ModelInfo> Model(const std::string& name) const;

  std::vector<NodeSummary> Nodes(TimeNs now) const;  // ascending names
  size_t CountNodes(Role role, NodeState state) const;
  // What happened to nodes since the last call.
  std::vector<MembershipChange> TakeChanges();

  struct Stats {
    uint64_t placements = 0;
    uint64_t prefill_legs = 0;
    uint64_t attaches = 0;  // to requests that went on where they ran
    uint64_t verdicts = 0;  // issued
    uint64_t role_moves = 0;
    std::array<uint64_t, std::size(kRefusalCodes)> refusals{};  // by RefusalCode
    uint64_t stale_refused = 0;                                 // reports of replaced incarnations
    TimeNs compensated_ns = 0;
    size_t requests = 0;
    PrefixIndex::Stats index;
    uint64_t refused() const;
  };
  Stats stats() const;

 private:
  std::variant<Placement, Refusal> Place(const PlaceQuery& query, TimeNs now);
  std::optional<NodeRef> LiveRunner(const PlaceQuery& query) const;
  void TellCluster(const Report& report, const Node& node, ReportAnswer& answer) const;
  void AbsorbChanges(TimeNs now);
  void Judge(const MembershipChange& change, TimeNs now);
  void ListStores();
  void LookAtRoles(TimeNs now);
  int32_t ReportIntervalMs() const;
  void ElectModel();
  bool IsServed(const NodeInfo& node) const;
  ClusterView View(const PlaceQuery& query) const;

  const CoreOptions options_;
  Membership membership_;
  PrefixIndex index_;
  RequestTable requests_;
  Reservations reservations_;
  std::optional<ModelInfo> model_;  // of the format most workers have
  Verdicts verdicts_;
  VersionedList<StoreInfo> stores_;
  RolePolicy roles_;
  TimeNs roles_looked_ns_ = 0;
  bool active_ = false;  // some node has a request, as of the last tick or report
  uint64_t leader_epoch_ = 0;
  bool standby_ = false;
  std::vector<MembershipChange> changes_;
  Stats counters_;
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_CORE_COORDINATOR_CORE_H_
