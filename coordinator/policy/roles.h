// Which workers prefill and which decode, from measured load: an elastic split with hysteresis.
// Deterministic; remembers what it ordered and since when a side has been the busier one. Owned by
// the coordinator core; one thread at a time.
//
// Load of a side is its work over what its workers take without delay, 1 when full:
//   prefill: queued prompt tokens over (tokens a second times prefill_target_s),
//   decode: running sequences over the number that decode at full speed.
// One worker is moved to the busier side when that side has been above full and above `ratio` times
// the other for `imbalance_ns` without a break, and the move makes the higher load lower.
//
// Invariants:
// 1. Each side keeps a worker, one worker is moved at a time, and none twice within `rest_ns`.
// 2. Zero load is defined: when nothing was queued or running for `calm_ns`, every worker has the
//    roles it was started with.
// 3. Nothing depends on the order of anything but names.
#ifndef REPRISE_COORDINATOR_POLICY_ROLES_H_
#define REPRISE_COORDINATOR_POLICY_ROLES_H_

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "common/clock.h"
#include "common/ids.h"
#include "coordinator/core/types.h"

namespace reprise::coordinator {

struct RolePolicyOptions {
  double ratio = 2;
  double prefill_target_s = 0.5;
  TimeNs imbalance_ns = 3 * kSecond;
  TimeNs rest_ns = 20 * kSecond;
  TimeNs calm_ns = 10 * kSecond;
};

// A live worker as it reports.
struct WorkerLoad {
  NodeKey key;
  RoleOrder roles;  // that it has now
  int64_t queued_prefill_tokens = 0;
  int32_t running = 0;  // sequences
  double prefill_tokens_per_s = 2000;
  double decode_capacity = 32;  // sequences
};

class RolePolicy {
 public:
  explicit RolePolicy(const RolePolicyOptions& options) : options_(options) {}

  // One look at all live workers, ascending names. Called every second or so.
  void Look(const std::vector<WorkerLoad>& workers, TimeNs now);
  // Absent: as it was started.
  std::optional<RoleOrder> OrderFor(const NodeKey& key) const;
  uint64_t moves() const { return moves_; }

 private:
  enum class Side { kPrefill, kDecode };
  struct Known {
    std::optional<RoleOrder> order;
    std::optional<TimeNs> moved_ns;
  };
  struct Sides {
    double prefill = 0;
    double decode = 0;
    double higher() const { return prefill > decode ? prefill : decode; }
  };

  void Forget(const std::vector<WorkerLoad>& workers);
  bool IsCalm(const std::vector<WorkerLoad>& workers, TimeNs now);
  // What `worker` does now or will as soon as it hears.
  RoleOrder RolesOf(const WorkerLoad& worker) const;
  // With `moved`, if any, on side `to` alone.
  Sides Measure(const std::vector<WorkerLoad>& workers, const WorkerLoad* moved, Side to) const;
  std::optional<Side> Busier(const Sides& sides) const;
  const WorkerLoad* Choose(const std::vector<WorkerLoad>& workers, Side to, TimeNs now) const;
  bool MayMove(const std::vector<WorkerLoad>& workers, const WorkerLoad& worker, Side to,
               TimeNs now) const;

  const RolePolicyOptions options_;
  std::map<NodeKey, Known> known_;
  std::optional<Side> busier_;
  TimeNs busier_since_ns_ = 0;
  std::optional<TimeNs> calm_since_ns_;
  uint64_t moves_ = 0;
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_POLICY_ROLES_H_
