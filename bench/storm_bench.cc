// A storm of faults: every five seconds a random process of any role is killed or frozen, while
// streams run through two gateways with clients that resume by themselves. Every token is compared
// with what an undisturbed run gives.
//
// Of each role at least one process is whole at any moment (a cluster without any gateway serves
// nobody); everything else is drawn, from a seed that is printed.
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bench/bench_main.h"
#include "bench/fault_plan.h"
#include "common/percentile.h"
#include "common/random.h"
#include "tests/cluster/counters.h"
#include "tests/cluster/setting.h"

namespace reprise::bench {
namespace {

using harness::LoadTotals;

constexpr int kStreams = 256;
constexpr int kTokens = 200;
constexpr double kStepMs = 20;
constexpr int kPromptTokens = 64;
constexpr TimeNs kEndTimeoutNs = 120 * kSecond;
constexpr int kModelStreams = 32;
constexpr int kModelKills = 10;
constexpr int kModelRequests = 16;  // different ones
constexpr TimeNs kModelFaultEveryNs = 3 * kSecond;

constexpr char kRestored[] = "reprise_worker_restored_rows_total";
constexpr char kReplayed[] = "reprise_worker_replayed_rows_total";
constexpr char kRefused[] = "reprise_stale_refused_total";

harness::Setting StormSetting(const BenchFlags& flags) {
  harness::Setting setting;
  setting.program = flags.reprise;
  setting.coordinators = 2;
  setting.replica_stores = 2;
  setting.store_disks = true;
  setting.step_ms = kStepMs;
  setting.worker_flags = {"--timed-hidden-ms=10"};
  return setting;
}

Status RunFaults(FaultPlan& plan, harness::Counters& counters, TimeNs until) {
  StopSignal never;
  while (true) {
    const TimeNs next = plan.NextNs();
    if (next > until && plan.whole()) return absl::OkStatus();
    never.WaitFor(std::max<TimeNs>(0, next - RealClock().NowNs()));
    RETURN_IF_ERROR(plan.Step(next <= until, [&](const std::string& name) { counters.Ask(name); }));
  }
}

void ReportTotals(const std::string& prefix, const LoadTotals& t, Report& report) {
  if (!t.first_error.ok()) report.Note(prefix + "first error: " + t.first_error.ToString());
  report.Figure(prefix + "streams", static_cast<double>(t.streams), "");
  report.Figure(prefix + "streams_hit", static_cast<double>(t.hit), "");
  report.Figure(prefix + "tokens", static_cast<double>(t.received), "");
  report.Figure(prefix + "ttft_p50", Percentile(t.ttft_ms, 50), "ms");
  report.Figure(prefix + "ttft_p99", Percentile(t.ttft_ms, 99), "ms");
  report.Figure(prefix + "untouched_gap_p99", Percentile(t.untouched_gaps_ms, 99), "ms");
  report.Bar(prefix + "lost", static_cast<double>(t.lost), "==", 0, t.received);
  report.Bar(prefix + "duplicated", static_cast<double>(t.duplicated), "==", 0, t.received);
  report.Bar(prefix + "different", static_cast<double>(t.different), "==", 0, t.received);
  report.Bar(prefix + "client_errors", static_cast<double>(t.errors), "==", 0, t.streams);
}

Status RunTimed(const BenchFlags& flags, Report& report) {
  const harness::Setting setting = StormSetting(flags);
  ASSIGN_OR_RETURN(const auto cluster, harness::StartCluster(setting));
  harness::Counters counters(*cluster, {kRestored, kReplayed, kRefused});
  const uint64_t seed = RandomU64() % 1'000'000;
  report.Note(absl::StrCat("seed of the faults ", seed));
  harness::CheckedLoad load(
      harness::TimedLoad(setting, *cluster, kStreams, kPromptTokens, kTokens));
  RETURN_IF_ERROR(load.WaitForTokens(int64_t{kStreams} * 20, kEndTimeoutNs));
  const TimeNs start = RealClock().NowNs();
  FaultPlan plan(*cluster, {.seed = seed});
  RETURN_IF_ERROR(RunFaults(plan, counters, start + (flags.long_run ? 600 : 60) * kSecond));
  const Status stopped = load.Stop(kEndTimeoutNs);
  if (!stopped.ok()) report.Note(stopped.ToString());
  counters.AskAll();
  const LoadTotals totals = harness::Sum(load.results());
  for (const std::string& line : plan.story()) report.Note(line);
  ReportTotals("", totals, report);
  const double restored = counters.Total(kRestored);
  const double replayed = counters.Total(kReplayed);
  report.Figure("faults", plan.faults(), "");
  report.Figure("unordered_deaths", plan.unordered_deaths(), "");
  report.Figure("hit_gap_p50", Percentile(totals.hit_gaps_ms, 50), "ms");
  report.Figure("hit_gap_max", Percentile(totals.hit_gaps_ms, 100), "ms");
  report.Figure("restored_rows", restored, "");
  report.Figure("recomputed_rows", replayed, "");
  report.Bar("streams_left_over", load.running(), "==", 0, totals.streams);
  report.Bar("hit_gap_p99_s", Percentile(totals.hit_gaps_ms, 99) / 1000, "<=", 3, totals.hit);
  report.Bar("restored_share", restored / std::max(1.0, restored + replayed), ">=", 0.95,
             static_cast<int64_t>(restored + replayed));
  report.Bar("stale_refused", counters.Total(kRefused), ">", 0, plan.faults());
  return absl::OkStatus();
}

// What the demo model says to some prompts when nobody is killed.
StatusOr<std::vector<harness::CheckedRequest>> Undisturbed(const harness::Cluster& cluster) {
  std::vector<v1::GenerateRequest> requests(kModelRequests);
  for (int i = 0; i < kModelRequests; ++i) {
    v1::GenerateRequest& request = requests[static_cast<size_t>(i)];
    request.set_text(absl::StrCat("Once upon a time there were ", i + 2,
                                  " little cats who lived near the sea. One day"));
    v1::SamplingParams& sampling = *request.mutable_sampling();
    sampling.set_temperature(i % 4 == 0 ? 0.0f : 1.0f);
    sampling.set_seed(static_cast<uint64_t>(i));
    sampling.set_max_tokens(150);
    sampling.set_ignore_eos(true);
  }
  return harness::RunForTranscripts(cluster.gateways().front(), requests);
}

Status RunModel(const BenchFlags& flags, Report& report) {
  harness::Setting setting = StormSetting(flags);
  setting.model_dir = flags.models + "/demo";
  setting.worker_flags = {"--pool-bytes=32MiB"};
  ASSIGN_OR_RETURN(const auto cluster, harness::StartCluster(setting));
  harness::Counters counters(*cluster, {kRestored});
  ASSIGN_OR_RETURN(const std::vector<harness::CheckedRequest> requests, Undisturbed(*cluster));
  harness::CheckedLoad load(harness::InTurn(cluster->gateways(), kModelStreams, requests));
  RETURN_IF_ERROR(load.WaitForTokens(kModelStreams * 5, kEndTimeoutNs));
  FaultPlan plan(
      *cluster,
      {.seed = RandomU64() % 1'000'000, .every_ns = kModelFaultEveryNs, .kills_only = true});
  const TimeNs until = RealClock().NowNs() + kModelKills * kModelFaultEveryNs + kSecond;
  RETURN_IF_ERROR(RunFaults(plan, counters, until));
  RETURN_IF_ERROR(load.Stop(kEndTimeoutNs));
  report.Bar("model_kills", plan.faults(), ">=", kModelKills, plan.faults());
  ReportTotals("model_", harness::Sum(load.results()), report);
  return absl::OkStatus();
}

Status Run(const BenchFlags& flags, Report& report) {
  RETURN_IF_ERROR(RunTimed(flags, report));
  return RunModel(flags, report);
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("storm", argc, argv, reprise::bench::Run);
}
