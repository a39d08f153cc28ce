// Microbatch swapping in real worker processes (DejaVu, arXiv 2403.01876, section 4.2.2): a stage
// of a pipeline, that is a worker whose running set takes turns in 4 microbatches, has room for
// 4 microbatches of 2 sequences. With slots in host memory it runs microbatches of 4. The timed
// engine; real KV rows, copied out and back, from which every token is drawn; only the link's rate
// is timed. A third worker has a link that cannot hide the copies: its planner refuses, and it does
// what it did without.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench_main.h"
#include "bench/placed_cluster.h"
#include "common/percentile.h"
#include "common/random.h"

namespace reprise::bench {
namespace {

constexpr double kSpeedupMin = 1.5;
constexpr double kRefusedMin = 0.9;  // of the speed without swapping
constexpr int kStages = 4;
constexpr int kBatch = 2;
constexpr int kSequences = 32;
constexpr int kPromptTokens = 64;
constexpr int kNewTokens = 65;
constexpr int kBlockTokens = 16;
constexpr int kLayers = 4;
constexpr int kRowBytes = 1'024;
constexpr int kVocab = 4'096;
constexpr double kStepMs = 12;
constexpr TimeNs kTimeoutNs = 120 * kSecond;

constexpr int64_t kPageBytes = int64_t{kBlockTokens} * kLayers * kRowBytes;
constexpr int64_t kSequencePages = (kPromptTokens + kNewTokens - 1) / kBlockTokens;
constexpr int64_t kPoolBytes = kStages * kBatch * kSequencePages * kPageBytes;
constexpr int64_t kFastLink = 600'000'000;
constexpr int64_t kSlowLink = 40'000'000;  // 15 ms for one sequence alone

harness::Cluster::Flags WorkerFlags(int64_t link_bytes_per_s) {
  harness::Cluster::Flags flags = {"--timed",
                                   absl::StrCat("--timed-row-bytes=", kRowBytes),
                                   absl::StrCat("--timed-layers=", kLayers),
                                   absl::StrCat("--timed-step-ms=", kStepMs),
                                   absl::StrCat("--block-tokens=", kBlockTokens),
                                   absl::StrCat("--pool-bytes=", kPoolBytes),
                                   absl::StrCat("--microbatches=", kStages)};
  if (link_bytes_per_s == 0) return flags;
  flags.push_back(absl::StrCat("--swap-host-bytes=", 4 * kPoolBytes));
  flags.push_back(absl::StrCat("--swap-bytes-per-s=", link_bytes_per_s));
  return flags;
}

class Swapping {
 public:
  explicit Swapping(const BenchFlags& flags) : flags_(flags) {}

  Status Run(Report& report) {
    ASSIGN_OR_RETURN(cluster_, PlacedCluster::Start({.reprise = flags_.reprise,
                                                     .workers = {{"without", WorkerFlags(0)},
                                                                 {"with", WorkerFlags(kFastLink)},
                                                                 {"slow", WorkerFlags(kSlowLink)}},
                                                     .stores = {}}));
    const int pairs = flags_.long_run ? 7 : 3;
    std::vector<double> speedups;
    std::vector<double> refused;
    for (int pair = 0; pair < pairs; ++pair) {
      std::vector<std::vector<int32_t>> prompts;
      for (int i = 0; i < kSequences; ++i) prompts.push_back(Prompt());
      ASSIGN_OR_RETURN(const double without, Time("without", prompts));
      ASSIGN_OR_RETURN(const double with, Time("with", prompts));
      ASSIGN_OR_RETURN(const double slow, Time("slow", prompts));
      speedups.push_back(without / with);
      refused.push_back(without / slow);
      std::fprintf(stderr, "%.2f s without, %.2f s with, %.2f s where it is refused\n", without,
                   with, slow);
    }
    report.Note(absl::StrCat(kSequences, " sequences of ", kPromptTokens, " + ", kNewTokens,
                             " tokens; room for ", kStages, " microbatches of ", kBatch, ", step ",
                             kStepMs, " ms, links of 600 and 40 MB/s"));
    report.Figure("bytes_out", Metric("with", "reprise_worker_swap_bytes_total"), "bytes");
    report.Figure("turns_given", Metric("with", "reprise_worker_turns_given_total"), "");
    report.Bar("speedup_at_double_batch", Median(speedups), ">=", kSpeedupMin, pairs);
    report.Bar("copies_lost", Metric("with", "reprise_worker_swap_lost_total"), "==", 0, pairs);
    report.Bar("sequences_different", different_, "==", 0, pairs * 3 * kSequences);
    report.Bar("refused_where_link_cannot_hide",
               Metric("slow", "reprise_worker_swap_refused_total"), ">", 0, pairs);
    report.Bar("turns_given_where_refused", Metric("slow", "reprise_worker_turns_given_total"),
               "==", 0, pairs);
    report.Bar("speed_where_refused", Median(refused), ">=", kRefusedMin, pairs);
    return absl::OkStatus();
  }

 private:
  std::vector<int32_t> Prompt() {
    std::vector<int32_t> prompt(kPromptTokens);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random_.Below(kVocab));
    return prompt;
  }
  double Metric(const std::string& worker, const std::string& family) {
    return cluster_->Metric(worker, family);
  }

  // Seconds for all; the first worker's tokens are what the others must give.
  StatusOr<double> Time(const std::string& worker,
                        const std::vector<std::vector<int32_t>>& prompts) {
    std::vector<v1::Submit> submits;
    for (const std::vector<int32_t>& prompt : prompts) {
      submits.push_back(GreedySubmit(absl::StrCat("swapping-", next_id_++), prompt, kNewTokens));
    }
    const TimeNs start = RealClock().NowNs();
    ASSIGN_OR_RETURN(const auto results,
                     cluster_->worker(worker).RunAll(submits, kSequences, kTimeoutNs));
    const double seconds = SecondsFromNs(RealClock().NowNs() - start);
    std::vector<std::vector<int32_t>> ids;
    for (const harness::WorkerResult& result : results) ids.push_back(result.branches.at(0).ids);
    if (worker == "without") expected_ = ids;
    for (size_t i = 0; i < ids.size(); ++i) {
      different_ += ids[i] != expected_[i] || ids[i].size() != kNewTokens;
    }
    return seconds;
  }

  const BenchFlags& flags_;
  std::unique_ptr<PlacedCluster> cluster_;
  SplitMix64 random_{23};
  std::vector<std::vector<int32_t>> expected_;
  double different_ = 0;
  int next_id_ = 0;
};

Status Run(const BenchFlags& flags, Report& report) { return Swapping(flags).Run(report); }

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("swapping", argc, argv, reprise::bench::Run);
}
