#include "coordinator/core/request_table.h"

#include <gtest/gtest.h>

#include <limits>

namespace reprise::coordinator {
namespace {

constexpr TimeNs kStart = 10 * kSecond;
constexpr TimeNs kWarm = kStart + 3 * kSecond;

const NodeKey kWorker{"w", 5};

Claim By(const std::string& id, std::optional<Attempt> previous = std::nullopt) {
  return {.request_id = id, .previous = previous};
}
Claim AttachBy(const std::string& id, uint8_t handle) {
  Claim claim{.request_id = id, .attach = true};
  claim.handle_digest.emplace().fill(handle);
  return claim;
}
RequestReport Running(const std::string& id, const Attempt& attempt, uint8_t handle) {
  RequestReport report{.request_id = id, .attempt = attempt, .decoding = true};
  report.handle_digest.emplace().fill(handle);
  return report;
}

class RequestTableTest : public ::testing::Test {
 protected:
  RequestTable Table(size_t requests_max = 100) {
    return RequestTable({.requests_max = requests_max, .epoch_base = 40}, kStart);
  }
  static std::optional<RefusalCode> Refused(const RequestTable& table, const std::string& id,
                                            std::optional<Attempt> previous, TimeNs now) {
    const auto refusal = table.Check({.request_id = id, .previous = previous}, now);
    if (!refusal) return std::nullopt;
    return refusal->code;
  }
};

TEST_F(RequestTableTest, OfTwoHoldersOfOneAttemptTheSecondIsStale) {
  RequestTable table = Table();
  ASSERT_FALSE(table.Check(By("r"), kStart));
  const Attempt first = table.Grant(By("r"), kWorker, kStart);
  EXPECT_EQ(first, (Attempt{41, 1}));
  ASSERT_FALSE(table.Check(By("r", first), kStart));
  const Attempt second = table.Grant(By("r", first), kWorker, kStart);
  EXPECT_EQ(second, (Attempt{41, 2}));
  EXPECT_EQ(Refused(table, "r", first, kStart), RefusalCode::kStaleAttempt);
  EXPECT_EQ(Refused(table, "r", std::nullopt, kStart), RefusalCode::kStaleAttempt);
  EXPECT_FALSE(table.Check(By("r", second), kStart));
}

TEST_F(RequestTableTest, EveryNewRequestGetsAnEpochOfItsOwn) {
  RequestTable table = Table();
  EXPECT_EQ(table.Grant(By("a"), kWorker, kStart), (Attempt{41, 1}));
  EXPECT_EQ(table.Grant(By("b"), kWorker, kStart), (Attempt{42, 1}));
}

TEST_F(RequestTableTest, AGrantWhoseAnswerWasLostIsSupersededOnceNoNodeTookItUp) {
  RequestTable table = Table();
  table.Grant(By("r"), kWorker, kStart);
  const auto refusal = table.Check(By("r"), kStart + 400 * kMillisecond);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->retry_after_ms, 601);
  ASSERT_FALSE(table.Check(By("r"), kStart + kSecond));
  EXPECT_EQ(table.Grant(By("r"), kWorker, kStart + kSecond), (Attempt{41, 2}));
}

TEST_F(RequestTableTest, AGrantThatANodeServesIsNeverSupersededFromBelow) {
  RequestTable table = Table();
  const Attempt granted = table.Grant(By("r"), kWorker, kStart);
  table.OnReported({"r", granted}, kWorker);
  const auto refusal = table.Check(By("r"), kStart + 100 * kSecond);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->code, RefusalCode::kStaleAttempt);
  EXPECT_EQ(refusal->retry_after_ms, 0);
}

TEST_F(RequestTableTest, AFreshCoordinatorWaitsForReportsBeforeItGrantsWhatItNeverSaw) {
  RequestTable table = Table();
  const Attempt held{7, 3};
  const auto refusal = table.Check(By("r", held), kStart + 500 * kMillisecond);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->code, RefusalCode::kRecovering);
  EXPECT_EQ(refusal->retry_after_ms, 1501);
  EXPECT_FALSE(table.Check(By("new"), kStart));
  EXPECT_FALSE(table.Check(By("r", held), kStart + 2 * kSecond));
  const Attempt granted = table.Grant(By("r", held), kWorker, kWarm);
  EXPECT_EQ(granted, (Attempt{41, 4})) << "an epoch of its own: (7, 4) may have been granted";
  EXPECT_EQ(table.Grant(By("r", granted), kWorker, kWarm), (Attempt{41, 5}));
}

TEST_F(RequestTableTest, AboveAnAttemptThatOthersGrantedAnOwnerEpochBegins) {
  RequestTable table = Table();
  table.OnReported({"r", {7, 3}}, kWorker);
  EXPECT_EQ(table.Grant(By("r", Attempt{7, 3}), kWorker, kStart), (Attempt{41, 4}));
  // A report of what it granted itself changes nothing, one of something higher does.
  table.OnReported({"r", {41, 4}}, kWorker);
  EXPECT_EQ(table.Grant(By("r", Attempt{41, 4}), kWorker, kStart), (Attempt{41, 5}));
  table.OnReported({"r", {41, 6}}, kWorker);
  EXPECT_EQ(table.Grant(By("r", Attempt{41, 6}), kWorker, kStart), (Attempt{42, 7}));
}

// Between its two reigns another may have counted on.
TEST_F(RequestTableTest, ALeaderThatLeadsAgainBeginsAnOwnerEpoch) {
  RequestTable table = Table();
  table.Restart(uint64_t{3} << 32, kStart);
  const Attempt first = table.Grant(By("r"), kWorker, kStart);
  table.Restart(uint64_t{5} << 32, kWarm);
  EXPECT_EQ(table.Grant(By("r", first), kWorker, kWarm), (Attempt{(uint64_t{5} << 32) + 1, 2}));
}

TEST_F(RequestTableTest, AReportMakesARequestKnownBeforeTheWaitIsOver) {
  RequestTable table = Table();
  table.OnReported({"r", {7, 3}}, kWorker);
  EXPECT_FALSE(table.Check(By("r", Attempt{7, 3}), kStart));
  EXPECT_EQ(Refused(table, "r", Attempt{7, 2}, kStart), RefusalCode::kStaleAttempt);
  // A worker that outlived a later attempt elsewhere reports the older one.
  EXPECT_EQ(Refused(table, "r", Attempt{7, 4}, kStart), RefusalCode::kRecovering);
  EXPECT_FALSE(table.Check(By("r", Attempt{7, 4}), kWarm));
  table.OnReported({"r", {7, 1}}, kWorker);
  EXPECT_EQ(table.Highest("r"), (Attempt{7, 3}));
}

TEST_F(RequestTableTest, TheHandleRaisesTheOwnerAndTheOldOwnerIsStale) {
  RequestTable table = Table();
  Claim first = By("r");
  first.handle_digest.emplace().fill(9);
  const Attempt held = table.Grant(first, kWorker, kStart);
  ASSERT_FALSE(table.Check(AttachBy("r", 9), kStart));
  const Attempt raised = table.GrantAttach(AttachBy("r", 9), kStart);
  EXPECT_EQ(raised, (Attempt{held.owner_epoch + 1, 1}));
  EXPECT_EQ(table.Runner("r"), kWorker);
  EXPECT_EQ(Refused(table, "r", held, kStart + 100 * kSecond), RefusalCode::kStaleAttempt);
  EXPECT_FALSE(table.Check(By("r", raised), kStart));
  // The attach may have been lost; another is granted at once, above it.
  ASSERT_FALSE(table.Check(AttachBy("r", 9), kStart));
  EXPECT_EQ(table.GrantAttach(AttachBy("r", 9), kStart), (Attempt{held.owner_epoch + 2, 1}));
}

TEST_F(RequestTableTest, WhoeverHeldNothingNeverTakesALostAttachOver) {
  RequestTable table = Table();
  table.OnReported(Running("r", {41, 1}, 9), kWorker);
  table.GrantAttach(AttachBy("r", 9), kStart);
  EXPECT_EQ(Refused(table, "r", std::nullopt, kStart + 100 * kSecond), RefusalCode::kStaleAttempt);
}

TEST_F(RequestTableTest, AnotherHandleIsRefusedByName) {
  RequestTable table = Table();
  table.OnReported(Running("r", {41, 1}, 9), kWorker);
  const auto refusal = table.Check(AttachBy("r", 8), kWarm);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->code, RefusalCode::kWrongHandle);
  EXPECT_EQ(ToStatus(*refusal).code(), absl::StatusCode::kPermissionDenied);
  // No later word changes whose it is.
  table.OnReported(Running("r", {41, 2}, 8), kWorker);
  EXPECT_TRUE(table.Check(AttachBy("r", 8), kWarm));
  EXPECT_FALSE(table.Check(AttachBy("r", 9), kWarm));
}

TEST_F(RequestTableTest, AFreshCoordinatorWaitsForTheHandleToBeReported) {
  RequestTable table = Table();
  EXPECT_EQ(table.Check(AttachBy("r", 9), kStart)->code, RefusalCode::kRecovering);
  table.OnReported({"r", {7, 3}}, {"gateway", 1});  // gateways do not know digests
  EXPECT_EQ(table.Check(AttachBy("r", 9), kStart)->code, RefusalCode::kRecovering);
  EXPECT_EQ(table.Check(AttachBy("r", 9), kWarm)->code, RefusalCode::kWrongHandle);
  table.OnReported(Running("r", {7, 3}, 9), kWorker);
  EXPECT_FALSE(table.Check(AttachBy("r", 9), kStart));
  EXPECT_EQ(table.Runner("r"), kWorker);
  // What nobody has named in time may begin again, above everything older.
  EXPECT_FALSE(table.Check(AttachBy("unheard of", 9), kWarm));
}

TEST_F(RequestTableTest, ALowerAttemptsWorkerIsNotTheRunner) {
  RequestTable table = Table();
  const Attempt first = table.Grant(By("r"), kWorker, kStart);
  table.Grant(By("r", first), {"other", 6}, kStart);
  table.OnReported(Running("r", first, 9), kWorker);
  EXPECT_EQ(table.Runner("r"), (NodeKey{"other", 6}));
}

TEST_F(RequestTableTest, AThirdCrashEndsTheRequestWhoeverCounted) {
  RequestTable table = Table();
  Attempt held = table.Grant(By("r"), kWorker, kStart);
  Claim claim = By("r", held);
  claim.crashes = 2;
  ASSERT_FALSE(table.Check(claim, kStart));
  EXPECT_EQ(table.Crashes(claim), 2u);
  held = table.Grant(claim, kWorker, kStart);
  EXPECT_EQ(table.Crashes(By("r", held)), 2u);  // a caller that forgot does not reset it
  table.OnReported({.request_id = "r", .attempt = held, .crashes = 3}, kWorker);
  const auto refusal = table.Check(By("r", held), kStart);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(ToStatus(*refusal).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(refusal->detail,
            "workers crashed with the request in their step 3 times, the limit is 3");
}

TEST_F(RequestTableTest, ANewLeaderGrantsAboveEveryOlderOneAndWaitsForReports) {
  RequestTable table = Table();
  table.Restart(uint64_t{3} << 32, kWarm);
  EXPECT_EQ(table.Grant(By("new"), kWorker, kWarm), (Attempt{(uint64_t{3} << 32) + 1, 1}));
  EXPECT_EQ(Refused(table, "r", Attempt{7, 3}, kWarm + kSecond), RefusalCode::kRecovering);
  EXPECT_FALSE(table.Check(By("r", Attempt{7, 3}), kWarm + 2 * kSecond));
}

TEST_F(RequestTableTest, AttemptsDoNotWrapAround) {
  RequestTable table = Table();
  const Attempt last{7, std::numeric_limits<uint32_t>::max()};
  table.OnReported({"r", last}, kWorker);
  EXPECT_EQ(Refused(table, "r", last, kWarm), RefusalCode::kMalformed);
  EXPECT_EQ(Refused(table, "other", last, kWarm), RefusalCode::kMalformed);
}

TEST_F(RequestTableTest, OwnerEpochsDoNotWrapAroundWhoeverNamesThem) {
  RequestTable table = Table();
  const Attempt last{std::numeric_limits<uint64_t>::max(), 1};
  Claim claim = AttachBy("other", 9);
  claim.previous = last;
  EXPECT_EQ(table.Check(claim, kWarm)->code, RefusalCode::kMalformed);
  EXPECT_EQ(table.Check(By("other", last), kWarm)->code, RefusalCode::kMalformed);
  table.OnReported(Running("r", last, 9), kWorker);
  EXPECT_EQ(table.Check(AttachBy("r", 9), kWarm)->code, RefusalCode::kMalformed);
}

TEST_F(RequestTableTest, ForgetsTheLeastRecentlySeenBeyondTheLimit) {
  RequestTable table = Table(/*requests_max=*/2);
  table.Grant(By("a"), kWorker, kStart);
  table.Grant(By("b"), kWorker, kStart);
  table.OnReported({"a", {41, 1}}, kWorker);
  table.Grant(By("c"), kWorker, kStart);
  EXPECT_EQ(table.size(), 2u);
  EXPECT_TRUE(table.Highest("a"));
  EXPECT_FALSE(table.Highest("b"));
  EXPECT_TRUE(table.Highest("c"));
}

}  // namespace
}  // namespace reprise::coordinator
