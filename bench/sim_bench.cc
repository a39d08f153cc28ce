// The simulator as a benchmark: every seeded history keeps every promise, and how many histories a
// core judges in a minute. No process, socket or model is needed.
#include <ctime>

#include "absl/strings/str_cat.h"
#include "bench/bench_main.h"
#include "common/clock.h"
#include "tests/simulation/cluster.h"

namespace reprise::bench {
namespace {

constexpr uint64_t kSeeds = 300;
constexpr uint64_t kSeedsLong = 5000;

double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

Status Run(const BenchFlags& flags, Report& report) {
  const uint64_t seeds = flags.long_run ? kSeedsLong : kSeeds;
  const double before = CpuSeconds();
  sim::RunTotals totals;
  int64_t violations = 0;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    const sim::RunResult result = sim::RunSeed({.seed = seed});
    totals.Add(result.totals);
    if (!result.failure) continue;
    if (++violations <= 5) report.Note(absl::StrCat("seed ", seed, ": ", *result.failure));
  }
  const double cpu = CpuSeconds() - before;
  const auto samples = static_cast<int64_t>(seeds);
  report.Figure("seeds_per_minute_per_core", static_cast<double>(seeds) / cpu * 60, "");
  report.Figure("tokens_judged", static_cast<double>(totals.journal.tokens), "");
  report.Figure("attempts_granted", static_cast<double>(totals.journal.attempts), "");
  report.Figure("watermarks_compared", static_cast<double>(totals.watermarks_checked), "");
  int64_t never = 0;
  for (size_t kind = 0; kind < sim::kInjectedNames.size(); ++kind) {
    never += totals.faults.of(kind) == 0;
  }
  report.Note(absl::StrCat("faults injected: ", totals.faults.Text()));
  report.Bar("fault_kinds_never_injected", static_cast<double>(never), "==", 0, samples);
  report.Bar("violations", static_cast<double>(violations), "==", 0, samples);
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("sim", argc, argv, reprise::bench::Run);
}
