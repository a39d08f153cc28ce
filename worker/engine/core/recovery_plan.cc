#include "worker/engine/core/recovery_plan.h"

#include <algorithm>
#include <limits>

namespace reprise::worker {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

double Quotient(int64_t amount, double rate) {
  if (amount <= 0) return 0;
  return rate > 0 ? static_cast<double>(amount) / rate : kNever;
}

}  // namespace

RecoveryPlan PlanRecovery(const RecoveryInput& input) {
  double restore_s = 0;  // the slowest link's
  double wait_s = 0;
  double alone_s = 0;  // of the fetch after a wait
  for (const RecoveryLink& link : input.links) {
    const double latency = SecondsFromNs(link.latency_ns);
    const double rest = latency + Quotient(link.bytes - link.coming_bytes, link.bytes_per_s);
    restore_s = std::max(restore_s,
                         latency + Quotient(link.bytes + link.contending_bytes, link.bytes_per_s));
    wait_s = std::max(wait_s, Quotient(link.backlog_bytes, link.bytes_per_s) + rest);
    alone_s = std::max(alone_s, rest);
  }
  const double ahead = Quotient(input.rows_ahead, input.prefill_rows_per_s);
  const double behind = Quotient(input.rows_behind, input.prefill_rows_per_s);
  const auto until_replayed = [&](double fetched) {
    return input.rows_behind > 0 ? std::max(fetched, ahead) + behind : fetched;
  };
  RecoveryPlan plan;
  plan.restore_s = until_replayed(restore_s);
  plan.wait_s = until_replayed(wait_s);
  plan.recompute_s = ahead + Quotient(input.rows_restorable, input.prefill_rows_per_s) + behind;

  const double fetch_limit = SecondsFromNs(input.fetch_timeout_ns);
  const double left = input.time_left_ns == INT64_MAX ? kNever : SecondsFromNs(input.time_left_ns);
  // Nothing in time: then the soonest.
  const double limit =
      std::min({plan.restore_s, plan.recompute_s, plan.wait_s}) > left ? kNever : left;
  double best = kNever;
  const auto consider = [&](Recovery choice, double seconds, bool fits) {
    if (!fits || seconds > limit || seconds >= best) return;
    best = seconds;
    plan.choice = choice;
  };
  consider(Recovery::kRestore, plan.restore_s, restore_s <= fetch_limit);
  consider(Recovery::kRecompute, plan.recompute_s, true);
  consider(Recovery::kWait, plan.wait_s, alone_s <= fetch_limit);
  best += input.step_s;
  consider(Recovery::kRestore, plan.restore_s, restore_s <= fetch_limit);
  return plan;
}

}  // namespace reprise::worker
