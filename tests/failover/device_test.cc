// Workers that compute on a device, the emulated one where there is no card: rows travel, are
// stored and restored as others' do, and a killed worker changes no token.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/cluster/counters.h"
#include "tests/failover/exact_load.h"

namespace reprise::harness {
namespace {

constexpr char kRestored[] = "reprise_worker_restored_rows_total";
constexpr int kRequests = 4;
constexpr int kTokens = 60;

class OnDevice : public testing::Test {
 protected:
  void SetUp() override {
    auto exact = ExactLoad::Make("tiny-gqa");
    ASSERT_TRUE(exact.ok()) << exact.status();
    exact_ = *std::move(exact);
    std::vector<v1::GenerateRequest> requests;
    requests.reserve(kRequests);
    for (int i = 0; i < kRequests; ++i) {
      requests.push_back(NumberedRequest(i, 30 + 40 * i, 512, kTokens));
    }
    const Status expected = exact_->Expect(Workers(0, 1, 0), requests);
    ASSERT_TRUE(expected.ok()) << expected;
  }

  Setting Workers(int prefills, int decodes, int stores) const {
    Setting setting = exact_->Roles(prefills, decodes, stores);
    setting.model.block_tokens = 64;
    setting.worker_flags = {"--pool-bytes=4MiB", "--device=emulated"};
    return setting;
  }

  std::unique_ptr<ExactLoad> exact_;
};

TEST_F(OnDevice, AKilledWorkerChangesNoToken) {
  auto cluster = StartCluster(Workers(1, 2, 1));
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  Counters counters(**cluster, {kRestored});
  CheckedLoad load = exact_->Start(**cluster);
  EXPECT_TRUE(load.WaitForTokens(kRequests * kTokens, kLoadPatienceNs).ok());
  counters.Ask("decode-0");
  ASSERT_TRUE((*cluster)->Kill("decode-0").ok());
  EXPECT_TRUE(load.WaitForTokens(load.tokens() + 2 * kRequests * kTokens, kLoadPatienceNs).ok());
  const Status repaired = (*cluster)->Repair();
  ASSERT_TRUE(repaired.ok()) << repaired;
  EXPECT_TRUE(load.WaitForTokens(load.tokens() + kRequests * kTokens, kLoadPatienceNs).ok());
  EXPECT_TRUE(load.Stop(kLoadPatienceNs).ok());
  ExactLoad::ExpectExact(load, kRequests);
  EXPECT_GT((*cluster)->MetricOverAll("reprise_worker_legs_total", "prefill"), 0);
  counters.AskAll();
  EXPECT_GT(counters.Total(kRestored), 0);
}

}  // namespace
}  // namespace reprise::harness
