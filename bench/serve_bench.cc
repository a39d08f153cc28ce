// The whole cluster as `reprise up` starts it: throughput and latency at 1, 4 and 16 concurrent
// requests, on the demo model and on a 160M-parameter Llama. Rounds go through all concurrencies
// in turn, so that a slow minute of the machine touches all of them; figures are medians of rounds.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench_main.h"
#include "cli/load.h"
#include "common/percentile.h"
#include "common/random.h"
#include "tests/cluster/up.h"

namespace reprise::bench {
namespace {

constexpr double kSpeedupMin = 4;
constexpr int kConcurrencies[] = {1, 4, 16};

struct Workload {
  std::string name;
  std::string model_dir;
  int vocab = 0;
  int prompt_tokens = 32;
  int max_tokens = 64;
  // Requests of a round, per concurrency: 1 waits for each, 16 runs them in one wave or more.
  std::map<int, int> requests;
};

v1::GenerateRequest MakeRequest(const Workload& workload, SplitMix64& random) {
  v1::GenerateRequest request;
  for (int t = 0; t < workload.prompt_tokens; ++t) {
    request.mutable_ids()->add_ids(
        1 + static_cast<int32_t>(random.Below(static_cast<uint64_t>(workload.vocab - 1))));
  }
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(workload.max_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

struct Cell {
  std::vector<double> tokens_per_s;
  std::vector<double> ttft_ms;
  std::vector<double> itl_ms;
};

Status RunRound(const harness::Up& up, const Workload& workload, SplitMix64& random,
                std::map<int, Cell>& cells) {
  for (const int concurrency : kConcurrencies) {
    const cli::LoadResult result =
        cli::RunLoad({.gateway = up.gateway(),
                      .concurrency = concurrency,
                      .requests = workload.requests.at(concurrency),
                      .request = [&](int) { return MakeRequest(workload, random); }});
    RETURN_IF_ERROR(result.first_error);
    Cell& cell = cells[concurrency];
    cell.tokens_per_s.push_back(result.tokens_per_s());
    cell.ttft_ms.insert(cell.ttft_ms.end(), result.ttft_ms.begin(), result.ttft_ms.end());
    cell.itl_ms.insert(cell.itl_ms.end(), result.itl_ms.begin(), result.itl_ms.end());
  }
  return absl::OkStatus();
}

// The speedup of 16 concurrent requests, per round.
StatusOr<std::vector<double>> Serve(const BenchFlags& flags, const Workload& workload,
                                    Report& report) {
  ASSIGN_OR_RETURN(const auto up, harness::Up::Start(flags.reprise, workload.model_dir));
  SplitMix64 random(7);
  std::map<int, Cell> warm_up;
  RETURN_IF_ERROR(RunRound(*up, workload, random, warm_up));
  std::map<int, Cell> cells;
  for (int round = 0; round < (flags.long_run ? 9 : 3); ++round) {
    RETURN_IF_ERROR(RunRound(*up, workload, random, cells));
  }
  for (const auto& [concurrency, cell] : cells) {
    const std::string at = absl::StrCat("_", workload.name, "_", concurrency);
    report.Figure("tokens_per_s" + at, Median(cell.tokens_per_s), "tokens/s");
    report.Figure("ttft_p50" + at, Percentile(cell.ttft_ms, 50), "ms");
    report.Figure("ttft_p99" + at, Percentile(cell.ttft_ms, 99), "ms");
    report.Figure("itl_p50" + at, Percentile(cell.itl_ms, 50), "ms");
    report.Figure("itl_p99" + at, Percentile(cell.itl_ms, 99), "ms");
  }
  std::vector<double> speedups;
  for (size_t i = 0; i < cells[1].tokens_per_s.size(); ++i) {
    speedups.push_back(cells[16].tokens_per_s[i] / cells[1].tokens_per_s[i]);
  }
  return speedups;
}

Status Run(const BenchFlags& flags, Report& report) {
  ASSIGN_OR_RETURN(const std::string llama, MadeModel(flags, "llama-160m"));
  report.Note("prompts of 32 random ids, 64 new tokens, greedy, through reprise up");
  const Workload demo{.name = "demo",
                      .model_dir = flags.models + "/demo",
                      .vocab = 2048,
                      .requests = {{1, 8}, {4, 16}, {16, 64}}};
  ASSIGN_OR_RETURN(const std::vector<double> demo_speedups, Serve(flags, demo, report));
  report.Figure("tokens_per_s_16_over_1_demo", Median(demo_speedups), "");
  const Workload big{.name = "llama-160m",
                     .model_dir = llama,
                     .vocab = 32'000,
                     .requests = {{1, 2}, {4, 8}, {16, 32}}};
  ASSIGN_OR_RETURN(const std::vector<double> speedups, Serve(flags, big, report));
  report.Bar("tokens_per_s_16_over_1_llama-160m", Median(speedups), ">=", kSpeedupMin,
             static_cast<int64_t>(speedups.size()));
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("serve", argc, argv, reprise::bench::Run);
}
