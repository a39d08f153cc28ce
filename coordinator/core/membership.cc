#include "coordinator/core/membership.h"

#include <algorithm>
#include <set>
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
  // A suspect's second fault is news too: only the first may have been plain silence.
  if (node.state != state || (state == NodeState::kSuspect && node.reason != reason)) {
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
  node.joined_ns = now;
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
  Forgive(now);
  ASSIGN_OR_RETURN(Node * node, Admit(report, now));
  if (report.sequence <= node->sequence) return node->slot;
  node->sequence = report.sequence;
  node->heard_ns = now;
  if (!report.load.busy || report.load.progress != node->load.progress) node->progressed_ns = now;
  node->load = report.load;
  node->info = report.node;
  node->leaving = report.leaving;
  node->requests = std::max(static_cast<int32_t>(report.requests.size()),
                            report.load.running + report.load.waiting);
  Settle(*node, now);
  return node->slot;
}

void Membership::AllowSilence(const std::string& name, TimeNs longer_ns) {
  const auto it = nodes_.find(name);
  if (it != nodes_.end()) it->second.allowed_ns = longer_ns;
}

bool Membership::IsProbing(const Node& node) const {
  return node.info.role != Role::kGateway && node.load.probe_age_ms >= 0 &&
         NsFromMs(node.load.probe_age_ms) < options_.unreachable_after_ns;
}

const char* Membership::Fault(const Node& node, TimeNs now) const {
  if (node.load.busy && now - node.progressed_ns >= options_.stuck_after_ns) return "stuck";
  const bool cut_off = NsFromMs(node.load.probe_age_ms) >= options_.unreachable_after_ns;
  return cut_off || node.accused ? "unreachable" : "";
}

// The state of a node that is heard.
void Membership::Settle(Node& node, TimeNs now) {
  if (node.leaving) return SetState(node, NodeState::kLeaving, "leaving");
  if (node.draining) return SetState(node, NodeState::kLeaving, "draining");
  const char* fault = Fault(node, now);
  SetState(node, *fault == 0 ? NodeState::kLive : NodeState::kSuspect, fault);
}

void Membership::Judge(Node& node, TimeNs now) {
  const TimeNs silent_ns = now - node.heard_ns;
  if (silent_ns >= options_.dead_after_ns + node.allowed_ns) {
    node.dead_ns = now;
    SetState(node, NodeState::kDead, "silent");
  } else if (silent_ns < options_.suspect_after_ns) {
    Settle(node, now);
  } else if (node.state == NodeState::kLive) {
    SetState(node, NodeState::kSuspect, "silent");
  }
}

StatusOr<int32_t> Membership::Drain(const std::string& name, int64_t deadline_ms) {
  const auto it = nodes_.find(name);
  if (it == nodes_.end() || it->second.state == NodeState::kDead) {
    return absl::NotFoundError(absl::StrCat("no living node is named ", name));
  }
  Node& node = it->second;
  node.draining = true;
  node.drain_deadline_ms = deadline_ms;
  SetState(node, NodeState::kLeaving, "draining");
  return node.requests;
}

// Each living node that probes is one voice about every other. One that names itself has reached
// nobody lately: it is cut off unless the most others say so too, for then it is those they probe.
void Membership::CountAccusations(TimeNs now) {
  int voices = 0;
  int alone = 0;
  std::map<std::string, int> named;
  std::set<std::string> name_themselves;
  for (const auto& [name, node] : nodes_) {
    if (node.state == NodeState::kDead || !IsProbing(node)) continue;
    ++voices;
    const std::set<std::string> others(node.load.unreachable.begin(), node.load.unreachable.end());
    for (const std::string& other : others) {
      if (other != name) ++named[other];
    }
    if (others.contains(name)) {
      name_themselves.insert(name);
      ++alone;
    }
  }
  const bool any = !named.empty() || alone > 0;
  if (!any && !accusations_) return;
  accusations_ = any;
  for (auto& [name, node] : nodes_) {
    const auto it = named.find(name);
    const int against = it == named.end() ? 0 : it->second;
    const int peers = voices - (node.state != NodeState::kDead && IsProbing(node) ? 1 : 0);
    const bool cut_off = name_themselves.contains(name) && 2 * (alone - 1) < peers;
    node.accused = ((against >= 2 && 2 * against > peers) || cut_off) &&
                   now - node.joined_ns >= options_.unreachable_after_ns;
  }
}

void Membership::Forgive(TimeNs now) {
  if (!last_tick_) return;
  const TimeNs late_ns = now - *last_tick_ - options_.tick_interval_ns;
  if (late_ns <= options_.late_tick_ns) return;
  compensated_ns_ += late_ns;
  *last_tick_ += late_ns;
  for (auto& [name, node] : nodes_) {
    for (TimeNs* since : {&node.heard_ns, &node.progressed_ns, &node.joined_ns}) {
      *since = std::min(now, *since + late_ns);
    }
  }
}

void Membership::Tick(TimeNs now) {
  Forgive(now);
  last_tick_ = now;
  CountAccusations(now);
  for (auto it = nodes_.begin(); it != nodes_.end();) {
    Node& node = it->second;
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
