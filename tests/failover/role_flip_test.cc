// Elastic roles with real workers: load shifts from prompts to decoding, workers follow it from one
// role to the other while streams run, and every stream is exactly what an undisturbed run gives.
#include <gtest/gtest.h>

#include "tests/cluster/poll.h"
#include "tests/cluster/setting.h"

namespace reprise::harness {
namespace {

constexpr TimeNs kPatienceNs = 120 * kSecond;  // liveness only

class RoleFlip : public testing::Test {
 protected:
  void SetUp() override {
    setting_.program = "cli/reprise";
    setting_.prefill_workers = 2;
    setting_.decode_workers = 2;
    setting_.stores = 1;
    setting_.gateways = 1;
    setting_.prefill_ms_per_token = 2;
    setting_.coordinator_flags = {"--elastic-roles"};
    setting_.flags_of["decode-0"] = setting_.flags_of["decode-1"] = {"--no-prefill"};
    auto cluster = StartCluster(setting_);
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = *std::move(cluster);
  }

  // Until so many workers prefill and so many decode, by their own word.
  Status AwaitRoles(int prefill, int decode) const {
    const auto came = [&] {
      const auto status = cluster_->QueryStatus();
      if (!status.ok()) return false;
      int prefills = 0;
      int decodes = 0;
      for (const v1::NodeStatus& node : status->nodes()) {
        prefills += node.node().can_prefill();
        decodes += node.node().can_decode();
      }
      return prefills == prefill && decodes == decode;
    };
    return PollUntil(absl::StrCat(prefill, " prefill and ", decode, " decode workers"), kPatienceNs,
                     came);
  }

  static void ExpectExact(const CheckedLoad& load) {
    const LoadTotals totals = Sum(load.results());
    EXPECT_EQ(totals.errors, 0) << totals.first_error;
    EXPECT_EQ(totals.lost + totals.duplicated + totals.different, 0);
    EXPECT_GT(totals.streams, 0);
  }

  Setting setting_;
  std::unique_ptr<Cluster> cluster_;
};

TEST_F(RoleFlip, WorkersFollowTheLoadAndNoStreamFails) {
  EXPECT_TRUE(AwaitRoles(2, 2).ok());
  {
    // Long prompts, short answers: a decode worker goes to the prefill side.
    CheckedLoad load(TimedLoad(setting_, *cluster_, 24, 600, 8));
    const Status flipped = AwaitRoles(3, 1);
    EXPECT_TRUE(flipped.ok()) << flipped;
    EXPECT_TRUE(load.WaitForTokens(load.tokens() + 200, kPatienceNs).ok());
    EXPECT_TRUE(load.Stop(kPatienceNs).ok());
    ExpectExact(load);
  }
  {
    // Short prompts, long answers: a prefill worker goes to the decode side.
    CheckedLoad load(TimedLoad(setting_, *cluster_, 160, 8, 400, 1 << 20));
    const Status flipped = AwaitRoles(2, 2);
    EXPECT_TRUE(flipped.ok()) << flipped;
    EXPECT_TRUE(load.WaitForTokens(load.tokens() + 20'000, kPatienceNs).ok());
    EXPECT_TRUE(load.Stop(kPatienceNs).ok());
    ExpectExact(load);
  }
}

}  // namespace
}  // namespace reprise::harness
