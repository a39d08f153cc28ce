// Workers that are groups of ranks: their tokens are one process's, whichever rank dies or stands
// still, and whichever group goes on with a request of the other.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/cluster/counters.h"
#include "tests/failover/exact_load.h"

namespace reprise::harness {
namespace {

constexpr int kRequests = 6;
constexpr int kTokens = 100;

class Group : public testing::Test {
 protected:
  void SetUp() override {
    auto exact = ExactLoad::Make("tiny-wide");
    ASSERT_TRUE(exact.ok()) << exact.status();
    exact_ = *std::move(exact);
    std::vector<v1::GenerateRequest> requests;
    for (int i = 0; i < kRequests; ++i) {
      requests.push_back(NumberedRequest(i, i == 0 ? 900 : 20 + 9 * i, 512, kTokens));
      if (i == 3) requests.back().mutable_sampling()->set_n(2);
    }
    const Status expected = exact_->Expect(Base(), requests);
    ASSERT_TRUE(expected.ok()) << expected;
  }

  Setting Base() const { return OneWorker(kLoadProgram, exact_->model_dir()); }

  static void ExpectMoreAndExact(CheckedLoad& load) {
    EXPECT_TRUE(load.WaitForTokens(load.tokens() + kRequests * kTokens, kLoadPatienceNs).ok());
    EXPECT_TRUE(load.Stop(kLoadPatienceNs).ok());
    ExactLoad::ExpectExact(load, kRequests);
  }

  std::unique_ptr<ExactLoad> exact_;
};

TEST_F(Group, ADeadAndAFrozenRankAreReplacedAndNobodyElseIsAsked) {
  Setting setting = Base();
  setting.groups = {{"decode-0", "pp2,tp2"}};
  setting.group_spares = 2;
  auto cluster = StartCluster(setting);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  CheckedLoad load = exact_->Start(**cluster);
  ASSERT_TRUE(load.WaitForTokens(kRequests * 20, kLoadPatienceNs).ok());
  ASSERT_TRUE((*cluster)->Kill("decode-0-rank-3").ok());
  ASSERT_TRUE(load.WaitForTokens(load.tokens() + kRequests * kTokens, kLoadPatienceNs).ok());
  ASSERT_TRUE((*cluster)->Freeze("decode-0-rank-1").ok());
  ExpectMoreAndExact(load);
  EXPECT_GE((*cluster)->MetricOverAll("reprise_group_places_replaced_total"), 2);
  EXPECT_GT((*cluster)->MetricOverAll("reprise_group_rows_given_total"), 0);
}

TEST_F(Group, WhenADriverDiesAnotherShapeGoesOnFromTheStores) {
  Setting setting = Base();
  setting.decode_workers = 2;
  setting.stores = 1;
  setting.replica_stores = 1;
  setting.groups = {{"decode-0", "pp2,tp2"}, {"decode-1", "cp3"}};
  setting.worker_flags.push_back("--recovery=restore");  // prompts are short: else it may recompute
  auto cluster = StartCluster(setting);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  constexpr char kRestored[] = "reprise_worker_restored_rows_total";
  Counters counters(**cluster, {kRestored});
  CheckedLoad load = exact_->Start(**cluster);
  for (const char* driver : {"decode-0", "decode-1"}) {
    ASSERT_TRUE(load.WaitForTokens(load.tokens() + kRequests * 30, kLoadPatienceNs).ok());
    counters.AskAll();
    ASSERT_TRUE((*cluster)->Kill(driver).ok());
    ASSERT_TRUE(load.WaitForTokens(load.tokens() + kRequests * 30, kLoadPatienceNs).ok());
    ASSERT_TRUE((*cluster)->Restart(driver).ok());
    ASSERT_TRUE((*cluster)->WaitLive().ok());
  }
  ExpectMoreAndExact(load);
  counters.AskAll();
  EXPECT_GT(counters.Total(kRestored), 0);
}

}  // namespace
}  // namespace reprise::harness
