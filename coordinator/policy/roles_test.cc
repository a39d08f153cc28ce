#include "coordinator/policy/roles.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"

namespace reprise::coordinator {
namespace {

constexpr RoleOrder kBoth{}, kPrefill{.prefill = true, .decode = false},
    kDecode{.prefill = false, .decode = true};

// Workers that obey at once, looked at every second.
class RolesTest : public ::testing::Test {
 protected:
  void Add(const std::string& name, RoleOrder roles) {
    workers_.push_back({.key = {name, 1}, .roles = roles});
    configured_.push_back(roles);
  }
  // `tokens` wait for those that prefill, `running` sequences on those that decode, evenly.
  void Load(int64_t tokens, int32_t running) {
    const int prefillers = Count(&RoleOrder::prefill), decoders = Count(&RoleOrder::decode);
    for (WorkerLoad& worker : workers_) {
      worker.queued_prefill_tokens = worker.roles.prefill ? tokens / prefillers : 0;
      worker.running = worker.roles.decode ? running / decoders : 0;
    }
  }
  void Look() {
    now_ += kSecond;
    policy_.Look(workers_, now_);
    for (size_t i = 0; i < workers_.size(); ++i) {
      workers_[i].roles = policy_.OrderFor(workers_[i].key).value_or(configured_[i]);
    }
  }
  void RunFor(int seconds, int64_t tokens, int32_t running) {
    for (int s = 0; s < seconds; ++s) {
      Load(tokens, running);
      Look();
      ASSERT_GE(Count(&RoleOrder::prefill), 1);
      ASSERT_GE(Count(&RoleOrder::decode), 1);
    }
  }
  int Count(bool RoleOrder::*role) const {
    int count = 0;
    for (const WorkerLoad& worker : workers_) count += worker.roles.*role ? 1 : 0;
    return count;
  }

  TimeNs now_ = kSecond;
  std::vector<WorkerLoad> workers_;
  std::vector<RoleOrder> configured_;
  RolePolicy policy_{RolePolicyOptions{}};
};

TEST_F(RolesTest, AnImbalanceThatLastsMovesOneWorkerAndABriefOneMovesNone) {
  for (const char* name : {"p1", "p2"}) Add(name, kPrefill);
  for (const char* name : {"d1", "d2", "d3"}) Add(name, kDecode);
  RunFor(3, 100'000, 9);
  RunFor(1, 0, 9);
  RunFor(3, 100'000, 9);
  EXPECT_EQ(policy_.moves(), 0u);
  RunFor(1, 100'000, 9);
  EXPECT_EQ(policy_.moves(), 1u);
  EXPECT_EQ(policy_.OrderFor({"d1", 1}), kPrefill);
  EXPECT_FALSE(policy_.OrderFor({"d2", 1}));
  RunFor(3, 100'000, 9);
  EXPECT_EQ(policy_.moves(), 2u);
}

TEST_F(RolesTest, WhoLeavesTheLeastBehindMoves) {
  Add("p", kPrefill);
  for (const char* name : {"d1", "d2"}) Add(name, kDecode);
  for (int s = 0; s < 5; ++s) {
    workers_[0].queued_prefill_tokens = 100'000;
    workers_[1].running = 6;
    workers_[2].running = 5;
    if (policy_.moves() == 0) Look();
  }
  EXPECT_EQ(policy_.OrderFor({"d2", 1}), kPrefill);
}

TEST_F(RolesTest, TheLastOfASideStaysWhateverWaits) {
  Add("p", kPrefill);
  Add("d", kDecode);
  RunFor(100, 10'000'000, 1);
  RunFor(100, 10, 500);
  EXPECT_EQ(policy_.moves(), 0u);
}

TEST_F(RolesTest, AWorkerWithBothRolesGivesOneUpOnlyWhenThatHelps) {
  Add("a", kBoth);
  Add("b", kBoth);
  RunFor(60, 100'000, 3);
  EXPECT_EQ(policy_.moves(), 0u);  // both prefill already
}

TEST_F(RolesTest, NoLoadBringsEverybodyBackToWhatItWasStartedFor) {
  for (const char* name : {"p1", "p2"}) Add(name, kPrefill);
  for (const char* name : {"d1", "d2"}) Add(name, kDecode);
  RunFor(4, 10, 200);
  ASSERT_EQ(policy_.OrderFor({"p1", 1}), kDecode);
  RunFor(9, 0, 0);
  EXPECT_EQ(policy_.OrderFor({"p1", 1}), kDecode);
  RunFor(2, 0, 0);
  EXPECT_FALSE(policy_.OrderFor({"p1", 1}));
  RunFor(100, 0, 0);
  EXPECT_EQ(policy_.moves(), 1u);
}

TEST_F(RolesTest, AMoveThatWouldOnlyTurnTheImbalanceAroundIsNotMade) {
  Add("p1", kPrefill);
  Add("p2", kPrefill);
  Add("d", kDecode);
  // Decode is 2.5 times full, prefill nearly full on two: on one it would be far over.
  workers_[0].prefill_tokens_per_s = workers_[1].prefill_tokens_per_s = 100;
  RunFor(60, 98, 80);
  EXPECT_EQ(policy_.moves(), 1u);  // one full prefiller and two decoders at 1.25: better
  RunFor(60, 98, 80);
  EXPECT_EQ(policy_.moves(), 1u);
}

TEST_F(RolesTest, ALoadThatSwingsFasterThanThePatienceMovesNobody) {
  for (const char* name : {"p1", "p2"}) Add(name, kPrefill);
  for (const char* name : {"d1", "d2"}) Add(name, kDecode);
  for (int s = 0; s < 600; ++s) RunFor(1, s % 4 < 2 ? 100'000 : 10, s % 4 < 2 ? 1 : 500);
  EXPECT_EQ(policy_.moves(), 0u);
}

TEST_F(RolesTest, ALoadThatShiftsSlowlyIsFollowedWithoutFlapping) {
  for (const char* name : {"p1", "p2", "p3"}) Add(name, kPrefill);
  for (const char* name : {"d1", "d2", "d3"}) Add(name, kDecode);
  constexpr int kSeconds = 1200;
  for (int s = 0; s < kSeconds; ++s) {
    const double phase = std::sin(2 * M_PI * s / 300);
    RunFor(1, static_cast<int64_t>(6000 * (1 + phase)), static_cast<int32_t>(120 * (1 - phase)));
  }
  // Four whole swings: each may move the two workers that can go, there and back.
  EXPECT_GE(policy_.moves(), 8u);
  EXPECT_LE(policy_.moves(), 4u * 8u);
}

TEST_F(RolesTest, AWorkerRestsAfterAMove) {
  for (const char* name : {"p1", "p2"}) Add(name, kPrefill);
  Add("d", kDecode);
  RunFor(4, 10, 500);
  ASSERT_EQ(policy_.OrderFor({"p1", 1}), kDecode);
  RunFor(19, 1'000'000, 1);
  EXPECT_EQ(policy_.OrderFor({"p1", 1}), kDecode);
  RunFor(2, 1'000'000, 1);
  EXPECT_EQ(policy_.moves(), 2u);
}

TEST_F(RolesTest, ANewIncarnationIsAsItWasStarted) {
  for (const char* name : {"p1", "p2"}) Add(name, kPrefill);
  Add("d", kDecode);
  RunFor(4, 10, 500);
  ASSERT_TRUE(policy_.OrderFor({"p1", 1}));
  workers_[0].key.incarnation = 2;
  workers_[0].roles = configured_[0];
  Load(10, 30);
  Look();
  EXPECT_FALSE(policy_.OrderFor({"p1", 1}));
  EXPECT_FALSE(policy_.OrderFor({"p1", 2}));
}

}  // namespace
}  // namespace reprise::coordinator
