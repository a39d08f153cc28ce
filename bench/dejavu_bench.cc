// DejaVu's claims in its own setting ("paper mode"): pipeline stages as one process each, whose
// work is timed waits and whose KV rows are real bytes that move between the processes over the KV
// stream. Failures: a killed stage is replaced by a warm spare, which gets its rows back from its
// neighbour, against a restart of everything in flight on the same processes. Split: prompts and
// tokens on processes of their own against the mixed pipeline and against the planner's model of
// the same lengths. Swapping: double microbatches over a link that hides their transfers.
#include <sys/resource.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "bench/bench_main.h"
#include "bench/dejavu_run.h"
#include "bench/dejavu_stage.h"
#include "bench/dejavu_wire.h"
#include "common/percentile.h"
#include "common/thread.h"
#include "coordinator/planner/pipeline_model.h"
#include "coordinator/planner/swap.h"

namespace reprise::bench {
namespace {

constexpr double kSlowdownMax = 1.05;
constexpr double kRestartOverResumeMin = 1.6;
constexpr double kThreeFailuresMin = 1.16;
constexpr double kModelErrorMax = 0.1;
constexpr double kSwappingMin = 1.5;

constexpr int kFailureStages = 4;
constexpr double kPromptOverToken = 14;  // of OPT-66B in the paper's failure test
constexpr int kPromptRows = 500;
constexpr int kNewTokens = 1000;
constexpr int kKilledAfterTokens = 700;
constexpr int64_t kFailureRowBytes = 16 << 10;  // a quarter of 64 KiB a token
constexpr double kFailureTokenS = 0.05;
constexpr int kThreeFailureMicrobatches = 8;
constexpr double kThreeFailureTokenS = 0.025;

constexpr double kSplitTokenS = 0.02;
constexpr double kSplitPromptOverToken = 50;
constexpr int64_t kSplitRowBytes = 16 << 10;  // 8 MiB a prompt

constexpr double kSwapTokenS = 0.04;
constexpr int kSwapPromptRows = 128;
constexpr int kSwapNewTokens = 96;
constexpr int64_t kSwapRowBytes = 4 << 10;  // of one stage at batch b
constexpr int64_t kSwapFastLink = 230'000'000;
constexpr int64_t kSwapSlowLink = 80'000'000;

std::string Self() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).string();
}

// Runs that start together; they mostly wait.
StatusOr<std::vector<DejavuRunResult>> RunTogether(const std::vector<DejavuRunOptions>& runs) {
  std::vector<StatusOr<DejavuRunResult>> results(runs.size(), absl::InternalError("did not run"));
  {
    std::vector<Thread> threads;
    for (size_t i = 0; i < runs.size(); ++i) {
      threads.emplace_back("run", [&, i] { results[i] = RunDejavu(runs[i]); });
    }
  }
  std::vector<DejavuRunResult> all;
  for (auto& result : results) {
    RETURN_IF_ERROR(result.status());
    all.push_back(*std::move(result));
  }
  return all;
}

// Over all parts: rows that crossed between processes, and those that did not arrive as they left.
struct Rows {
  int64_t moved = 0;
  int64_t wrong = 0;
  void Count(const std::vector<DejavuRunResult>& results) {
    for (const DejavuRunResult& result : results) {
      moved += result.rows_from_peers;
      wrong += result.rows_wrong;
    }
  }
};

DejavuRunOptions FailureRun(double token_s, int microbatches) {
  return {.program = Self(),
          .stages = kFailureStages,
          .split = {},
          .prompt_s = kPromptOverToken * token_s,
          .token_s = token_s,
          .prompt_rows = kPromptRows,
          .row_bytes = kFailureRowBytes,
          .new_tokens = std::vector<int>(static_cast<size_t>(microbatches), kNewTokens),
          .replicate = true,
          .kills = {},
          .swap_bytes_per_s = 0};
}

// A quarter, a half and three quarters of the undisturbed run, each at another stage.
std::vector<DejavuKill> ThreeKills(const DejavuRunOptions& run) {
  const double undisturbed_s = planner::SimulateMixed(run.stages, {.prompt_s = run.prompt_s,
                                                                   .token_s = run.token_s,
                                                                   .stream_overhead = 1,
                                                                   .new_tokens = run.new_tokens});
  std::vector<DejavuKill> kills;
  for (const int stage : {1, 2, 3}) {
    kills.push_back({.stage = stage, .after_tokens = 0, .at_s = undisturbed_s * stage / 4});
  }
  return kills;
}

struct FailureSamples {
  std::vector<double> slowdown;
  std::vector<double> restart_over_resume;
  std::vector<double> three_restart_over_resume;
  std::vector<double> detect_ms;
  std::vector<double> recover_ms;
  std::vector<double> restored;
  std::vector<double> repeated;

  void Add(const std::vector<DejavuRunResult>& r) {
    slowdown.push_back(r[1].seconds / r[0].seconds);
    restart_over_resume.push_back(r[2].seconds / r[1].seconds);
    three_restart_over_resume.push_back(r[4].seconds / r[3].seconds);
    for (const size_t resumed : {1, 3}) {
      for (const double s : r[resumed].detect_s) detect_ms.push_back(s * 1e3);
      for (const double s : r[resumed].recover_s) recover_ms.push_back(s * 1e3);
      restored.push_back(static_cast<double>(r[resumed].rows_restored));
      repeated.push_back(static_cast<double>(r[resumed].steps_repeated));
    }
  }
};

// Undisturbed, resumed and restarted for one failure, the latter two for three: side by side.
std::vector<DejavuRunOptions> FailureRuns() {
  const DejavuRunOptions one = FailureRun(kFailureTokenS, kFailureStages);
  const DejavuRunOptions three = FailureRun(kThreeFailureTokenS, kThreeFailureMicrobatches);
  std::vector<DejavuRunOptions> runs = {one, one, one, three, three};
  runs[1].kills = {{.stage = 2, .after_tokens = kKilledAfterTokens, .at_s = 0}};
  runs[3].kills = ThreeKills(three);
  for (const size_t restarted : {2, 4}) {
    runs[restarted].kills = runs[restarted - 1].kills;
    runs[restarted].replicate = false;
  }
  return runs;
}

Status MeasureFailures(int samples, Rows* rows, Report& report) {
  FailureSamples all;
  for (int i = 0; i < samples; ++i) {
    ASSIGN_OR_RETURN(const std::vector<DejavuRunResult> results, RunTogether(FailureRuns()));
    rows->Count(results);
    all.Add(results);
    report.Figure(absl::StrCat("one_failure_undisturbed_", i), results[0].seconds, "s");
    report.Figure(absl::StrCat("one_failure_resumed_", i), results[1].seconds, "s");
    report.Figure(absl::StrCat("one_failure_restarted_", i), results[2].seconds, "s");
    report.Figure(absl::StrCat("three_failures_resumed_", i), results[3].seconds, "s");
    report.Figure(absl::StrCat("three_failures_restarted_", i), results[4].seconds, "s");
  }
  report.Note("failures: 4 stages and warm spares, 500 + 1,000 tokens, Y/t 14, 64 KiB a token");
  report.Note("one failure: t 50 ms (scale 1); three: t 25 ms (scale 1/2), 8 microbatches");
  report.Figure("detect_median", Median(all.detect_ms), "ms");
  report.Figure("recover_median", Median(all.recover_ms), "ms");
  report.Figure("rows_restored_median", Median(all.restored), "");
  report.Figure("steps_repeated_median", Median(all.repeated), "");
  report.Bar("one_failure_slowdown", Median(all.slowdown), "<=", kSlowdownMax, samples);
  report.Bar("one_failure_restart_over_resume", Median(all.restart_over_resume),
             ">=", kRestartOverResumeMin, samples);
  report.Bar("three_failures_restart_over_resume", Median(all.three_restart_over_resume),
             ">=", kThreeFailuresMin, samples);
  return absl::OkStatus();
}

DejavuRunOptions SplitRun(int machines, const planner::PipelineLoad& load) {
  return {.program = Self(),
          .stages = machines,
          .split = {},
          .prompt_s = load.prompt_s,
          .token_s = load.token_s,
          .prompt_rows = kPromptRows,
          .row_bytes = kSplitRowBytes,
          .new_tokens = load.new_tokens,
          .replicate = false,
          .kills = {},
          .swap_bytes_per_s = 0};
}

// Mixed and split pipelines of 4 and 6 machines side by side, on the same lengths as the model.
Status MeasureSplit(int microbatches, Rows* rows, Report& report) {
  const planner::PipelineLoad load = {
      .prompt_s = kSplitPromptOverToken * kSplitTokenS,
      .token_s = kSplitTokenS,
      .stream_overhead = 1.02,
      .new_tokens = planner::LognormalLengths({.count = microbatches})};
  const std::vector<int> machines = {4, 6};
  std::vector<planner::SimulatedGain> model;
  std::vector<DejavuRunOptions> runs;
  for (const int d : machines) {
    model.push_back(planner::SimulateBestSplit(d, load));
    runs.push_back(SplitRun(d, load));
    runs.push_back(runs.back());
    runs.back().split = model.back().split;
  }
  ASSIGN_OR_RETURN(const std::vector<DejavuRunResult> results, RunTogether(runs));
  rows->Count(results);
  report.Note(absl::StrCat("split: t 20 ms, Y/t 50, ", microbatches,
                           " microbatches, lognormal lengths of mean 100, 8 MiB of KV a prompt"));
  for (size_t i = 0; i < machines.size(); ++i) {
    const std::string at = absl::StrCat("_d", machines[i]);
    const double measured = results[2 * i].seconds / results[2 * i + 1].seconds;
    report.Note(absl::StrCat(machines[i], " machines: ", model[i].split.prompt_machines,
                             " compute prompts, ", model[i].split.token_machines, " tokens"));
    report.Figure("mixed" + at, results[2 * i].seconds, "s");
    report.Figure("mixed_by_model" + at, model[i].mixed_s, "s");
    report.Figure("split" + at, results[2 * i + 1].seconds, "s");
    report.Figure("split_by_model" + at, model[i].split_s, "s");
    report.Figure("disaggregation_gain" + at, measured, "");
    report.Figure("disaggregation_gain_by_model" + at, model[i].gain(), "");
    report.Bar("disaggregation_gain_off_model" + at, std::abs(measured / model[i].gain() - 1),
               "<=", kModelErrorMax, microbatches);
  }
  return absl::OkStatus();
}

// `batch` times b a microbatch; prompts are bound by computing, token steps by weights.
DejavuRunOptions SwapRun(int batch, int microbatches, int64_t link_bytes_per_s) {
  return {.program = Self(),
          .stages = 4,
          .split = {},
          .prompt_s = 4 * kSwapTokenS * batch,
          .token_s = kSwapTokenS,
          .prompt_rows = kSwapPromptRows,
          .row_bytes = kSwapRowBytes * batch,
          .new_tokens = std::vector<int>(static_cast<size_t>(microbatches), kSwapNewTokens),
          .replicate = false,
          .kills = {},
          .swap_bytes_per_s = link_bytes_per_s};
}

StatusOr<planner::SwapPlan> PlanOf(int64_t link_bytes_per_s) {
  return planner::PlanSwap({.stages = 4,
                            .batch = 1,
                            .kv_bytes_per_token = static_cast<double>(4 * kSwapRowBytes),
                            .link_bytes_per_s = static_cast<double>(link_bytes_per_s),
                            .token_s = kSwapTokenS,
                            .prompt_tokens = kSwapPromptRows,
                            .new_tokens = kSwapNewTokens});
}

// 8 microbatches of b without swapping against 4 of 2b with it, in pairs.
StatusOr<double> SwapSpeedup(int64_t link_bytes_per_s, Rows* rows) {
  ASSIGN_OR_RETURN(const auto without, RunTogether({SwapRun(1, 8, 0)}));
  ASSIGN_OR_RETURN(const auto with, RunTogether({SwapRun(2, 4, link_bytes_per_s)}));
  rows->Count(with);
  return without[0].seconds / with[0].seconds;
}

Status MeasureSwapping(int pairs, Rows* rows, Report& report) {
  ASSIGN_OR_RETURN(const planner::SwapPlan fast, PlanOf(kSwapFastLink));
  ASSIGN_OR_RETURN(const planner::SwapPlan slow, PlanOf(kSwapSlowLink));
  std::vector<double> speedups;
  for (int i = 0; i < pairs; ++i) {
    ASSIGN_OR_RETURN(const double speedup, SwapSpeedup(kSwapFastLink, rows));
    speedups.push_back(speedup);
  }
  ASSIGN_OR_RETURN(const double slow_speedup, SwapSpeedup(kSwapSlowLink, rows));
  report.Note("swapping: 4 stages, 128 + 96 tokens, t 40 ms; links of 230 and 80 MB/s a stage");
  report.Note(absl::StrCat("planner on the slow link: ", slow.refusal.message()));
  report.Figure("swapping_by_planner_fast_link", fast.speedup, "");
  report.Figure("swapping_by_planner_slow_link", slow.speedup, "");
  report.Figure("swapping_speedup_slow_link", slow_speedup, "");
  report.Bar("swapping_speedup_at_double_batch", fast.refusal.ok() ? Median(speedups) : 0,
             ">=", kSwappingMin, pairs);
  report.Bar("swapping_refused_where_link_cannot_hide",
             fast.refusal.ok() && !slow.refusal.ok() ? 1 : 0, "==", 1, 2);
  return absl::OkStatus();
}

double ChildrenCpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_CHILDREN, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

Status Run(const BenchFlags& flags, Report& report) {
  report.Note(RunOnTime()
                  ? "timed threads run before others on this machine"
                  : "no real-time priority here: other work on the machine adds to the times");
  Rows rows;
  RETURN_IF_ERROR(MeasureFailures(flags.long_run ? 3 : 1, &rows, report));
  RETURN_IF_ERROR(MeasureSplit(flags.long_run ? 400 : 54, &rows, report));
  RETURN_IF_ERROR(MeasureSwapping(flags.long_run ? 7 : 3, &rows, report));
  report.Figure("rows_moved_between_processes", static_cast<double>(rows.moved), "");
  report.Figure("processor_time_of_stages", ChildrenCpuSeconds(), "s");
  report.Bar("rows_wrong", static_cast<double>(rows.wrong), "==", 0, rows.moved);
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == reprise::bench::kStageMode) {
    return reprise::bench::StageMain({argv + 2, argv + argc});
  }
  return reprise::bench::BenchMain("dejavu", argc, argv, reprise::bench::Run);
}
