// Workers that are groups of ranks: their tokens are one process's, whichever rank dies or stands
// still, and whichever group goes on with a request of the other.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/subprocess.h"
#include "tests/cluster/counters.h"
#include "tests/cluster/scratch_dir.h"
#include "tests/cluster/setting.h"

namespace reprise::harness {
namespace {

constexpr TimeNs kPatienceNs = 120 * kSecond;  // liveness only
constexpr char kProgram[] = "cli/reprise";
constexpr int kRequests = 6;
constexpr int kTokens = 100;

class Group : public testing::Test {
 protected:
  void SetUp() override {
    auto folder = ScratchDir::Create();
    ASSERT_TRUE(folder.ok()) << folder.status();
    folder_ = *std::move(folder);
    model_dir_ = folder_->path() + "/model";
    auto made = Subprocess::Spawn(
        {.argv = {kProgram, "make-model", "--preset=tiny-wide", "--seed=5", model_dir_}});
    ASSERT_TRUE(made.ok()) << made.status();
    const auto exit = (*made)->Wait(kPatienceNs);
    ASSERT_TRUE(exit.has_value() && exit->ok());
    auto alone = StartCluster(Base());
    ASSERT_TRUE(alone.ok()) << alone.status();
    std::vector<v1::GenerateRequest> requests;
    for (int i = 0; i < kRequests; ++i) requests.push_back(Request(i));
    auto transcripts = RunForTranscripts((*alone)->gateways().front(), requests);
    ASSERT_TRUE(transcripts.ok()) << transcripts.status();
    requests_ = *std::move(transcripts);
  }

  Setting Base() const {
    Setting setting;
    setting.program = kProgram;
    setting.model_dir = model_dir_;
    setting.model.block_tokens = 16;
    setting.decode_workers = 1;
    setting.stores = 0;
    setting.gateways = 1;
    setting.replica_stores = 0;
    setting.worker_flags = {"--pool-bytes=32MiB"};
    return setting;
  }

  static v1::GenerateRequest Request(int number) {
    v1::GenerateRequest request;
    for (int i = 0; i < (number == 0 ? 900 : 20 + 9 * number); ++i) {
      request.mutable_ids()->add_ids(1 + (number * 131 + i * i * 7 + i) % 500);
    }
    v1::SamplingParams& sampling = *request.mutable_sampling();
    sampling.set_temperature(number % 2 == 0 ? 0.0F : 1.0F);
    sampling.set_seed(static_cast<uint64_t>(number));
    sampling.set_n(number == 3 ? 2 : 1);
    sampling.set_max_tokens(kTokens);
    sampling.set_ignore_eos(true);
    return request;
  }

  CheckedLoad Load(const Cluster& cluster) const {
    return CheckedLoad(InTurn(cluster.gateways(), kRequests, requests_));
  }
  static void ExpectMoreAndExact(CheckedLoad& load) {
    EXPECT_TRUE(load.WaitForTokens(load.tokens() + kRequests * kTokens, kPatienceNs).ok());
    EXPECT_TRUE(load.Stop(kPatienceNs).ok());
    const LoadTotals totals = Sum(load.results());
    EXPECT_EQ(totals.errors, 0) << totals.first_error;
    EXPECT_EQ(totals.lost + totals.duplicated + totals.different, 0);
    EXPECT_GE(totals.streams, kRequests);
  }

  std::unique_ptr<ScratchDir> folder_;
  std::string model_dir_;
  std::vector<CheckedRequest> requests_;
};

TEST_F(Group, ADeadAndAFrozenRankAreReplacedAndNobodyElseIsAsked) {
  Setting setting = Base();
  setting.groups = {{"decode-0", "pp2,tp2"}};
  setting.group_spares = 2;
  auto cluster = StartCluster(setting);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  CheckedLoad load = Load(**cluster);
  ASSERT_TRUE(load.WaitForTokens(kRequests * 20, kPatienceNs).ok());
  ASSERT_TRUE((*cluster)->Kill("decode-0-rank-3").ok());
  ASSERT_TRUE(load.WaitForTokens(load.tokens() + kRequests * kTokens, kPatienceNs).ok());
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
  CheckedLoad load = Load(**cluster);
  for (const char* driver : {"decode-0", "decode-1"}) {
    ASSERT_TRUE(load.WaitForTokens(load.tokens() + kRequests * 30, kPatienceNs).ok());
    counters.AskAll();
    ASSERT_TRUE((*cluster)->Kill(driver).ok());
    ASSERT_TRUE(load.WaitForTokens(load.tokens() + kRequests * 30, kPatienceNs).ok());
    ASSERT_TRUE((*cluster)->Restart(driver).ok());
    ASSERT_TRUE((*cluster)->WaitLive().ok());
  }
  ExpectMoreAndExact(load);
  counters.AskAll();
  EXPECT_GT(counters.Total(kRestored), 0);
}

}  // namespace
}  // namespace reprise::harness
