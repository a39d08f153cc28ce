// The recovery planner held against measured times. A request that begins anew on a worker can have
// its rows from a source behind a throttled link: fetched now beside what is on the link, computed
// again, or fetched once the link is free. At each of 12 points of (link rate, rows, what else is
// on the link) three workers are made to take one choice each and timed from submission to the
// first token, and a fourth one plans. Real processes, the timed engine, real bytes over the KV
// stream.
//
// regret = measured time of what the planner chose / the least of the three - 1. The planner
// chooses again in each repetition, and the worst of what it chose counts; a time is the least of
// its repetitions, since other work on the machine only adds.
#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "bench/bench_main.h"
#include "bench/placed_cluster.h"
#include "common/percentile.h"
#include "common/random.h"
#include "common/role.h"
#include "common/scrape.h"

namespace reprise::bench {
namespace {

constexpr double kRegretMax = 0.10;
constexpr int kBlockTokens = 64;
constexpr int kVocab = 4'096;
constexpr int kRowBytes = 1'024;  // in each of 4 layers
constexpr double kPrefillMsPerToken = 0.1;
constexpr TimeNs kTimeoutNs = 60 * kSecond;
constexpr TimeNs kHeadStartNs = 20 * kMillisecond;  // of what is on the link already

const std::array<std::string, 3> kChoices = {"restore", "recompute", "wait"};

// What is on the link when the request comes: nothing, as many bytes for each of two others, or
// the very rows it needs, for another request with the same prompt.
enum class Crowd { kNone, kOthers, kSame };

struct Point {
  int64_t link_mb_per_s = 0;
  int rows = 0;
  Crowd crowd = Crowd::kNone;
  std::string Name() const {
    const char* const crowds[] = {"idle", "busy", "same"};
    return absl::StrCat(link_mb_per_s, "MB/s_", rows, "rows_", crowds[static_cast<int>(crowd)]);
  }
};

std::vector<Point> Points() {
  std::vector<Point> points;
  for (const int64_t rate : {30, 100}) {
    for (const int rows : {1'024, 3'072}) {
      for (const Crowd crowd : {Crowd::kNone, Crowd::kOthers, Crowd::kSame}) {
        points.push_back({rate, rows, crowd});
      }
    }
  }
  return points;
}

std::string SourceName(int64_t mb_per_s) { return absl::StrCat("source-", mb_per_s); }

class RecoveryBench {
 public:
  explicit RecoveryBench(const BenchFlags& flags) : flags_(flags) {}

  Status Run(Report& report) {
    RETURN_IF_ERROR(Start());
    report.Note("ms to the first token: restore, recompute, wait; what the planner took");
    std::vector<double> regrets;
    std::map<std::string, int> chosen;
    for (const Point& point : Points()) {
      RETURN_IF_ERROR(Learn(point));
      RETURN_IF_ERROR(Measure(point, report, &regrets, &chosen));
    }
    for (const std::string& choice : kChoices) {
      report.Figure("chosen_" + choice, chosen[choice], "times");
    }
    const auto points = static_cast<int64_t>(regrets.size());
    report.Bar("points", static_cast<double>(points), "==", 12, points);
    report.Bar("regret_median", Median(regrets), "<=", kRegretMax, points);
    report.Bar("regret_max", Percentile(regrets, 100), "<=", kRegretMax, points);
    return absl::OkStatus();
  }

 private:
  Status Start() {
    const auto worker = [](double prefill_ms, const std::string& own) {
      return harness::Cluster::Flags{"--timed",
                                     absl::StrCat("--timed-row-bytes=", kRowBytes),
                                     "--timed-step-ms=2",
                                     absl::StrCat("--timed-prefill-ms-per-token=", prefill_ms),
                                     "--pool-bytes=512MiB",
                                     absl::StrCat("--block-tokens=", kBlockTokens),
                                     "--chunk-tokens=512",
                                     own};
    };
    PlacedOptions options{.reprise = flags_.reprise, .workers = {}, .stores = {}};
    for (const int64_t rate : {30, 100}) {
      options.workers.emplace_back(
          SourceName(rate), worker(0, absl::StrCat("--throttle-bytes-per-s=", rate * 1'000'000)));
    }
    for (const std::string& choice : kChoices) {
      options.workers.emplace_back(choice, worker(kPrefillMsPerToken, "--recovery=" + choice));
    }
    options.workers.emplace_back("planned", worker(kPrefillMsPerToken, "--recovery=planned"));
    ASSIGN_OR_RETURN(cluster_, PlacedCluster::Start(options));
    return absl::OkStatus();
  }

  std::vector<int32_t> Prompt(int rows) {
    // One token beyond whole blocks: its row runs whatever is chosen, for the output.
    std::vector<int32_t> prompt(static_cast<size_t>(rows) + 1);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random_.Below(kVocab));
    return prompt;
  }
  v1::Submit Request(const std::vector<int32_t>& prompt) {
    return GreedySubmit(absl::StrCat("recovery-", next_id_++), prompt, 1);
  }
  // A prompt whose rows `source` holds.
  StatusOr<std::vector<int32_t>> Held(const std::string& source, int rows) {
    const std::vector<int32_t> prompt = Prompt(rows);
    ASSIGN_OR_RETURN(const harness::WorkerResult result,
                     cluster_->worker(source).Run(Request(prompt), kTimeoutNs));
    RETURN_IF_ERROR(result.status);
    return prompt;
  }
  v1::Submit From(const std::string& source, const std::vector<int32_t>& prompt) {
    v1::Submit submit = Request(prompt);
    const auto blocks = static_cast<int32_t>(prompt.size()) / kBlockTokens;
    *submit.add_sources() = harness::SourceOf(cluster_->ref(source), blocks);
    return submit;
  }

  // Connections, the link's rate and the engine's, as in a worker that has been at work.
  Status Learn(const Point& point) {
    std::vector<std::string> workers(kChoices.begin(), kChoices.end());
    workers.emplace_back("planned");
    for (const std::string& worker : workers) {
      for (int i = 0; i < 2; ++i) {
        ASSIGN_OR_RETURN(const auto held, Held(SourceName(point.link_mb_per_s), 512));
        for (const v1::Submit& submit :
             {From(SourceName(point.link_mb_per_s), held), Request(Prompt(512))}) {
          ASSIGN_OR_RETURN(const auto result, cluster_->worker(worker).Run(submit, kTimeoutNs));
          RETURN_IF_ERROR(result.status);
        }
      }
    }
    return absl::OkStatus();
  }

  // Seconds from submission to the first token.
  StatusOr<double> Time(const Point& point, const std::string& worker) {
    const std::string source = SourceName(point.link_mb_per_s);
    ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, Held(source, point.rows));
    std::vector<v1::Submit> crowd;
    if (point.crowd == Crowd::kSame) crowd.push_back(From(source, prompt));
    for (int i = 0; point.crowd == Crowd::kOthers && i < 2; ++i) {
      ASSIGN_OR_RETURN(const std::vector<int32_t> other, Held(source, point.rows));
      crowd.push_back(From(source, other));
    }
    harness::WorkerClient& client = cluster_->worker(worker);
    for (const v1::Submit& submit : crowd) RETURN_IF_ERROR(client.Submit(submit));
    if (!crowd.empty()) StopSignal().WaitFor(kHeadStartNs);
    v1::Submit submit = From(source, prompt);
    submit.mutable_attempt()->set_owner_epoch(1);
    submit.mutable_attempt()->set_n(2);
    ASSIGN_OR_RETURN(const harness::WorkerResult result, client.Run(submit, kTimeoutNs));
    RETURN_IF_ERROR(result.status);
    for (const v1::Submit& other : crowd) {
      RETURN_IF_ERROR(client.Wait(other.request_id(), kTimeoutNs).status());
    }
    return SecondsFromNs(result.branches.at(0).arrived_ns.at(0) - result.submitted_ns);
  }

  // How often a choice was made by the planning worker so far.
  StatusOr<std::map<std::string, double>> Choices() {
    ASSIGN_OR_RETURN(const std::string text,
                     ScrapeMetrics(cluster_->processes().addresses("planned").metrics));
    std::map<std::string, double> counts;
    for (const std::string& choice : kChoices) {
      const std::string label = absl::StrCat("choice=\"", choice, "\"");
      for (const absl::string_view line : absl::StrSplit(text, '\n')) {
        if (line.rfind("reprise_worker_recoveries_total", 0) != 0) continue;
        if (line.find(label) == absl::string_view::npos) continue;
        const std::vector<std::string> parts = absl::StrSplit(line, ' ');
        if (!absl::SimpleAtod(parts.back(), &counts[choice])) {
          return absl::InternalError(absl::StrCat("no number in ", line));
        }
      }
    }
    return counts;
  }

  Status Measure(const Point& point, Report& report, std::vector<double>* regrets,
                 std::map<std::string, int>* chosen) {
    const int repetitions = flags_.long_run ? 15 : 5;
    std::map<std::string, std::vector<double>> times;
    std::map<std::string, int> taken;
    for (int i = 0; i < repetitions; ++i) {
      for (const std::string& choice : kChoices) {
        ASSIGN_OR_RETURN(const double seconds, Time(point, choice));
        times[choice].push_back(seconds);
      }
      ASSIGN_OR_RETURN(auto before, Choices());
      ASSIGN_OR_RETURN(const double planned, Time(point, "planned"));
      times["planned"].push_back(planned);
      ASSIGN_OR_RETURN(auto after, Choices());
      for (const std::string& choice : kChoices) {
        taken[choice] += static_cast<int>(after[choice] - before[choice]);
      }
    }
    std::map<std::string, double> best;
    for (const auto& [worker, samples] : times) best[worker] = Percentile(samples, 0);
    const double least = std::min({best["restore"], best["recompute"], best["wait"]});
    double regret = 0;
    std::string names;
    for (const std::string& choice : kChoices) {
      if (taken[choice] == 0) continue;
      (*chosen)[choice] += taken[choice];
      regret = std::max(regret, best[choice] / least - 1);
      absl::StrAppend(&names, names.empty() ? "" : "+", choice);
    }
    if (names.empty()) return absl::InternalError("the planner was not asked");
    regrets->push_back(regret);
    report.Note(
        absl::StrFormat("%-22s %6.0f %6.0f %6.0f  took %-10s regret %.3f, its own time %.0f",
                        point.Name(), 1e3 * best["restore"], 1e3 * best["recompute"],
                        1e3 * best["wait"], names, regret, 1e3 * best["planned"]));
    std::fprintf(stderr, "%s took %s, regret %.3f\n", point.Name().c_str(), names.c_str(), regret);
    return absl::OkStatus();
  }

  const BenchFlags& flags_;
  std::unique_ptr<PlacedCluster> cluster_;
  SplitMix64 random_{17};
  int next_id_ = 0;
};

Status Run(const BenchFlags& flags, Report& report) { return RecoveryBench(flags).Run(report); }

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("recovery", argc, argv, reprise::bench::Run);
}
