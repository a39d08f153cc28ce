#include "worker/model/pace.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace reprise::worker {
namespace {

TEST(Pace, APieceHoldsAtLeastOneUnitAndAtMostAll) {
  const Pace pace(1000);
  EXPECT_EQ(pace.UnitsAtOnce(10, 1000), 100);
  EXPECT_EQ(pace.UnitsAtOnce(10, 7), 7);
  EXPECT_EQ(pace.UnitsAtOnce(5000, 7), 1);
  EXPECT_EQ(pace.UnitsAtOnce(0, 0), 1) << "empty matrices do not divide by zero";
}

TEST(Pace, TicksAreAtMostTwoPiecesApart) {
  Pace pace(1000);
  int64_t silent = 0;
  int64_t longest = 0;
  int ticks = 0;
  pace.SetTick([&] {
    ++ticks;
    silent = 0;
  });
  for (int64_t i = 0; i < 1000; ++i) {
    const int64_t macs = 1 + i * 7919 % 1000;
    longest = std::max(longest, silent += macs);
    pace.Did(macs);
  }
  EXPECT_GT(ticks, 250);
  EXPECT_LE(ticks, 501) << "half a million of work";
  EXPECT_LT(longest, 2000);
}

TEST(Pace, NobodyNeedsToListen) {
  Pace pace(1);
  pace.Did(5);
}

// The promise to those who judge a busy worker: limits::kServeStuckMs is far more.
TEST(Pace, APieceIsAnEighthOfASecond) {
  EXPECT_EQ(Pace::PieceOf(kernels::Isa::kAvx512, 2), 2'750'000'000);
  EXPECT_EQ(Pace::PieceOf(kernels::Isa::kScalar, 1), 12'500'000);
}

}  // namespace
}  // namespace reprise::worker
