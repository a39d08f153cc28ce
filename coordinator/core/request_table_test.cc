#include "coordinator/core/request_table.h"

#include <gtest/gtest.h>

#include <limits>

namespace reprise::coordinator {
namespace {

constexpr TimeNs kStart = 10 * kSecond;
constexpr TimeNs kWarm = kStart + 3 * kSecond;

class RequestTableTest : public ::testing::Test {
 protected:
  RequestTable Table(size_t requests_max = 100) {
    return RequestTable({.requests_max = requests_max, .epoch_base = 40}, kStart);
  }
  static std::optional<RefusalCode> Refused(const RequestTable& table, const std::string& id,
                                            std::optional<Attempt> previous, TimeNs now) {
    const auto refusal = table.Check(id, previous, now);
    if (!refusal) return std::nullopt;
    return refusal->code;
  }
};

TEST_F(RequestTableTest, OfTwoHoldersOfOneAttemptTheSecondIsStale) {
  RequestTable table = Table();
  ASSERT_FALSE(table.Check("r", std::nullopt, kStart));
  const Attempt first = table.Grant("r", std::nullopt, kStart);
  EXPECT_EQ(first, (Attempt{41, 1}));
  ASSERT_FALSE(table.Check("r", first, kStart));
  const Attempt second = table.Grant("r", first, kStart);
  EXPECT_EQ(second, (Attempt{41, 2}));
  EXPECT_EQ(Refused(table, "r", first, kStart), RefusalCode::kStaleAttempt);
  EXPECT_EQ(Refused(table, "r", std::nullopt, kStart), RefusalCode::kStaleAttempt);
  EXPECT_FALSE(table.Check("r", second, kStart));
}

TEST_F(RequestTableTest, EveryNewRequestGetsAnEpochOfItsOwn) {
  RequestTable table = Table();
  EXPECT_EQ(table.Grant("a", std::nullopt, kStart), (Attempt{41, 1}));
  EXPECT_EQ(table.Grant("b", std::nullopt, kStart), (Attempt{42, 1}));
}

TEST_F(RequestTableTest, AGrantWhoseAnswerWasLostIsSupersededOnceNoNodeTookItUp) {
  RequestTable table = Table();
  table.Grant("r", std::nullopt, kStart);
  const auto refusal = table.Check("r", std::nullopt, kStart + 400 * kMillisecond);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->retry_after_ms, 601);
  ASSERT_FALSE(table.Check("r", std::nullopt, kStart + kSecond));
  EXPECT_EQ(table.Grant("r", std::nullopt, kStart + kSecond), (Attempt{41, 2}));
}

TEST_F(RequestTableTest, AGrantThatANodeServesIsNeverSupersededFromBelow) {
  RequestTable table = Table();
  const Attempt granted = table.Grant("r", std::nullopt, kStart);
  table.OnReported("r", granted);
  const auto refusal = table.Check("r", std::nullopt, kStart + 100 * kSecond);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->code, RefusalCode::kStaleAttempt);
  EXPECT_EQ(refusal->retry_after_ms, 0);
}

TEST_F(RequestTableTest, AFreshCoordinatorWaitsForReportsBeforeItGrantsWhatItNeverSaw) {
  RequestTable table = Table();
  const Attempt held{7, 3};
  const auto refusal = table.Check("r", held, kStart + 500 * kMillisecond);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->code, RefusalCode::kRecovering);
  EXPECT_EQ(refusal->retry_after_ms, 1501);
  EXPECT_FALSE(table.Check("new", std::nullopt, kStart));
  EXPECT_FALSE(table.Check("r", held, kStart + 2 * kSecond));
  EXPECT_EQ(table.Grant("r", held, kWarm), (Attempt{7, 4}));
}

TEST_F(RequestTableTest, AReportMakesARequestKnownBeforeTheWaitIsOver) {
  RequestTable table = Table();
  table.OnReported("r", {7, 3});
  EXPECT_FALSE(table.Check("r", Attempt{7, 3}, kStart));
  EXPECT_EQ(Refused(table, "r", Attempt{7, 2}, kStart), RefusalCode::kStaleAttempt);
  // A worker that outlived a later attempt elsewhere reports the older one.
  EXPECT_EQ(Refused(table, "r", Attempt{7, 4}, kStart), RefusalCode::kRecovering);
  EXPECT_FALSE(table.Check("r", Attempt{7, 4}, kWarm));
  table.OnReported("r", {7, 1});
  EXPECT_EQ(table.Highest("r"), (Attempt{7, 3}));
}

TEST_F(RequestTableTest, AttemptsDoNotWrapAround) {
  RequestTable table = Table();
  const Attempt last{7, std::numeric_limits<uint32_t>::max()};
  table.OnReported("r", last);
  EXPECT_EQ(Refused(table, "r", last, kWarm), RefusalCode::kMalformed);
  EXPECT_EQ(Refused(table, "other", last, kWarm), RefusalCode::kMalformed);
}

TEST_F(RequestTableTest, ForgetsTheLeastRecentlySeenBeyondTheLimit) {
  RequestTable table = Table(/*requests_max=*/2);
  table.Grant("a", std::nullopt, kStart);
  table.Grant("b", std::nullopt, kStart);
  table.OnReported("a", {41, 1});
  table.Grant("c", std::nullopt, kStart);
  EXPECT_EQ(table.size(), 2u);
  EXPECT_TRUE(table.Highest("a"));
  EXPECT_FALSE(table.Highest("b"));
  EXPECT_TRUE(table.Highest("c"));
}

}  // namespace
}  // namespace reprise::coordinator
