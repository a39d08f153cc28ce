// Two workers' worth of runs on one worker: the same number of streams with one replica store and
// with none, in pairs. The cost in processor time is taken where replication runs: all threads of
// the worker but the step thread, and the whole store; of the step thread what it says itself. The
// floor is what the bytes alone cost at rates measured here.
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/placed_cluster.h"
#include "bench/replication_parts.h"
#include "common/percentile.h"
#include "common/random.h"
#include "common/role.h"
#include "kvstore/stream/tail_pack.h"

namespace reprise::bench {
namespace {

constexpr double kBlockedMax = 0.01;
constexpr double kCpuOverFloorMax = 1.3;
constexpr double kLossMax = 0.05;
constexpr int kPairs = 20;
constexpr int kPairsLong = 60;
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

// Processor time of this thread: other work on the machine does not count.
TimeNs ThreadCpuNs() {
  timespec at{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
  return at.tv_sec * kSecond + at.tv_nsec;
}

// Bytes per second of processor time of one pass over rows, one row at a time as a step makes them.
struct PassRates {
  double pack = 0;    // strided rows to packed ones, with their checksum
  double carry = 0;   // from one process's memory to another's, by the kernel
  double unpack = 0;  // back to strided ones, verified
};

Status CarryAll(std::span<const uint8_t> from, std::span<uint8_t> to) {
  const iovec local{to.data(), to.size()};
  const iovec remote{const_cast<uint8_t*>(from.data()), from.size()};
  const ssize_t bytes = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
  if (bytes == static_cast<ssize_t>(from.size())) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("process_vm_readv copied ", bytes, " bytes"));
}

StatusOr<PassRates> MeasurePasses(const kv::KvFormat& format) {
  const size_t pages = (size_t{128} << 20) / format.block_bytes() + 1;
  const size_t row = kv::PackedBytes(format, 1);
  std::vector<uint8_t> pool(pages * format.block_bytes(), 3);
  std::vector<uint8_t> packed(pages * row, 1);
  std::vector<uint8_t> carried(pages * row, 2);
  std::vector<uint32_t> sums(pages);
  const kv::TailUnpacker unpacker(format);
  std::vector<uint32_t> parts;
  std::vector<double> pack;
  std::vector<double> carry;
  std::vector<double> unpack;
  const auto page = [&](size_t i) {
    return std::span(pool).subspan(i * format.block_bytes(), format.block_bytes());
  };
  const auto rate = [&](TimeNs ns) {
    return static_cast<double>(packed.size()) / SecondsFromNs(ns);
  };
  for (uint32_t at = 0; at < format.block_tokens; ++at) {
    const TimeNs start = ThreadCpuNs();
    for (size_t i = 0; i < pages; ++i) {
      ASSIGN_OR_RETURN(sums[i], kv::PackTail(format, page(i), {at, 1}, 0,
                                             std::span(packed).subspan(i * row, row)));
    }
    const TimeNs is_packed = ThreadCpuNs();
    RETURN_IF_ERROR(CarryAll(packed, carried));
    const TimeNs is_carried = ThreadCpuNs();
    for (size_t i = 0; i < pages; ++i) {
      RETURN_IF_ERROR(unpacker.Unpack({.packed = std::span(carried).subspan(i * row, row),
                                       .checksum = sums[i],
                                       .seed = 0,
                                       .rows = 1,
                                       .skip = 0},
                                      at, page(i), &parts));
    }
    pack.push_back(rate(is_packed - start));
    carry.push_back(rate(is_carried - is_packed));
    unpack.push_back(rate(ThreadCpuNs() - is_carried));
  }
  return PassRates{Median(pack), Median(carry), Median(unpack)};
}

// What one run of streams took.
struct Sample {
  double tokens_per_s = 0;
  double rows = 0;        // appended to the store
  double beside_s = 0;    // processor time of the store and of the worker beside its step thread
  double replicas_s = 0;  // of the step thread, on replicas
  double steps_s = 0;
};

class Cost {
 public:
  Cost(const BenchFlags& flags, Report& report) : flags_(flags), report_(report) {}

  Status Run() {
    RETURN_IF_ERROR(Start());
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
                     1e6 * sample.replicas_s / (kStreams * kNewTokens));
      }
    }
    ASSIGN_OR_RETURN(const double floor_us, Floor());
    Tell(samples[0], samples[1], floor_us);
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
  StatusOr<double> Beside() const {
    double seconds = 0;
    for (const char* process : {"decode", "store"}) {
      ASSIGN_OR_RETURN(const auto threads,
                       harness::ThreadCpuSeconds(cluster_->processes().pid(process)));
      for (const auto& [name, time] : threads) seconds += name == kStepThread ? 0 : time;
    }
    return seconds;
  }

  StatusOr<Sample> Snapshot() const {
    Sample at;
    at.rows = cluster_->Metric("decode", "reprise_replication_bytes_total") /
              static_cast<double>(kv::PackedBytes(format_, 1));
    at.replicas_s = cluster_->Metric("decode", "reprise_replication_step_thread_seconds_total");
    at.steps_s = cluster_->Metric("decode", "reprise_worker_step_seconds_sum");
    ASSIGN_OR_RETURN(at.beside_s, Beside());
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
    after.replicas_s -= before.replicas_s;
    after.steps_s -= before.steps_s;
    after.tokens_per_s = kStreams * kNewTokens / SecondsFromNs(end - start);
    return after;
  }

  // Microseconds of a token: packed with its checksum, carried by the transport (one copy between
  // processes), verified and unpacked.
  StatusOr<double> Floor() {
    const auto token_bytes = static_cast<double>(kv::PackedBytes(format_, 1));
    ASSIGN_OR_RETURN(const PassRates rates, MeasurePasses(format_));
    report_.Note(absl::StrFormat(
        "floor: %.0f bytes a token x (pack with checksum at %.2f GB/s + one copy between processes "
        "at %.2f GB/s + verify and unpack at %.2f GB/s)",
        token_bytes, rates.pack / 1e9, rates.carry / 1e9, rates.unpack / 1e9));
    return token_bytes * (1 / rates.pack + 1 / rates.carry + 1 / rates.unpack) * 1e6;
  }

  void Tell(const std::vector<Sample>& without, const std::vector<Sample>& with, double floor_us) {
    const auto pairs = static_cast<int64_t>(with.size());
    std::vector<double> loss;
    double beside_s = 0;
    double replicas_s = 0;
    double steps_s = 0;
    double rows = 0;
    std::vector<double> speed;
    for (size_t i = 0; i < with.size(); ++i) {
      loss.push_back(1 - with[i].tokens_per_s / without[i].tokens_per_s);
      speed.push_back(with[i].tokens_per_s);
      beside_s += with[i].beside_s - without[i].beside_s;
      replicas_s += with[i].replicas_s;
      steps_s += with[i].steps_s;
      rows += with[i].rows;
    }
    const double cpu_us = (beside_s + replicas_s) / rows * 1e6;
    report_.Note(absl::StrCat("cost: llama-160m, one compute thread, ", kStreams, " streams of ",
                              kPromptTokens, " + ", kNewTokens, " tokens, k = 1"));
    report_.Figure("tokens_per_s", Median(speed), "");
    report_.Figure("cpu_per_token", cpu_us, "us");
    report_.Figure("cpu_per_token_of_step_thread", replicas_s / rows * 1e6, "us");
    report_.Figure("cpu_per_token_floor", floor_us, "us");
    report_.Figure("throughput_loss_interval_low", Mean(loss) - HalfInterval(loss), "");
    report_.Figure("throughput_loss_interval_high", Mean(loss) + HalfInterval(loss), "");
    report_.Bar("step_thread_blocked_share", replicas_s / steps_s, "<=", kBlockedMax, pairs);
    report_.Bar("cpu_per_token_over_floor", cpu_us / floor_us, "<=", kCpuOverFloorMax, pairs);
    report_.Bar("throughput_loss", Mean(loss), "<=", kLossMax, pairs);
  }

  const BenchFlags& flags_;
  Report& report_;
  kv::KvFormat format_;
  std::unique_ptr<PlacedCluster> cluster_;
  SplitMix64 random_{17};
  int next_id_ = 0;
};

}  // namespace

Status MeasureReplicationCost(const BenchFlags& flags, Report& report) {
  return Cost(flags, report).Run();
}

}  // namespace reprise::bench
