// Models with latent attention compute prompts and steps in two forms, so their rows say which form
// they have wherever they go. Their tokens are the same whichever way rows travel, and whoever
// dies.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/subprocess.h"
#include "tests/cluster/counters.h"
#include "tests/cluster/scratch_dir.h"
#include "tests/cluster/setting.h"

namespace reprise::harness {
namespace {

constexpr TimeNs kPatienceNs = 120 * kSecond;  // liveness only
constexpr char kProgram[] = "cli/reprise";
constexpr char kRestored[] = "reprise_worker_restored_rows_total";
constexpr int kRequests = 12;

class Latent : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto folder = ScratchDir::Create();
    ASSERT_TRUE(folder.ok()) << folder.status();
    folder_ = *std::move(folder);
    model_dir_ = folder_->path() + "/model";
    auto made =
        Subprocess::Spawn({.argv = {kProgram, "make-model", absl::StrCat("--preset=", GetParam()),
                                    "--seed=5", model_dir_}});
    ASSERT_TRUE(made.ok()) << made.status();
    const auto exit = (*made)->Wait(kPatienceNs);
    ASSERT_TRUE(exit.has_value() && exit->ok());
    Expect();
  }

  StatusOr<std::unique_ptr<Cluster>> Start(int prefills, int decodes, int stores) const {
    Setting setting;
    setting.program = kProgram;
    setting.model_dir = model_dir_;
    setting.model.block_tokens = 8;
    setting.prefill_workers = prefills;
    setting.decode_workers = decodes;
    setting.stores = stores;
    setting.gateways = 1;
    setting.replica_stores = std::min(stores, 1);
    setting.remote_prefill_min_tokens = 16;
    setting.worker_flags = {"--pool-bytes=16MiB", "--threads=1"};
    return StartCluster(setting);
  }

  static v1::GenerateRequest Request(int number) {
    v1::GenerateRequest request;
    for (int i = 0; i < 20 + 5 * number; ++i) {
      request.mutable_ids()->add_ids(1 + (number * 131 + i * i * 7 + i) % 500);
    }
    v1::SamplingParams& sampling = *request.mutable_sampling();
    sampling.set_temperature(number % 2 == 0 ? 0.0F : 1.0F);
    sampling.set_seed(static_cast<uint64_t>(number));
    sampling.set_n(number % 4 == 3 ? 2 : 1);
    sampling.set_max_tokens(150);
    sampling.set_ignore_eos(true);
    return request;
  }

  // One worker by itself, nobody else in its steps.
  void Expect() {
    auto cluster = Start(0, 1, 0);
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    std::vector<v1::GenerateRequest> requests;
    for (int i = 0; i < kRequests; ++i) requests.push_back(Request(i));
    auto transcripts = RunForTranscripts((*cluster)->gateways().front(), requests);
    ASSERT_TRUE(transcripts.ok()) << transcripts.status();
    requests_ = *std::move(transcripts);
  }

  // All in flight at once, again and again.
  CheckedLoad Load(const Cluster& cluster) const {
    return CheckedLoad(InTurn(cluster.gateways(), kRequests, requests_));
  }
  static void ExpectExact(const CheckedLoad& load) {
    const LoadTotals totals = Sum(load.results());
    EXPECT_EQ(totals.errors, 0) << totals.first_error;
    EXPECT_EQ(totals.lost + totals.duplicated + totals.different, 0);
    EXPECT_GE(totals.streams, kRequests);
  }

  std::unique_ptr<ScratchDir> folder_;
  std::string model_dir_;
  std::vector<CheckedRequest> requests_;
};

TEST_P(Latent, PromptsComputedElsewhereAndFoundInStoresGiveTheSameTokens) {
  auto cluster = Start(1, 2, 1);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  CheckedLoad load = Load(**cluster);
  EXPECT_TRUE(load.WaitForTokens(3 * kRequests * 150, kPatienceNs).ok());
  EXPECT_TRUE(load.Stop(kPatienceNs).ok());
  ExpectExact(load);
  EXPECT_GT((*cluster)->MetricOverAll("reprise_worker_legs_total", "prefill"), 0);
}

TEST_P(Latent, AKilledWorkerChangesNoToken) {
  auto cluster = Start(1, 3, 2);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  Counters counters(**cluster, {kRestored});
  CheckedLoad load = Load(**cluster);
  for (int kill = 0; kill < 3; ++kill) {
    const std::string victim = absl::StrCat("decode-", kill);
    EXPECT_TRUE(load.WaitForTokens(load.tokens() + kRequests * 100, kPatienceNs).ok());
    counters.Ask(victim);
    ASSERT_TRUE((*cluster)->Kill(victim).ok());
    EXPECT_TRUE(load.WaitForTokens(load.tokens() + kRequests * 100, kPatienceNs).ok());
    const Status repaired = (*cluster)->Repair();
    ASSERT_TRUE(repaired.ok()) << repaired;
  }
  EXPECT_TRUE(load.Stop(kPatienceNs).ok());
  ExpectExact(load);
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
