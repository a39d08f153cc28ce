// Who is in the cluster and in what state, judged from reports and the time that passes without
// them. Pure: time is passed in, changes are collected for the caller. Owned by the coordinator
// core; one thread at a time.
//
// Invariants:
// 1. A name has one current incarnation. A report of a new one replaces it at once; a report of a
//    replaced one is refused while the current one lives, as long as it is among the last
//    kIncarnationsRemembered of its name.
// 2. States move live <-> suspect -> dead -> forgotten, by Tick; leaving -> dead. A dead node of
//    the current incarnation that reports again is live again, as a node that lost its index.
// 3. A judge that was not running cannot know who was silent: when Tick comes late, every deadline
//    moves by the lateness, before the first report or tick after it is judged.
// 4. A report whose sequence does not rise proves nothing and changes nothing here.
// 5. A node is suspect for what it says of itself (stuck, its own probe too old) or when most of
//    its probing peers, and at least two, cannot reach it. A peer whose own probe is too old
//    is no witness.
#ifndef REPRISE_COORDINATOR_CORE_MEMBERSHIP_H_
#define REPRISE_COORDINATOR_CORE_MEMBERSHIP_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/limits.h"
#include "common/status.h"
#include "coordinator/core/types.h"

namespace reprise::coordinator {

struct MembershipOptions {
  TimeNs tick_interval_ns = 50 * kMillisecond;  // how often the owner promises to call Tick
  TimeNs late_tick_ns = 50 * kMillisecond;      // lateness below this is not compensated
  TimeNs suspect_after_ns = 600 * kMillisecond;
  TimeNs dead_after_ns = 1000 * kMillisecond;
  TimeNs forget_after_ns = 60 * kSecond;
  // Busy without progress; workers bound one layer to 250 ms.
  TimeNs stuck_after_ns = 1500 * kMillisecond;
  // Age of a node's own probe at which it is cut off. Accusations by peers count that long after
  // it joined: what they knew before was another incarnation.
  TimeNs unreachable_after_ns = 1500 * kMillisecond;
  size_t nodes_max = limits::kNodesMax;
};

struct Node {
  NodeInfo info;
  Load load;
  NodeState state = NodeState::kLive;
  std::string reason;  // of a state other than live
  Slot slot = 0;
  uint64_t sequence = 0;
  TimeNs heard_ns = 0;
  TimeNs allowed_ns = 0;     // by which its silence may last longer before it is dead
  TimeNs progressed_ns = 0;  // last moment it was idle or its progress moved
  TimeNs joined_ns = 0;
  TimeNs dead_ns = 0;
  bool leaving = false;   // by its own word
  bool draining = false;  // by order
  int64_t drain_deadline_ms = 0;
  int32_t requests = 0;  // named in its last report, or counted in its load
  bool accused = false;  // by most of its probing peers
};

// One step of one incarnation's life, for logs and for whoever keeps things per node.
struct MembershipChange {
  enum class Kind { kJoined, kState, kReplaced, kForgotten };
  Kind kind = Kind::kState;
  NodeKey key;  // of kReplaced: the old incarnation
  Role role = Role::kGateway;
  Slot slot = 0;
  NodeState from = NodeState::kLive;
  NodeState to = NodeState::kLive;
  std::string reason;
};

class Membership {
 public:
  explicit Membership(const MembershipOptions& options) : options_(options) {}

  // The reporting node's slot. ABORTED (STALE_INCARNATION) for a replaced incarnation,
  // RESOURCE_EXHAUSTED beyond nodes_max, INVALID_ARGUMENT when an incarnation changes its role.
  StatusOr<Slot> OnReport(const Report& report, TimeNs now);
  // A living node was asked to report that much more rarely than usual from now on.
  void AllowSilence(const std::string& name, TimeNs longer_ns);
  void Tick(TimeNs now);
  // Takes a node out of placement until its incarnation ends. What it had to do at its last report;
  // NOT_FOUND for a name nobody living has.
  StatusOr<int32_t> Drain(const std::string& name, int64_t deadline_ms);

  // Ascending names; without forgotten ones.
  const std::map<std::string, Node>& nodes() const { return nodes_; }
  const Node* Find(const std::string& name) const;

  std::vector<MembershipChange> TakeChanges();
  uint64_t stale_refused() const { return stale_refused_; }
  // Time by which deadlines were moved because the judge itself was late, in all.
  TimeNs compensated_ns() const { return compensated_ns_; }

 private:
  StatusOr<Node*> Admit(const Report& report, TimeNs now);
  void SetState(Node& node, NodeState state, std::string reason);
  // Moves every deadline by the time the judge itself did not run.
  void Forgive(TimeNs now);
  // Why a node that is heard gets no work; empty when it may.
  const char* Fault(const Node& node, TimeNs now) const;
  bool IsProbing(const Node& node) const;
  void CountAccusations(TimeNs now);
  void Settle(Node& node, TimeNs now);
  void Judge(Node& node, TimeNs now);
  void Remember(const NodeKey& key);
  bool IsPast(const NodeKey& key) const;

  const MembershipOptions options_;
  std::map<std::string, Node> nodes_;
  std::map<std::string, std::deque<uint64_t>> past_;  // replaced or forgotten incarnations
  std::deque<std::string> past_order_;                // names of past_, oldest first
  std::vector<Slot> free_slots_;                      // released, last one first
  Slot slots_ = 0;                                    // ever used
  std::optional<TimeNs> last_tick_;  // moved along when lateness was forgiven between ticks
  bool accusations_ = false;         // some node was accused at the last tick
  std::vector<MembershipChange> changes_;
  uint64_t stale_refused_ = 0;
  TimeNs compensated_ns_ = 0;
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_CORE_MEMBERSHIP_H_
