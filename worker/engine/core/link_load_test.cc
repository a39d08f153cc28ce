#include "worker/engine/core/link_load.h"

#include <gtest/gtest.h>

namespace reprise::worker {
namespace {

constexpr int64_t kMB = 1'000'000;

TEST(LinkLoad, OneTransferTellsTheRateAndReplacesTheGuess) {
  LinkLoad link(1e9, 0);
  EXPECT_DOUBLE_EQ(link.bytes_per_s(), 1e9);
  link.Begin(1, 10 * kMB, 0);
  link.End(1, 10 * kMB, kSecond);
  EXPECT_DOUBLE_EQ(link.bytes_per_s(), 10e6);
  EXPECT_TRUE(link.idle());
}

TEST(LinkLoad, TransfersThatShareTheLinkTellTheRateOfTheWhole) {
  LinkLoad link(1e9, 0);
  // 10 MB/s: 5 MB each alone until 0.2 s, then side by side.
  link.Begin(1, 5 * kMB, 0);
  link.Begin(2, 5 * kMB, kSecond / 5);
  link.End(1, 5 * kMB, kSecond * 4 / 5);
  EXPECT_NEAR(link.bytes_per_s(), 10e6, 1);
  link.End(2, 5 * kMB, kSecond);
  EXPECT_NEAR(link.bytes_per_s(), 10e6, 1);
}

TEST(LinkLoad, WhatIsLeftFollowsTheClockAndEachShare) {
  LinkLoad link(10e6, 0);
  link.Begin(1, 4 * kMB, 0);
  link.Begin(2, 10 * kMB, 0);
  EXPECT_EQ(link.Backlog(0), 14 * kMB);
  EXPECT_NEAR(static_cast<double>(link.Backlog(kSecond / 5)), 12e6, 1);
  // 3 MB and 9 MB are left; a transfer of 5 MB shares with the one, outlives the other.
  EXPECT_NEAR(static_cast<double>(link.Contending(5 * kMB, kSecond / 5)), 8e6, 1);
  link.End(1, 4 * kMB, kSecond);
  EXPECT_NEAR(static_cast<double>(link.Backlog(10 * kSecond)), 0, 1);
  EXPECT_FALSE(link.idle());  // it has not ended, whatever was expected
}

TEST(LinkLoad, ASmallTransferTellsTheLatencyAFailedOneNothing) {
  LinkLoad link(1e9, kMillisecond);
  link.Begin(1, 1'000, 0);
  link.End(1, 0, kSecond);
  EXPECT_EQ(link.latency_ns(), kMillisecond);
  link.Begin(2, 1'000, kSecond);
  link.End(2, 1'000, kSecond + 11 * kMillisecond + 1'000);
  EXPECT_NEAR(static_cast<double>(link.latency_ns()), 4e6, 1e3);
  EXPECT_DOUBLE_EQ(link.bytes_per_s(), 1e9);
}

TEST(LinkLoad, SmallSamplesDoNotDrownLargeOnes) {
  RateEstimate rate(1, 0.8);
  EXPECT_DOUBLE_EQ(rate.per_s(), 1);
  rate.Add(1'000, 1);
  rate.Add(1, 0.01);  // mostly fixed costs
  EXPECT_NEAR(rate.per_s(), 1'000, 15);
}

}  // namespace
}  // namespace reprise::worker
