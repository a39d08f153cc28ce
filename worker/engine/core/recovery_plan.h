// How a resumed request gets its rows back: moved from whoever holds them, computed again, or moved
// once the link is free. Pure; any thread.
//
//   restore   = latency + (backlog + bytes) / link + rows_behind / prefill
//   wait      = backlog / link + latency + bytes / link + rows_behind / prefill
//   recompute = (rows_ahead + rows_restorable + rows_behind) / prefill
//
// in seconds, where `link` is the measured rate in bytes per second, `backlog` the bytes of
// transfers already on it, `prefill` the measured rate in rows per second and `rows_behind` what no
// replica holds. The link is fair, so that a transfer begun now ends no earlier than the backlog
// and itself together; what distinguishes `wait` is that its own clock starts when the link is
// free: a restore whose transfers would pass the fetch timeout is not feasible, a wait may be. What
// would end after the request's deadline is refused as long as another choice would not. The
// smallest feasible prediction is taken, on a tie the first in the order restore, recompute, wait.
#ifndef REPRISE_WORKER_ENGINE_CORE_RECOVERY_PLAN_H_
#define REPRISE_WORKER_ENGINE_CORE_RECOVERY_PLAN_H_

#include <cstdint>

#include "common/clock.h"

namespace reprise::worker {

enum class Recovery : uint8_t { kRestore, kRecompute, kWait };

struct RecoveryInput {
  int64_t rows_restorable = 0;  // held elsewhere and not here
  int64_t rows_behind = 0;      // held nowhere
  int64_t bytes = 0;            // to move for the restorable rows
  double link_bytes_per_s = 0;
  int64_t backlog_bytes = 0;  // of transfers to this worker under way
  TimeNs latency_ns = 0;
  double prefill_rows_per_s = 0;
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
