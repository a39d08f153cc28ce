// A thousand concurrent streams through a real gateway from two timed workers, this process being
// the client of all of them. Every token is compared with what the timed engine must give, so a
// lost, doubled, swapped or wrong one shows.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench_main.h"
#include "cli/client/generation_client.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/percentile.h"
#include "common/random.h"
#include "tests/cluster/cluster.h"
#include "worker/engine/timed_tokens.h"

namespace reprise::bench {
namespace {

constexpr int kStreams = 1000;
constexpr double kTokensPerSecond = 50;  // of each stream
constexpr double kOfNominalMin = 0.95;   // else the streams did not run at that rate
constexpr double kHiddenMs = 10;         // the next step is queued before the last one ends
constexpr int kPromptTokens = 32;

worker::TimedModel Model() {
  worker::TimedModel model;
  model.context_tokens = 4096;
  model.layers = 1;
  model.row_bytes = 8;
  return model;
}

// What one stream received. Its callbacks come one at a time.
struct StreamLog {
  std::vector<int32_t> prompt;
  std::vector<int32_t> expected;
  std::vector<uint8_t> seen;  // by index
  int64_t next = 0;
  int64_t duplicated = 0;
  int64_t reordered = 0;
  int64_t wrong = 0;
  std::vector<TimeNs> arrived_ns;
  TimeNs start_ns = 0;
  int terminal_events = 0;
  Status status;

  void Add(const v1::Token& token, TimeNs now) {
    const auto index = static_cast<size_t>(token.index());
    if (index >= expected.size()) {
      ++wrong;
      return;
    }
    duplicated += seen[index]++ != 0;
    reordered += token.index() < next;
    next = std::max<int64_t>(next, token.index() + 1);
    wrong += token.id() != expected[index];
    arrived_ns.push_back(now);
  }
  int64_t lost() const { return std::count(seen.begin(), seen.end(), 0); }
};

class Load {
 public:
  Load(const std::string& gateway, int tokens) : tokens_(tokens), client_({.address = gateway}) {
    for (int i = 0; i < kStreams; ++i) {
      auto log = std::make_unique<StreamLog>();
      SplitMix64 random(static_cast<uint64_t>(i) + 1);
      const worker::TimedModel model = Model();
      for (int t = 0; t < kPromptTokens; ++t) {
        log->prompt.push_back(
            static_cast<int32_t>(random.Below(static_cast<uint64_t>(model.vocab_size))));
      }
      worker::SamplingParams params;
      params.seed = static_cast<uint64_t>(i);
      params.max_tokens = tokens;
      for (const auto& token : worker::ExpectedTimedTokens(model, log->prompt, params, 0)) {
        log->expected.push_back(token.id);
      }
      log->seen.assign(log->expected.size(), 0);
      logs_.push_back(std::move(log));
    }
  }

  void Run() {
    for (int i = 0; i < kStreams; ++i) StartOne(i);
    MutexLock lock(mu_);
    while (ended_ < kStreams) changed_.Wait(mu_);
  }

  int tokens() const { return tokens_; }  // of each stream
  const std::vector<std::unique_ptr<StreamLog>>& logs() const { return logs_; }
  // Streams between their first and last token at the same moment, at most.
  int concurrent_max() const { return concurrent_max_; }

 private:
  void StartOne(int i) {
    StreamLog* log = logs_[static_cast<size_t>(i)].get();
    v1::GenerateRequest request;
    request.mutable_ids()->mutable_ids()->Add(log->prompt.begin(), log->prompt.end());
    request.mutable_sampling()->set_max_tokens(tokens_);
    request.mutable_sampling()->set_ignore_eos(true);
    request.mutable_sampling()->set_seed(static_cast<uint64_t>(i));
    log->start_ns = RealClock().NowNs();
    client_.Start(std::move(request),
                  {.on_event = [this, log](const v1::GenerateEvent& e) { OnEvent(*log, e); },
                   .on_done = [this, log](const Status& s) { OnDone(*log, s); }});
  }

  void OnEvent(StreamLog& log, const v1::GenerateEvent& event) {
    const TimeNs now = RealClock().NowNs();
    if (event.has_finished()) ++log.terminal_events;
    const bool first = log.arrived_ns.empty();
    for (const v1::Token& token : event.tokens().tokens()) log.Add(token, now);
    if (first && !log.arrived_ns.empty()) {
      const int concurrent = ++concurrent_;
      int seen = concurrent_max_;
      while (concurrent > seen && !concurrent_max_.compare_exchange_weak(seen, concurrent)) {
      }
    }
  }

  void OnDone(StreamLog& log, const Status& status) {
    log.status = status;
    if (!log.arrived_ns.empty()) --concurrent_;
    MutexLock lock(mu_);
    if (++ended_ == kStreams) changed_.NotifyAll();
  }

  const int tokens_;
  std::vector<std::unique_ptr<StreamLog>> logs_;
  std::atomic<int> concurrent_ = 0;
  std::atomic<int> concurrent_max_ = 0;
  Mutex mu_;
  CondVar changed_;
  int ended_ GUARDED_BY(mu_) = 0;
  client::GenerationClient client_;  // last: its callbacks use the rest
};

// The middle of every stream: after all have begun, before any ends.
struct Pace {
  std::vector<double> added_ms;  // beyond the 20 ms between two tokens
  std::vector<double> rates;     // tokens/s of each stream
  double total_per_s = 0;
};

Pace PaceOf(const Load& load) {
  TimeNs from = 0;
  TimeNs to = INT64_MAX;
  for (const auto& log : load.logs()) {
    if (log->arrived_ns.empty()) continue;
    from = std::max(from, log->arrived_ns.front());
    to = std::min(to, log->arrived_ns.back());
  }
  Pace pace;
  const double seconds = SecondsFromNs(to - from);
  for (const auto& log : load.logs()) {
    int64_t tokens = 0;
    for (size_t t = 1; t < log->arrived_ns.size(); ++t) {
      if (log->arrived_ns[t - 1] < from || log->arrived_ns[t] > to) continue;
      ++tokens;
      pace.added_ms.push_back(MsFromNs(log->arrived_ns[t] - log->arrived_ns[t - 1]) -
                              1000 / kTokensPerSecond);
    }
    pace.rates.push_back(static_cast<double>(tokens) / seconds);
    pace.total_per_s += static_cast<double>(tokens) / seconds;
  }
  return pace;
}

void ReportTokens(const Load& load, Report& report) {
  StreamLog sum;
  int64_t lost = 0;
  int64_t tokens = 0;
  int complete = 0;
  std::vector<double> ttft_ms;
  for (const auto& log : load.logs()) {
    lost += log->lost();
    sum.duplicated += log->duplicated;
    sum.reordered += log->reordered;
    sum.wrong += log->wrong;
    tokens += static_cast<int64_t>(log->arrived_ns.size());
    complete += log->status.ok() && log->terminal_events == 1;
    if (!log->status.ok() && sum.status.ok()) sum.status = log->status;
    if (log->arrived_ns.empty()) continue;
    ttft_ms.push_back(MsFromNs(log->arrived_ns.front() - log->start_ns));
  }
  if (!sum.status.ok()) report.Note("first failure: " + sum.status.ToString());
  report.Figure("ttft_p50", Percentile(ttft_ms, 50), "ms");
  report.Figure("ttft_p99", Percentile(ttft_ms, 99), "ms");
  report.Bar("concurrent_streams", load.concurrent_max(), "==", kStreams, kStreams);
  report.Bar("streams_complete", complete, "==", kStreams, kStreams);
  report.Bar("lost", static_cast<double>(lost), "==", 0, tokens);
  report.Bar("duplicated", static_cast<double>(sum.duplicated), "==", 0, tokens);
  report.Bar("reordered", static_cast<double>(sum.reordered), "==", 0, tokens);
  report.Bar("wrong", static_cast<double>(sum.wrong), "==", 0, tokens);
}

Status Run(const BenchFlags& flags, Report& report) {
  const worker::TimedModel model = Model();
  ASSIGN_OR_RETURN(const auto cluster, harness::Cluster::Create(flags.reprise));
  RETURN_IF_ERROR(cluster->AddCoordinator());
  const harness::Cluster::Flags worker = {"--timed",
                                          absl::StrCat("--timed-layers=", model.layers),
                                          absl::StrCat("--timed-row-bytes=", model.row_bytes),
                                          absl::StrCat("--timed-context=", model.context_tokens),
                                          absl::StrCat("--timed-step-ms=", 1000 / kTokensPerSecond),
                                          absl::StrCat("--timed-hidden-ms=", kHiddenMs),
                                          "--running-max=1024",
                                          "--pool-bytes=16MiB"};
  RETURN_IF_ERROR(cluster->AddWorker("decode-0", worker));
  RETURN_IF_ERROR(cluster->AddWorker("decode-1", worker));
  RETURN_IF_ERROR(cluster->AddGateway("gateway"));
  RETURN_IF_ERROR(cluster->WaitLive());
  Load load(cluster->addresses("gateway").grpc, flags.long_run ? 3000 : 600);
  std::map<std::string, double> cpu_before;
  for (const std::string& name : cluster->names()) {
    ASSIGN_OR_RETURN(cpu_before[name], cluster->CpuSeconds(name));
  }
  ASSIGN_OR_RETURN(const double client_before, harness::ProcessCpuSeconds(getpid()));
  load.Run();
  ASSIGN_OR_RETURN(const double client_after, harness::ProcessCpuSeconds(getpid()));
  const double tokens = kStreams * static_cast<double>(load.tokens());
  report.Figure("cpu_client", (client_after - client_before) / tokens * 1e6, "us/token");
  for (const std::string& name : cluster->names()) {
    ASSIGN_OR_RETURN(const double after, cluster->CpuSeconds(name));
    report.Figure("cpu_" + name, (after - cpu_before[name]) / tokens * 1e6, "us/token");
  }
  ReportTokens(load, report);
  const Pace pace = PaceOf(load);
  report.Note("added latency: what a gap between two tokens of a stream is beyond 20 ms");
  report.Figure("added_latency_p50", Percentile(pace.added_ms, 50), "ms");
  report.Figure("added_latency_p99", Percentile(pace.added_ms, 99), "ms");
  report.Figure("stream_rate_median", Median(pace.rates), "tokens/s");
  report.Figure("stream_rate_min", Percentile(pace.rates, 0), "tokens/s");
  report.Figure("tokens_per_s", pace.total_per_s, "tokens/s");
  report.Bar("tokens_per_s_over_nominal", pace.total_per_s / (kStreams * kTokensPerSecond),
             ">=", kOfNominalMin, kStreams);
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("gateway", argc, argv, reprise::bench::Run);
}
