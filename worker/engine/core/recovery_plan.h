// How a resumed request gets its rows back: moved from whoever holds them in competition with what
// is on the links, computed again, or moved once the links are free. Pure; any thread.
//
// For every link i that the rows would cross, with the transfers j on it now:
//
//   restore_i = latency_i + (bytes_i + sum over j of min(left_j, bytes_i)) / rate_i
//   wait_i    = latency_i + (sum over j of left_j) / rate_i + (bytes_i - coming_i) / rate_i
//   fetched   = max over i          the links work side by side
//   restore, wait = fetched, and with rows that nobody holds: max(fetched, ahead / prefill) +
//                   behind / prefill
//   recompute = (ahead + restorable + behind) / prefill
//
// in seconds. The link is fair, so a transfer begun now gets its share beside each other one until
// the shorter of both has crossed: a restore never ends later than a wait of the same bytes. A wait
// is what pays when `coming_i` of the bytes are on the way for another request already (they are
// found in the cache then), or when in the crowd the fetch would pass its timeout, whose clock
// starts with the fetch. What would end after the request's deadline is refused as long as another
// choice would not. The smallest feasible prediction is taken, on a tie the first in the order
// restore, recompute, wait. Tokens come out at the ends of steps, so a restore that ends within a
// step of the best is as soon, and leaves the batch to the other requests.
#ifndef REPRISE_WORKER_ENGINE_CORE_RECOVERY_PLAN_H_
#define REPRISE_WORKER_ENGINE_CORE_RECOVERY_PLAN_H_

#include <cstdint>
#include <vector>

#include "common/clock.h"

namespace reprise::worker {

enum class Recovery : uint8_t { kRestore, kRecompute, kWait };

// One source of rows, seen from this worker.
struct RecoveryLink {
  int64_t bytes = 0;             // to move for this request
  int64_t coming_bytes = 0;      // of these, on the way for others already
  int64_t backlog_bytes = 0;     // left of all transfers under way
  int64_t contending_bytes = 0;  // of these, what crosses before `bytes` begun now have
  double bytes_per_s = 0;
  TimeNs latency_ns = 0;
};

struct RecoveryInput {
  int64_t rows_restorable = 0;  // held elsewhere and not here
  int64_t rows_behind = 0;      // held nowhere
  std::vector<RecoveryLink> links;
  double prefill_rows_per_s = 0;
  double step_s = 0;       // of a step without prompt rows; 0: not known
  int64_t rows_ahead = 0;  // to compute before this request's
  TimeNs fetch_timeout_ns = 0;
  TimeNs time_left_ns = INT64_MAX;  // to the request's deadline
};

struct RecoveryPlan {
  Recovery choice = Recovery::kRecompute;
  double restore_s = 0;
  double recompute_s = 0;
  double wait_s = 0;
};

RecoveryPlan PlanRecovery(const RecoveryInput& input);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_RECOVERY_PLAN_H_
