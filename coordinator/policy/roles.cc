#include "coordinator/policy/roles.h"

#include <algorithm>
#include <limits>
#include <set>
#include <tuple>

namespace reprise::coordinator {
namespace {

// Work that nobody takes is beyond any load.
double Ratio(double work, double capacity) {
  if (capacity > 0) return work / capacity;
  return work > 0 ? std::numeric_limits<double>::max() : 0;
}

}  // namespace

std::optional<RoleOrder> RolePolicy::OrderFor(const NodeKey& key) const {
  const auto it = known_.find(key);
  if (it == known_.end()) return std::nullopt;
  return it->second.order;
}

RoleOrder RolePolicy::RolesOf(const WorkerLoad& worker) const {
  return OrderFor(worker.key).value_or(worker.roles);
}

void RolePolicy::Forget(const std::vector<WorkerLoad>& workers) {
  std::set<NodeKey> live;
  for (const WorkerLoad& worker : workers) live.insert(worker.key);
  std::erase_if(known_, [&](const auto& entry) { return !live.contains(entry.first); });
}

bool RolePolicy::IsCalm(const std::vector<WorkerLoad>& workers, TimeNs now) {
  for (const WorkerLoad& worker : workers) {
    if (worker.queued_prefill_tokens > 0 || worker.running > 0) {
      calm_since_ns_ = std::nullopt;
      return false;
    }
  }
  if (!calm_since_ns_) calm_since_ns_ = now;
  return now - *calm_since_ns_ >= options_.calm_ns;
}

RolePolicy::Sides RolePolicy::Measure(const std::vector<WorkerLoad>& workers,
                                      const WorkerLoad* moved, Side to) const {
  double tokens = 0, running = 0, prefill_capacity = 0, decode_capacity = 0;
  for (const WorkerLoad& worker : workers) {
    RoleOrder roles = RolesOf(worker);
    if (&worker == moved) roles = {.prefill = to == Side::kPrefill, .decode = to == Side::kDecode};
    tokens += static_cast<double>(worker.queued_prefill_tokens);
    running += worker.running;
    if (roles.prefill) {
      prefill_capacity += worker.prefill_tokens_per_s * options_.prefill_target_s;
    }
    if (roles.decode) decode_capacity += worker.decode_capacity;
  }
  return {Ratio(tokens, prefill_capacity), Ratio(running, decode_capacity)};
}

std::optional<RolePolicy::Side> RolePolicy::Busier(const Sides& sides) const {
  if (sides.prefill > 1 && sides.prefill > options_.ratio * sides.decode) return Side::kPrefill;
  if (sides.decode > 1 && sides.decode > options_.ratio * sides.prefill) return Side::kDecode;
  return std::nullopt;
}

bool RolePolicy::MayMove(const std::vector<WorkerLoad>& workers, const WorkerLoad& worker, Side to,
                         TimeNs now) const {
  const RoleOrder roles = RolesOf(worker);
  // What it would give up, it must have, and another must keep.
  if (!(to == Side::kPrefill ? roles.decode : roles.prefill)) return false;
  const auto known = known_.find(worker.key);
  if (known != known_.end() && known->second.moved_ns &&
      now - *known->second.moved_ns < options_.rest_ns) {
    return false;
  }
  return std::any_of(workers.begin(), workers.end(), [&](const WorkerLoad& other) {
    const RoleOrder kept = RolesOf(other);
    return &other != &worker && (to == Side::kPrefill ? kept.decode : kept.prefill);
  });
}

// A worker that brings the busier side something new goes before one that has both roles, then the
// one that leaves the least behind, then the lower name.
const WorkerLoad* RolePolicy::Choose(const std::vector<WorkerLoad>& workers, Side to,
                                     TimeNs now) const {
  const double before = Measure(workers, nullptr, to).higher();
  const WorkerLoad* best = nullptr;
  const auto rank = [&](const WorkerLoad& worker) {
    const RoleOrder roles = RolesOf(worker);
    const int64_t left = to == Side::kPrefill ? worker.running : worker.queued_prefill_tokens;
    return std::tuple(roles.prefill && roles.decode, left, worker.key.name);
  };
  for (const WorkerLoad& worker : workers) {
    if (!MayMove(workers, worker, to, now)) continue;
    if (Measure(workers, &worker, to).higher() >= before) continue;
    if (best == nullptr || rank(worker) < rank(*best)) best = &worker;
  }
  return best;
}

void RolePolicy::Look(const std::vector<WorkerLoad>& workers, TimeNs now) {
  Forget(workers);
  if (IsCalm(workers, now)) {
    for (auto& [key, known] : known_) known.order = std::nullopt;
    busier_ = std::nullopt;
    return;
  }
  const std::optional<Side> busier = Busier(Measure(workers, nullptr, Side::kPrefill));
  if (busier != busier_) {
    busier_ = busier;
    busier_since_ns_ = now;
  }
  if (!busier_ || now - busier_since_ns_ < options_.imbalance_ns) return;
  const WorkerLoad* worker = Choose(workers, *busier_, now);
  if (worker == nullptr) return;
  known_[worker->key] = {
      RoleOrder{.prefill = *busier_ == Side::kPrefill, .decode = *busier_ == Side::kDecode}, now};
  ++moves_;
  busier_since_ns_ = now;  // the next has to wait to see what this one brought
}

}  // namespace reprise::coordinator
