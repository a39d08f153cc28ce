#include "bench/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace reprise::bench {
namespace {

TEST(Report, FailsWithoutBarsAndOnAnyUnmetBar) {
  EXPECT_EQ(Report("none").Finish(), 1);
  Report good("good");
  good.Bar("lost", 0, "==", 0, 10);
  EXPECT_EQ(good.Finish(), 0);
  good.Bar("ratio", 0.7, ">=", 0.75, 3);
  EXPECT_EQ(good.Finish(), 1);
}

TEST(Report, WhatWasNeverMeasuredMeetsNothing) {
  Report none("none");
  none.Bar("lost", 0, "==", 0, 0);
  EXPECT_EQ(none.Finish(), 1);
  Report nan("nan");
  nan.Bar("error", std::nan(""), "<=", 1, 5);
  EXPECT_EQ(nan.Finish(), 1);
}

TEST(Report, EndsWithOneJsonLine) {
  Report report("x");
  report.Figure("speed", 2.5, "GB/s");
  report.Bar("ratio", 0.8, ">=", 0.75, 3);
  testing::internal::CaptureStdout();
  EXPECT_EQ(report.Finish(), 0);
  const std::string out = testing::internal::GetCapturedStdout();
  const std::string last = out.substr(out.rfind('\n', out.size() - 2) + 1);
  EXPECT_EQ(last,
            "{\"bench\": \"x\", \"figures\": {\"speed [GB/s]\": 2.5}, \"bars\": [{\"name\": "
            "\"ratio\", \"value\": 0.8, \"op\": \">=\", \"limit\": 0.75, \"samples\": 3, \"ok\": "
            "true}]}\n");
}

TEST(Report, Percentiles) {
  EXPECT_EQ(Median({3, 1, 2}), 2);
  EXPECT_EQ(Percentile({1, 2, 3, 4}, 99), 4);
  EXPECT_EQ(Percentile({}, 50), 0);
}

}  // namespace
}  // namespace reprise::bench
