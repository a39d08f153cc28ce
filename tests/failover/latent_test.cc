// Models with latent attention compute prompts and steps in two forms, so their rows say which form
// they have wherever they go. Their tokens are the same whichever way rows travel, and whoever
// dies.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/cluster/counters.h"
#include "tests/failover/exact_load.h"

namespace reprise::harness {
namespace {

constexpr char kRestored[] = "reprise_worker_restored_rows_total";
constexpr int kRequests = 12;

class Latent : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto exact = ExactLoad::Make(GetParam());
    ASSERT_TRUE(exact.ok()) << exact.status();
    exact_ = *std::move(exact);
    std::vector<v1::GenerateRequest> requests;
    for (int i = 0; i < kRequests; ++i) {
      requests.push_back(NumberedRequest(i, 20 + 5 * i, 512, 150));
      if (i % 4 == 3) requests.back().mutable_sampling()->set_n(2);
    }
    // One worker by itself, nobody else in its steps.
    const Status expected = exact_->Expect(Workers(0, 1, 0), requests);
    ASSERT_TRUE(expected.ok()) << expected;
  }

  Setting Workers(int prefills, int decodes, int stores) const {
    Setting setting = exact_->Roles(prefills, decodes, stores);
    setting.model.block_tokens = 8;
    setting.worker_flags = {"--pool-bytes=16MiB", "--threads=1"};
    return setting;
  }

  std::unique_ptr<ExactLoad> exact_;
};

TEST_P(Latent, PromptsComputedElsewhereAndFoundInStoresGiveTheSameTokens) {
  auto cluster = StartCluster(Workers(1, 2, 1));
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  CheckedLoad load = exact_->Start(**cluster);
  EXPECT_TRUE(load.WaitForTokens(3 * kRequests * 150, kLoadPatienceNs).ok());
  EXPECT_TRUE(load.Stop(kLoadPatienceNs).ok());
  ExactLoad::ExpectExact(load, kRequests);
  EXPECT_GT((*cluster)->MetricOverAll("reprise_worker_legs_total", "prefill"), 0);
}

TEST_P(Latent, AKilledWorkerChangesNoToken) {
  auto cluster = StartCluster(Workers(1, 3, 2));
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  Counters counters(**cluster, {kRestored});
  CheckedLoad load = exact_->Start(**cluster);
  for (int kill = 0; kill < 3; ++kill) {
    const std::string victim = absl::StrCat("decode-", kill);
    EXPECT_TRUE(load.WaitForTokens(load.tokens() + kRequests * 100, kLoadPatienceNs).ok());
    counters.Ask(victim);
    ASSERT_TRUE((*cluster)->Kill(victim).ok());
    EXPECT_TRUE(load.WaitForTokens(load.tokens() + kRequests * 100, kLoadPatienceNs).ok());
    const Status repaired = (*cluster)->Repair();
    ASSERT_TRUE(repaired.ok()) << repaired;
  }
  EXPECT_TRUE(load.Stop(kLoadPatienceNs).ok());
  ExactLoad::ExpectExact(load, kRequests);
  EXPECT_GT(Sum(load.results()).hit, 0);
  counters.AskAll();
  EXPECT_GT(counters.Total(kRestored), 0);
}

INSTANTIATE_TEST_SUITE_P(Families, Latent,
                         testing::Values("tiny-deepseek-v2-lite", "tiny-deepseek-v3"),
                         [](const auto& info) {
                           return absl::StrReplaceAll(info.param, {{"-", "_"}});
                         });

}  // namespace
}  // namespace reprise::harness
