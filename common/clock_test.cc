#include "common/clock.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace reprise {
namespace {

TEST(RealClock, NeverGoesBack) {
  TimeNs last = RealClock().NowNs();
  for (int i = 0; i < 10'000; ++i) {
    const TimeNs now = RealClock().NowNs();
    ASSERT_GE(now, last);
    last = now;
  }
  EXPECT_GT(last, 0);
}

TEST(ManualClock, MovesOnlyWhenTold) {
  ManualClock clock(5);
  EXPECT_EQ(clock.NowNs(), 5);
  clock.Advance(2 * kMillisecond);
  EXPECT_EQ(clock.NowNs(), 2'000'005);
  clock.Set(7);
  EXPECT_EQ(clock.NowNs(), 7);
}

// However the two are scheduled: who waits for a thread spends nothing of what that one spends.
TEST(ThreadCpuClock, CountsTheCallingThreadOnly) {
  constexpr TimeNs kSpent = 20 * kMillisecond;
  const TimeNs start = ThreadCpuClock().NowNs();
  std::thread busy([] {
    const TimeNs begin = ThreadCpuClock().NowNs();
    while (ThreadCpuClock().NowNs() - begin < kSpent) {
    }
  });
  busy.join();
  const TimeNs own = ThreadCpuClock().NowNs() - start;
  EXPECT_GE(own, 0);
  EXPECT_LT(own, kSpent);
}

TEST(ManualClock, LosesNoAdvanceOfSeveralThreads) {
  ManualClock clock;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) clock.Advance(1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(clock.NowNs(), 40'000);
}

TEST(Units, ConvertAndSaturate) {
  EXPECT_DOUBLE_EQ(MsFromNs(1'500'000), 1.5);
  EXPECT_DOUBLE_EQ(SecondsFromNs(kMinute), 60);
  EXPECT_EQ(NsFromMs(3), 3 * kMillisecond);
  EXPECT_EQ(NsFromMs(INT64_MAX), INT64_MAX);
  EXPECT_EQ(NsFromMs(INT64_MIN), INT64_MIN);
}

}  // namespace
}  // namespace reprise
