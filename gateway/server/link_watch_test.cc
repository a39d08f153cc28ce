#include "gateway/server/link_watch.h"

#include <gtest/gtest.h>

namespace reprise::gateway {
namespace {

using Verdict = LinkWatch::Verdict;

// A watch and a clock that ticks it as its owner promises to.
class LinkWatchTest : public ::testing::Test {
 protected:
  LinkWatchTest() { watch_.Begin(clock_.NowNs()); }

  void Heartbeat(uint64_t progress, bool busy) {
    watch_.OnMessage(progress, busy, /*heartbeat=*/true, clock_.NowNs());
  }
  // The first verdict within `span`, or kFine.
  Verdict Pass(TimeNs span) {
    for (TimeNs passed = 0; passed < span; passed += LinkWatch::kTickNs) {
      clock_.Advance(LinkWatch::kTickNs);
      const Verdict verdict = watch_.OnTick(clock_.NowNs());
      if (verdict != Verdict::kFine) return verdict;
    }
    return Verdict::kFine;
  }

  ManualClock clock_{7 * kSecond};
  LinkWatch watch_;
};

TEST_F(LinkWatchTest, SilenceFailsTheLinkAtItsLimit) {
  Heartbeat(1, false);
  EXPECT_EQ(Pass(LinkWatch::kSilenceNs - LinkWatch::kTickNs), Verdict::kFine);
  EXPECT_EQ(Pass(LinkWatch::kTickNs), Verdict::kSilent);
}

TEST_F(LinkWatchTest, AWorkerThatNeverSaidAWordHasTheTimeOfAConnectionMore) {
  EXPECT_EQ(Pass(LinkWatch::kConnectNs + LinkWatch::kSilenceNs - LinkWatch::kTickNs),
            Verdict::kFine);
  EXPECT_EQ(Pass(LinkWatch::kTickNs), Verdict::kSilent);
}

TEST_F(LinkWatchTest, TokensAreAWordTooButShowNoProgress) {
  Heartbeat(5, true);
  Verdict verdict = Verdict::kFine;
  TimeNs passed = 0;
  for (; verdict == Verdict::kFine && passed < 10 * kSecond; passed += 500 * kMillisecond) {
    watch_.OnMessage(0, false, /*heartbeat=*/false, clock_.NowNs());
    verdict = Pass(500 * kMillisecond);
  }
  EXPECT_EQ(verdict, Verdict::kStuck) << "it was never silent";
  EXPECT_EQ(passed, LinkWatch::kStuckNs);
}

TEST_F(LinkWatchTest, BusyWithProgressIsNeverStuck) {
  for (uint64_t progress = 1; progress < 100; ++progress) {
    Heartbeat(progress, true);
    ASSERT_EQ(Pass(900 * kMillisecond), Verdict::kFine);
  }
}

TEST_F(LinkWatchTest, AnIdleWorkerThatBecomesBusyHasItsTimeFromThen) {
  Heartbeat(5, false);
  ASSERT_EQ(Pass(900 * kMillisecond), Verdict::kFine);
  Heartbeat(5, false);
  ASSERT_EQ(Pass(900 * kMillisecond), Verdict::kFine);
  Heartbeat(5, true);
  ASSERT_EQ(Pass(900 * kMillisecond), Verdict::kFine);
  Heartbeat(5, true);
  ASSERT_EQ(Pass(500 * kMillisecond), Verdict::kFine);
  EXPECT_EQ(Pass(100 * kMillisecond), Verdict::kStuck);
}

TEST_F(LinkWatchTest, AJudgeThatStoodStillFindsNobodyGuilty) {
  Heartbeat(1, true);
  ASSERT_EQ(Pass(500 * kMillisecond), Verdict::kFine);
  clock_.Advance(20 * kSecond);
  EXPECT_EQ(watch_.OnTick(clock_.NowNs()), Verdict::kFine);
  // What is left of the silence counts from now.
  EXPECT_EQ(Pass(400 * kMillisecond), Verdict::kFine);
  EXPECT_EQ(Pass(100 * kMillisecond), Verdict::kSilent);
}

TEST_F(LinkWatchTest, ASmallLatenessIsNotCompensated) {
  Heartbeat(1, false);
  for (TimeNs passed = 0; passed < LinkWatch::kSilenceNs; passed += 100 * kMillisecond) {
    ASSERT_EQ(watch_.OnTick(clock_.NowNs()), Verdict::kFine);
    clock_.Advance(100 * kMillisecond);
  }
  EXPECT_EQ(watch_.OnTick(clock_.NowNs()), Verdict::kSilent);
}

TEST_F(LinkWatchTest, WithoutRequestsSilenceIsFineAndDoesNotCountLater) {
  Heartbeat(1, true);
  watch_.End();
  EXPECT_EQ(Pass(10 * kSecond), Verdict::kFine);
  watch_.Begin(clock_.NowNs());
  EXPECT_EQ(Pass(LinkWatch::kSilenceNs - LinkWatch::kTickNs), Verdict::kFine);
  EXPECT_EQ(Pass(LinkWatch::kTickNs), Verdict::kSilent);
}

}  // namespace
}  // namespace reprise::gateway
