#include "worker/engine/core/recovery_plan.h"

#include <algorithm>
#include <limits>

namespace reprise::worker {
namespace {

double Quotient(int64_t amount, double rate) {
  if (amount <= 0) return 0;
  return rate > 0 ? static_cast<double>(amount) / rate : std::numeric_limits<double>::infinity();
}

}  // namespace

RecoveryPlan PlanRecovery(const RecoveryInput& input) {
  const double latency = SecondsFromNs(input.latency_ns);
  const double backlog = Quotient(input.backlog_bytes, input.link_bytes_per_s);
  const double own = Quotient(input.bytes, input.link_bytes_per_s);
  const double behind = Quotient(input.rows_behind, input.prefill_rows_per_s);
  RecoveryPlan plan;
  plan.restore_s = latency + backlog + own + behind;
  plan.wait_s = plan.restore_s;
  plan.recompute_s = Quotient(input.rows_ahead + input.rows_restorable + input.rows_behind,
                              input.prefill_rows_per_s);

  const double fetch_limit = SecondsFromNs(input.fetch_timeout_ns);
  const bool restore_fits = latency + backlog + own <= fetch_limit;
  const bool wait_fits = latency + own <= fetch_limit;
  const double left = input.time_left_ns == INT64_MAX ? std::numeric_limits<double>::infinity()
                                                      : SecondsFromNs(input.time_left_ns);
  // Nothing in time: then the soonest.
  const double limit = std::min({plan.restore_s, plan.recompute_s, plan.wait_s}) > left
                           ? std::numeric_limits<double>::infinity()
                           : left;
  double best = std::numeric_limits<double>::infinity();
  const auto consider = [&](Recovery choice, double seconds, bool fits) {
    if (!fits || seconds > limit || seconds >= best) return;
    best = seconds;
    plan.choice = choice;
  };
  consider(Recovery::kRestore, plan.restore_s, restore_fits);
  consider(Recovery::kRecompute, plan.recompute_s, true);
  consider(Recovery::kWait, plan.wait_s, wait_fits);
  return plan;
}

}  // namespace reprise::worker
