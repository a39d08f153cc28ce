#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/placed_cluster.h"
#include "bench/replication_parts.h"
#include "common/random.h"
#include "common/scrape.h"

namespace reprise::bench {
namespace {

constexpr int kStreams = 4;
constexpr int kPromptTokens = 24;
constexpr int kNewTokens = 192;
constexpr int kBlockTokens = 16;
constexpr double kStepMs = 20;
constexpr double kLagMax = 4;
constexpr TimeNs kTimeoutNs = 120 * kSecond;
constexpr char kHistogram[] = "reprise_replication_lag_at_emit_tokens";

struct Rows {
  const char* name;
  int layers;
  int row_bytes;  // of one layer
};
// Llama-3-8B: 32 layers, 8 KV heads of 128, keys and values in 16 bit. DeepSeek-V3: 61 layers of
// 512 + 64 latent elements in 16 bit.
constexpr Rows kRows[] = {{"gqa", 32, 4096}, {"mla", 61, 1152}};

// Emissions by the lag they had: how many at most `bounds[i]` rows.
struct Lags {
  std::vector<double> bounds;
  std::vector<double> at_most;
  double all = 0;
};

StatusOr<Lags> ReadLags(const harness::Cluster& cluster) {
  ASSIGN_OR_RETURN(const std::string page, ScrapeMetrics(cluster.addresses("decode").metrics));
  Lags lags;
  for (const double bound : {0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0}) {
    ASSIGN_OR_RETURN(const double count,
                     SumOfFamily(page, absl::StrCat(kHistogram, "_bucket{le=\"", bound, "\"}")));
    lags.bounds.push_back(bound);
    lags.at_most.push_back(count);
  }
  ASSIGN_OR_RETURN(lags.all, SumOfFamily(page, absl::StrCat(kHistogram, "_count")));
  return lags;
}

// The least bound that `share` of the emissions between two readings kept; beyond the last one it
// is not known how far.
double Quantile(const Lags& before, const Lags& after, double share) {
  const double wanted = share * (after.all - before.all);
  for (size_t i = 0; i < after.bounds.size(); ++i) {
    if (after.at_most[i] - before.at_most[i] >= wanted) return after.bounds[i];
  }
  return 1024;
}

Status RunStreams(PlacedCluster& cluster, const std::string& name, SplitMix64& random) {
  std::vector<v1::Submit> submits;
  for (int i = 0; i < kStreams; ++i) {
    std::vector<int32_t> prompt(kPromptTokens);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random.Below(4096));
    submits.push_back(GreedySubmit(absl::StrCat(name, "-", i), prompt, kNewTokens));
    *submits.back().add_stores() = cluster.ref("store");
  }
  return cluster.worker("decode").RunAll(submits, kStreams, kTimeoutNs).status();
}

Status Measure(const BenchFlags& flags, const Rows& rows, Report& report) {
  const int64_t token_bytes = int64_t{rows.layers} * rows.row_bytes;
  const int64_t stream_bytes = (kPromptTokens + kNewTokens + kBlockTokens) * token_bytes;
  const harness::Cluster::Flags worker = {
      "--timed", absl::StrCat("--timed-layers=", rows.layers),
      absl::StrCat("--timed-row-bytes=", rows.row_bytes), absl::StrCat("--timed-step-ms=", kStepMs),
      // The timed engine reads all its rows at every token, which a device would do in the step.
      absl::StrCat("--timed-hidden-ms=", kStepMs), absl::StrCat("--block-tokens=", kBlockTokens),
      absl::StrCat("--pool-bytes=", 2 * kStreams * stream_bytes)};
  ASSIGN_OR_RETURN(
      const auto cluster,
      PlacedCluster::Start(
          {.reprise = flags.reprise,
           .workers = {{"decode", worker}},
           .stores = {{"store", {absl::StrCat("--memory-bytes=", 2 * kStreams * stream_bytes)}}}}));
  SplitMix64 random(13);
  RETURN_IF_ERROR(RunStreams(*cluster, "first", random));  // connects
  ASSIGN_OR_RETURN(const Lags before, ReadLags(cluster->processes()));
  const int rounds = flags.long_run ? 20 : 3;
  for (int round = 0; round < rounds; ++round) {
    RETURN_IF_ERROR(RunStreams(*cluster, absl::StrCat("round-", round), random));
  }
  ASSIGN_OR_RETURN(const Lags after, ReadLags(cluster->processes()));
  const std::string of = absl::StrCat("_", rows.name);
  report.Figure("token_bytes" + of, static_cast<double>(token_bytes), "bytes");
  report.Figure("lag_p50" + of, Quantile(before, after, 0.5), "tokens");
  report.Bar("lag_p99_tokens" + of, Quantile(before, after, 0.99), "<=", kLagMax,
             static_cast<int64_t>(after.all - before.all));
  return absl::OkStatus();
}

}  // namespace

Status MeasureReplicationLag(const BenchFlags& flags, Report& report) {
  report.Note(absl::StrCat("lag: ", kStreams, " streams of ", kPromptTokens, " + ", kNewTokens,
                           " tokens, steps of ", kStepMs,
                           " ms; the row just computed counts, so 1 is the least"));
  for (const Rows& rows : kRows) RETURN_IF_ERROR(Measure(flags, rows, report));
  return absl::OkStatus();
}

}  // namespace reprise::bench
