#include "coordinator/core/membership.h"

#include <algorithm>
#include <utility>

namespace reprise::coordinator {

const Node* Membership::Find(const std::string& name) const {
  const auto it = nodes_.find(name);
  return it == nodes_.end() ? nullptr : &it->second;
}

std::vector<MembershipChange> Membership::TakeChanges() { return std::exchange(changes_, {}); }

bool Membership::IsPast(const NodeKey& key) const {
  const auto it = past_.find(key.name);
  return it != past_.end() &&
         std::find(it->second.begin(), it->second.end(), key.incarnation) != it->second.end();
}

void Membership::Remember(const NodeKey& key) {
  if (IsPast(key)) return;
  const auto [it, fresh] = past_.try_emplace(key.name);
  it->second.push_back(key.incarnation);
  if (it->second.size() > limits::kIncarnationsRemembered) it->second.pop_front();
  if (!fresh) return;
  past_order_.push_back(key.name);
  // Names come from outside, so their number is bounded too.
  if (past_order_.size() > 2 * options_.nodes_max) {
    past_.erase(past_order_.front());
    past_order_.pop_front();
  }
}

void Membership::SetState(Node& node, NodeState state, std::string reason) {
  if (node.state != state) {
    changes_.push_back({.kind = MembershipChange::Kind::kState,
                        .key = node.info.ref.key,
                        .role = node.info.role,
                        .slot = node.slot,
                        .from = node.state,
                        .to = state,
                        .reason = reason});
  }
  node.state = state;
  node.reason = std::move(reason);
}

StatusOr<Node*> Membership::Admit(const Report& report, TimeNs now) {
  const NodeKey& key = report.node.ref.key;
  const auto it = nodes_.find(key.name);
  if (it != nodes_.end() && it->second.info.ref.key.incarnation == key.incarnation) {
    if (it->second.info.role != report.node.role) {
      return absl::InvalidArgumentError(
          absl::StrCat("node ", key.name, " reported as ", RoleName(it->second.info.role),
                       " before and as ", RoleName(report.node.role), " now"));
    }
    return &it->second;
  }
  // Incarnations have no order, so a late report may have let an older one replace the newer. Once
  // the replacement is silent, whoever reports is the one that lives.
  const bool vacant = it == nodes_.end() || it->second.state == NodeState::kDead;
  if (IsPast(key) && !vacant) {
    ++stale_refused_;
    return absl::AbortedError(absl::StrCat("STALE_INCARNATION: incarnation ", key.incarnation,
                                           " of node ", key.name, " has been replaced"));
  }
  Node node;
  node.heard_ns = now;
  node.progressed_ns = now;
  if (it != nodes_.end()) {
    const Node& old = it->second;
    changes_.push_back({.kind = MembershipChange::Kind::kReplaced,
                        .key = old.info.ref.key,
                        .role = old.info.role,
                        .slot = old.slot,
                        .from = old.state,
                        .to = NodeState::kDead,
                        .reason = absl::StrCat("replaced by ", key.incarnation)});
    Remember(old.info.ref.key);
    node.slot = old.slot;
  } else if (nodes_.size() >= options_.nodes_max) {
    return absl::ResourceExhaustedError(absl::StrCat("the cluster has ", nodes_.size(),
                                                     " nodes, the limit is ", options_.nodes_max));
  } else if (!free_slots_.empty()) {
    node.slot = free_slots_.back();
    free_slots_.pop_back();
  } else {
    node.slot = slots_++;
  }
  changes_.push_back({.kind = MembershipChange::Kind::kJoined,
                      .key = key,
                      .role = report.node.role,
                      .slot = node.slot});
  node.info = report.node;
  Node& stored = nodes_[key.name];
  stored = std::move(node);
  return &stored;
}

StatusOr<Slot> Membership::OnReport(const Report& report, TimeNs now) {
  ASSIGN_OR_RETURN(Node * node, Admit(report, now));
  if (report.sequence <= node->sequence) return node->slot;
  node->sequence = report.sequence;
  node->heard_ns = now;
  if (!report.load.busy || report.load.progress != node->load.progress) node->progressed_ns = now;
  node->load = report.load;
  node->info = report.node;
  if (report.leaving) {
    SetState(*node, NodeState::kLeaving, "leaving");
  } else if (now - node->progressed_ns < options_.stuck_after_ns) {
    SetState(*node, NodeState::kLive, "");
  } else {
    SetState(*node, NodeState::kSuspect, "stuck");
  }
  return node->slot;
}

void Membership::Judge(Node& node, TimeNs now) {
  const TimeNs silent_ns = now - node.heard_ns;
  if (silent_ns >= options_.dead_after_ns) {
    node.dead_ns = now;
    SetState(node, NodeState::kDead, "silent");
  } else if (node.state == NodeState::kLive && silent_ns >= options_.suspect_after_ns) {
    SetState(node, NodeState::kSuspect, "silent");
  } else if (node.state == NodeState::kLive && node.load.busy &&
             now - node.progressed_ns >= options_.stuck_after_ns) {
    SetState(node, NodeState::kSuspect, "stuck");
  }
}

void Membership::Tick(TimeNs now) {
  TimeNs late_ns = 0;
  if (last_tick_) late_ns = now - *last_tick_ - options_.tick_interval_ns;
  if (late_ns <= options_.late_tick_ns) late_ns = 0;
  compensated_ns_ += late_ns;
  last_tick_ = now;
  for (auto it = nodes_.begin(); it != nodes_.end();) {
    Node& node = it->second;
    node.heard_ns = std::min(now, node.heard_ns + late_ns);
    node.progressed_ns = std::min(now, node.progressed_ns + late_ns);
    if (node.state != NodeState::kDead) {
      Judge(node, now);
    } else if (now - node.dead_ns >= options_.forget_after_ns) {
      changes_.push_back({.kind = MembershipChange::Kind::kForgotten,
                          .key = node.info.ref.key,
                          .role = node.info.role,
                          .slot = node.slot,
                          .from = NodeState::kDead,
                          .to = NodeState::kDead,
                          .reason = "dead for long"});
      free_slots_.push_back(node.slot);
      it = nodes_.erase(it);
      continue;
    }
    ++it;
  }
}

}  // namespace reprise::coordinator
