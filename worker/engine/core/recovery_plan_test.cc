#include "worker/engine/core/recovery_plan.h"

#include <gtest/gtest.h>

namespace reprise::worker {
namespace {

// 1,000 rows of 100 KB over 1 GB/s: 0.1 s; computed at 4,000 rows a second: 0.25 s.
RecoveryInput Input() {
  RecoveryInput input;
  input.rows_restorable = 1'000;
  input.rows_behind = 40;
  RecoveryLink link;
  link.bytes = 100'000'000;
  link.bytes_per_s = 1e9;
  link.latency_ns = kMillisecond;
  input.links.push_back(link);
  input.prefill_rows_per_s = 4'000;
  input.fetch_timeout_ns = 10 * kSecond;
  return input;
}

TEST(RecoveryPlan, TimesFollowTheFormula) {
  RecoveryInput input = Input();
  input.links[0].backlog_bytes = 500'000'000;
  input.links[0].contending_bytes = 50'000'000;
  input.links[0].coming_bytes = 30'000'000;
  const RecoveryPlan plan = PlanRecovery(input);
  EXPECT_DOUBLE_EQ(plan.restore_s, 0.001 + 0.15 + 0.01);
  EXPECT_DOUBLE_EQ(plan.wait_s, 0.5 + (0.001 + 0.07) + 0.01);
  EXPECT_DOUBLE_EQ(plan.recompute_s, 1'040 / 4'000.0);
}

TEST(RecoveryPlan, LinksWorkSideBySide) {
  RecoveryInput input = Input();
  input.links.push_back(input.links[0]);
  EXPECT_DOUBLE_EQ(PlanRecovery(input).restore_s, PlanRecovery(Input()).restore_s);
  input.links[1].bytes_per_s = 5e8;
  EXPECT_DOUBLE_EQ(PlanRecovery(input).restore_s, 0.001 + 0.2 + 0.01);
}

TEST(RecoveryPlan, RowsThatNobodyHoldsWaitForThoseAhead) {
  RecoveryInput input = Input();
  input.rows_ahead = 2'000;
  EXPECT_DOUBLE_EQ(PlanRecovery(input).restore_s, 0.5 + 0.01);
  input.rows_behind = 0;  // then only the fetch
  EXPECT_DOUBLE_EQ(PlanRecovery(input).restore_s, 0.101);
}

TEST(RecoveryPlan, TheFasterOneIsChosen) {
  EXPECT_EQ(PlanRecovery(Input()).choice, Recovery::kRestore);
  RecoveryInput slow_link = Input();
  slow_link.links[0].bytes_per_s = 2e8;
  EXPECT_EQ(PlanRecovery(slow_link).choice, Recovery::kRecompute);
  RecoveryInput crowd = Input();
  crowd.links[0].backlog_bytes = crowd.links[0].contending_bytes = 200'000'000;
  EXPECT_EQ(PlanRecovery(crowd).choice, Recovery::kRecompute);
  crowd.rows_ahead = 1'000;  // the processor has a queue too
  EXPECT_EQ(PlanRecovery(crowd).choice, Recovery::kRestore);
}

TEST(RecoveryPlan, WhatEndsInTheSameStepAsTheBestIsRestored) {
  RecoveryInput input = Input();
  input.links[0].bytes_per_s = 4e8;  // 0.261 s, computed in 0.26
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kRecompute);
  input.step_s = 0.02;
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kRestore);
  input.links[0].bytes_per_s = 3.5e8;  // 0.297 s
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kRecompute);
  input.links[0].bytes_per_s = 4e8;
  input.fetch_timeout_ns = 200 * kMillisecond;
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kRecompute);
  input.fetch_timeout_ns = kSecond;
  input.time_left_ns = 260'500'000;
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kRecompute);
}

TEST(RecoveryPlan, RowsOnTheWayForAnotherRequestAreWaitedFor) {
  RecoveryInput input = Input();
  input.prefill_rows_per_s = 1'000;
  input.links[0].backlog_bytes = input.links[0].contending_bytes = 90'000'000;
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kRestore);
  input.links[0].coming_bytes = 90'000'000;
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kWait);
}

TEST(RecoveryPlan, ATransferThatWouldTimeOutInTheCrowdWaitsForTheLink) {
  RecoveryInput input = Input();
  input.prefill_rows_per_s = 10;
  RecoveryLink& link = input.links[0];
  link.bytes = 1'000'000'000;
  link.backlog_bytes = link.contending_bytes = 3'000'000'000;
  input.fetch_timeout_ns = 2 * kSecond;
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kWait);
  link.bytes = 3'000'000'000;  // not even alone
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
  input.links[0].bytes_per_s = 0;
  EXPECT_EQ(PlanRecovery(input).choice, Recovery::kRecompute);
}

}  // namespace
}  // namespace reprise::worker
