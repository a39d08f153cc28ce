#include "worker/engine/core/recovery_plan.h"

#include <gtest/gtest.h>

namespace reprise::worker {
namespace {

// 1,000 rows of 100 KB over 1 GB/s: 0.1 s; computed at 4,000 rows a second: 0.25 s.
RecoveryInput Input() {
  RecoveryInput input;
  input.rows_restorable = 1'000;
  input.rows_behind = 40;
  input.bytes = 100'000'000;
  input.link_bytes_per_s = 1e9;
  input.latency_ns = kMillisecond;
  input.prefill_rows_per_s = 4'000;
  input.fetch_timeout_ns = 10 * kSecond;
  return input;
}

TEST(RecoveryPlan, TimesFollowTheFormula) {
  RecoveryInput input = Input();
  input.backlog_bytes = 50'000'000;
  input.rows_ahead = 400;
  const RecoveryPlan plan = PlanRecovery(input);
  EXPECT_DOUBLE_EQ(plan.restore_s, 0.001 + 0.05 + 0.1 + 0.01);
  EXPECT_DOUBLE_EQ(plan.wait_s, plan.restore_s);
  EXPECT_DOUBLE_EQ(plan.recompute_s, 1'440 / 4'000.0);
}

TEST(RecoveryPlan, TheFasterOneIsChosen) {
  EXPECT_EQ(PlanRecovery(Input()).choice, Recovery::kRestore);
  RecoveryInput slow_link = Input();
  slow_link.link_bytes_per_s = 2e8;
  EXPECT_EQ(PlanRecovery(slow_link).choice, Recovery::kRecompute);
  RecoveryInput backlog = Input();
  backlog.backlog_bytes = 200'000'000;
  EXPECT_EQ(PlanRecovery(backlog).choice, Recovery::kRecompute);
  backlog.rows_ahead = 1'000;  // the processor has a queue too
  EXPECT_EQ(PlanRecovery(backlog).choice, Recovery::kRestore);
}

TEST(RecoveryPlan, ATransferThatWouldTimeOutInTheCrowdWaitsForTheLink) {
  RecoveryInput input = Input();
  input.prefill_rows_per_s = 10;
  input.backlog_bytes = 3'000'000'000;
  input.fetch_timeout_ns = 2 * kSecond;
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kWait);
  input.bytes = 3'000'000'000;  // not even alone
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kRecompute);
}

TEST(RecoveryPlan, WhatEndsAfterTheDeadlineIsRefusedUnlessEverythingDoes) {
  RecoveryInput input = Input();
  input.fetch_timeout_ns = kMillisecond;  // no transfer can end in time
  input.time_left_ns = 200 * kMillisecond;
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kRecompute);
  input = Input();
  input.time_left_ns = kMillisecond;
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kRestore);
}

TEST(RecoveryPlan, ADeadLinkIsNotCountedOn) {
  RecoveryInput input = Input();
  input.link_bytes_per_s = 0;
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kRecompute);
}

}  // namespace
}  // namespace reprise::worker
