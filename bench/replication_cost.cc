// Two workers' worth of runs on one worker: the same number of streams with one replica store and
// with none, in pairs. The cost in processor time is taken where replication runs: all threads of
// the worker but the step thread, and the whole store; of the step thread what it says itself. The
// floor (replication_floor.h) is what the bytes alone cost, measured twice: alone, and beside runs
// without replicas at the pace of their steps, where a step's weights have passed through the
// caches since the last append, as they have for the product.
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/placed_cluster.h"
#include "bench/replication_floor.h"
#include "bench/replication_parts.h"
#include "common/percentile.h"
#include "common/random.h"
#include "common/role.h"
#include "common/thread.h"

namespace reprise::bench {
namespace {

constexpr double kBlockedMax = 0.01;
constexpr double kCpuOverFloorMax = 1.3;
constexpr double kLossMax = 0.05;
constexpr int kPairs = 20;
constexpr int kPairsLong = 60;
constexpr int kPairsPerFloor = 4;  // one run of the floor beside computing each
constexpr int kFloorBlocks = 4;    // of the floor alone
constexpr double kThreadShownUs = 0.2;
constexpr int kStreams = 32;
constexpr int kPromptTokens = 16;
constexpr int kNewTokens = 32;
constexpr int kVocab = 32'000;
constexpr TimeNs kQuietNs = 200 * kMillisecond;  // for what replication still does at the end
constexpr TimeNs kTimeoutNs = 300 * kSecond;
constexpr char kStepThread[] = "worker_step";

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// Half of the 95 % interval of the mean. The quantile of Student's distribution is within 1 % from
// 15 degrees of freedom on.
double HalfInterval(const std::vector<double>& values) {
  const double mean = Mean(values);
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const double degrees = static_cast<double>(values.size()) - 1;
  const double quantile = 1.96 + 2.4 / degrees;
  return quantile * std::sqrt(squares / degrees / static_cast<double>(values.size()));
}

// What one run of streams took.
struct Sample {
  double tokens_per_s = 0;
  double rows = 0;      // appended to the store
  double beside_s = 0;  // processor time of the store and of the worker beside its step thread
  std::map<std::string, double> threads_s;  // the same by "process thread"
  double replicas_s = 0;                    // of the step thread, on replicas
  double replicas_cpu_s = 0;                // of its processor time
  double steps_s = 0;
};

class Cost {
 public:
  Cost(const BenchFlags& flags, Report& report) : flags_(flags), report_(report) {}

  Status Run() {
    RETURN_IF_ERROR(Start());
    ASSIGN_OR_RETURN(ReplicationFloor alone, ReplicationFloor::Create(format_, kStreams));
    ASSIGN_OR_RETURN(ReplicationFloor beside, ReplicationFloor::Create(format_, kStreams));
    for (int block = 0; block < kFloorBlocks; ++block) RETURN_IF_ERROR(alone.PassBlock());
    std::array<std::vector<Sample>, 2> samples;  // without, with
    const int pairs = flags_.long_run ? kPairsLong : kPairs;
    for (int pair = 0; pair < pairs; ++pair) {
      for (const int turn : {0, 1}) {
        const int with = (pair + turn) % 2;
        ASSIGN_OR_RETURN(const Sample sample, Measure(with == 1));
        samples[static_cast<size_t>(with)].push_back(sample);
        std::fprintf(stderr,
                     "replicas %d: %.1f tokens/s, beside %.0f us a token, step thread %.0f\n", with,
                     sample.tokens_per_s, 1e6 * sample.beside_s / (kStreams * kNewTokens),
                     1e6 * sample.replicas_cpu_s / (kStreams * kNewTokens));
      }
      if (pair % kPairsPerFloor > 0) continue;
      RETURN_IF_ERROR(PassBeside(samples[0].back().tokens_per_s, &beside));
    }
    Tell(samples[0], samples[1]);
    TellFloor(alone.cost(), beside.cost());
    return absl::OkStatus();
  }

 private:
  Status Start() {
    ASSIGN_OR_RETURN(const std::string model, MadeModel(flags_, "llama-160m"));
    ASSIGN_OR_RETURN(
        cluster_,
        PlacedCluster::Start(
            {.reprise = flags_.reprise,
             .workers = {{"decode", {"--model=" + model, "--threads=1", "--pool-bytes=256MiB"}}},
             .stores = {{"store", {"--memory-bytes=256MiB"}}}}));
    ASSIGN_OR_RETURN(const v1::ModelInfo info, cluster_->processes().QueryModel());
    ASSIGN_OR_RETURN(format_, kv::ParseFormat(info.format_text()));
    return Measure(true).status();  // connects
  }

  // Processor seconds of everything but computing.
  Status TakeThreads(Sample* at) const {
    for (const std::string process : {"decode", "store"}) {
      ASSIGN_OR_RETURN(const auto threads,
                       harness::ThreadCpuSeconds(cluster_->processes().pid(process)));
      for (const auto& [name, time] : threads) {
        if (name == kStepThread) continue;
        at->beside_s += time;
        at->threads_s[absl::StrCat(process, " ", name)] = time;
      }
    }
    return absl::OkStatus();
  }

  StatusOr<Sample> Snapshot() const {
    Sample at;
    at.rows = cluster_->Metric("decode", "reprise_replication_bytes_total") /
              static_cast<double>(kv::PackedBytes(format_, 1));
    at.replicas_s = cluster_->Metric("decode", "reprise_replication_step_thread_seconds_total");
    at.replicas_cpu_s =
        cluster_->Metric("decode", "reprise_replication_step_thread_cpu_seconds_total");
    at.steps_s = cluster_->Metric("decode", "reprise_worker_step_seconds_sum");
    RETURN_IF_ERROR(TakeThreads(&at));
    return at;
  }

  StatusOr<Sample> Measure(bool with) {
    std::vector<v1::Submit> submits;
    for (int i = 0; i < kStreams; ++i) {
      std::vector<int32_t> prompt(kPromptTokens);
      for (int32_t& token : prompt) token = 1 + static_cast<int32_t>(random_.Below(kVocab - 1));
      submits.push_back(GreedySubmit(absl::StrCat("cost-", next_id_++), prompt, kNewTokens));
      if (with) *submits.back().add_stores() = cluster_->ref("store");
    }
    ASSIGN_OR_RETURN(const Sample before, Snapshot());
    const TimeNs start = RealClock().NowNs();
    ASSIGN_OR_RETURN(const auto results,
                     cluster_->worker("decode").RunAll(submits, kStreams, kTimeoutNs));
    TimeNs end = start;
    for (const harness::WorkerResult& result : results) end = std::max(end, result.done_ns);
    StopSignal never;
    never.WaitFor(kQuietNs);
    ASSIGN_OR_RETURN(Sample after, Snapshot());
    after.rows -= before.rows;
    after.beside_s -= before.beside_s;
    for (const auto& [name, time] : before.threads_s) after.threads_s[name] -= time;
    after.replicas_s -= before.replicas_s;
    after.replicas_cpu_s -= before.replicas_cpu_s;
    after.steps_s -= before.steps_s;
    after.tokens_per_s = kStreams * kNewTokens / SecondsFromNs(end - start);
    return after;
  }

  // Appends of the floor, one per step of a run without replicas that nothing else is taken from.
  Status PassBeside(double tokens_per_s, ReplicationFloor* floor) {
    StopSignal ended;
    Status passed;
    Thread passes("floor", [&] {
      const auto step_ns = static_cast<TimeNs>(kStreams / tokens_per_s * kSecond);
      while (passed.ok() && !ended.WaitFor(step_ns)) passed = floor->Pass();
    });
    const Status ran = Measure(false).status();
    ended.Stop();
    passes.Join();
    RETURN_IF_ERROR(ran);
    return passed;
  }

  void Tell(const std::vector<Sample>& without, const std::vector<Sample>& with) {
    const auto pairs = static_cast<int64_t>(with.size());
    std::vector<double> loss;
    std::vector<double> cpu_us;
    std::vector<double> step_us;
    std::vector<double> speed;
    double replicas_s = 0;
    double steps_s = 0;
    for (size_t i = 0; i < with.size(); ++i) {
      loss.push_back(1 - with[i].tokens_per_s / without[i].tokens_per_s);
      speed.push_back(with[i].tokens_per_s);
      step_us.push_back(with[i].replicas_cpu_s / with[i].rows * 1e6);
      cpu_us.push_back((with[i].beside_s - without[i].beside_s) / with[i].rows * 1e6 +
                       step_us.back());
      replicas_s += with[i].replicas_s;
      steps_s += with[i].steps_s;
    }
    cpu_us_ = Median(cpu_us);
    report_.Note(absl::StrCat("cost: llama-160m, one compute thread, ", kStreams, " streams of ",
                              kPromptTokens, " + ", kNewTokens, " tokens, k = 1"));
    report_.Figure("tokens_per_s", Median(speed), "");
    report_.Figure("cpu_per_token", cpu_us_, "us");
    report_.Figure("cpu_per_token_of_step_thread", Median(step_us), "us");
    TellThreads(without, with);
    report_.Figure("throughput_loss_interval_low", Mean(loss) - HalfInterval(loss), "");
    report_.Figure("throughput_loss_interval_high", Mean(loss) + HalfInterval(loss), "");
    report_.Bar("step_thread_blocked_share", replicas_s / steps_s, "<=", kBlockedMax, pairs);
    report_.Bar("throughput_loss", Mean(loss), "<=", kLossMax, pairs);
  }

  // Which threads the processor time beside the step thread went to.
  void TellThreads(const std::vector<Sample>& without, const std::vector<Sample>& with) {
    std::map<std::string, std::vector<double>> by_thread;
    for (size_t i = 0; i < with.size(); ++i) {
      for (const auto& [name, time] : with[i].threads_s) {
        const auto other = without[i].threads_s.find(name);
        const double without_s = other == without[i].threads_s.end() ? 0 : other->second;
        by_thread[name].push_back((time - without_s) / with[i].rows * 1e6);
      }
    }
    for (const auto& [name, us] : by_thread) {
      if (Median(us) < kThreadShownUs) continue;
      report_.Note(absl::StrFormat("of a token's processor time %.1f us in %s", Median(us), name));
    }
  }

  void TellFloor(const FloorCost& alone, const FloorCost& beside) {
    for (const auto& [where, cost] :
         {std::pair("alone", alone), std::pair("beside runs without replicas", beside)}) {
      report_.Note(absl::StrFormat(
          "floor %s: %d bytes a token packed with checksum %.2f us + one copy between processes "
          "%.2f us + verified and unpacked %.2f us",
          where, kv::PackedBytes(format_, 1), cost.pack_us, cost.carry_us, cost.unpack_us));
    }
    report_.Figure("cpu_per_token_floor_alone", alone.all_us(), "us");
    report_.Figure("cpu_per_token_floor", beside.all_us(), "us");
    report_.Figure("cpu_per_token_over_floor_alone", cpu_us_ / alone.all_us(), "");
    report_.Bar("cpu_per_token_over_floor", cpu_us_ / beside.all_us(), "<=", kCpuOverFloorMax,
                flags_.long_run ? kPairsLong : kPairs);
  }

  const BenchFlags& flags_;
  Report& report_;
  kv::KvFormat format_;
  double cpu_us_ = 0;  // of a token
  std::unique_ptr<PlacedCluster> cluster_;
  SplitMix64 random_{17};
  int next_id_ = 0;
};

}  // namespace

Status MeasureReplicationCost(const BenchFlags& flags, Report& report) {
  return Cost(flags, report).Run();
}

}  // namespace reprise::bench
