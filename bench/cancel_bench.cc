// Ten thousand requests are cancelled at random moments: by Cancel, by a client that leaves without
// a resume window, by one that leaves with a short window, and by their deadline. A second after
// each burst (and after its windows) nothing may be held for a request that has ended, and in the
// end every page of every worker must be free or reusable.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/bench_main.h"
#include "cli/client/generation_client.h"
#include "common/mutex.h"
#include "common/percentile.h"
#include "common/random.h"
#include "common/role.h"
#include "common/thread.h"
#include "tests/cluster/setting.h"

namespace reprise::bench {
namespace {

constexpr int kCancels = 10'000;
constexpr int kBurst = 250;
constexpr int kInFlight = 100;
constexpr int kPromptTokens = 100;
constexpr int kMaxTokens = 200;
constexpr int64_t kWindowMs = 300;
constexpr TimeNs kBurstTimeoutNs = 60 * kSecond;
constexpr TimeNs kSettleTimeoutNs = 10 * kSecond;

enum class Way { kCancel, kLeave, kLeaveWithWindow, kDeadline };

// One burst of streams, each ended in its own way at its own token.
class Burst {
 public:
  Burst(const harness::Setting& setting, const std::vector<std::string>& gateways, uint64_t seed)
      : setting_(setting), random_(seed), first_(static_cast<int64_t>(seed) * kBurst) {
    for (const std::string& gateway : gateways) {
      clients_.push_back(std::make_unique<client::GenerationClient>(
          client::ClientOptions{.address = gateway, .connections = 2}));
    }
    canceller_ = Thread("canceller", [this] { Cancels(); });
  }
  ~Burst() {
    {
      MutexLock lock(mu_);
      closed_ = true;
      changed_.NotifyAll();
    }
    canceller_.Join();
    clients_.clear();
  }

  Status Run() {
    for (int i = 0; i < kInFlight; ++i) StartNext();
    const TimeNs until = RealClock().NowNs() + kBurstTimeoutNs;
    MutexLock lock(mu_);
    while (ended_ < kBurst) {
      if (RealClock().NowNs() > until) {
        return absl::DeadlineExceededError(absl::StrCat(ended_, " of ", kBurst, " streams ended"));
      }
      changed_.WaitFor(mu_, std::chrono::nanoseconds(kSecond));
    }
    return absl::OkStatus();
  }
  TimeNs last_end_ns() const {
    MutexLock lock(mu_);
    return last_end_ns_;
  }
  int completed() const { return completed_; }  // before their cancel came

 private:
  struct One {
    Way way = Way::kCancel;
    int at_token = 0;
    int tokens = 0;
    bool cancelled = false;
    bool finished = false;
    v1::Accepted accepted;
    client::GenerationClient* client = nullptr;
    std::shared_ptr<client::GenerationStream> stream;
  };

  void StartNext() {
    auto one = std::make_shared<One>();
    int64_t number;
    v1::GenerateRequest request;
    {
      MutexLock lock(mu_);
      if (started_ == kBurst) return;
      number = first_ + started_++;
      one->way = static_cast<Way>(random_.Below(4));
      one->at_token = static_cast<int>(random_.Below(40));
      request = harness::TimedRequest(setting_.model, number, kPromptTokens, 0).request;
      request.mutable_sampling()->set_max_tokens(kMaxTokens);
      if (one->way == Way::kDeadline) {
        request.set_deadline_ms(1 + static_cast<int64_t>(random_.Below(200)));
      }
      request.set_resume_window_ms(one->way == Way::kLeaveWithWindow ? kWindowMs : 0);
      one->client = clients_[random_.Below(clients_.size())].get();
    }
    auto stream = one->client->Start(
        std::move(request),
        {.on_event = [this, one](const v1::GenerateEvent& e) { OnEvent(one, e); },
         .on_done = [this, one](const Status&) { OnDone(*one); }});
    MutexLock lock(mu_);
    one->stream = std::move(stream);
    changed_.NotifyAll();
  }

  // The moment is a token; 0: at once.
  void OnEvent(const std::shared_ptr<One>& one, const v1::GenerateEvent& event) {
    if (event.has_accepted()) one->accepted = event.accepted();
    one->finished |= event.has_finished();
    one->tokens += event.tokens().tokens_size();
    if (one->way == Way::kDeadline || one->cancelled || one->tokens < one->at_token) return;
    one->cancelled = true;
    MutexLock lock(mu_);
    to_cancel_.push_back(one);
    changed_.NotifyAll();
  }

  void OnDone(const One& one) {
    completed_ += one.finished && !one.cancelled && one.way != Way::kDeadline;
    StartNext();
    MutexLock lock(mu_);
    ++ended_;
    last_end_ns_ = RealClock().NowNs();
    changed_.NotifyAll();
  }

  // Cancel blocks, and a callback must not.
  void Cancels() {
    while (true) {
      std::shared_ptr<One> one;
      std::shared_ptr<client::GenerationStream> stream;
      {
        MutexLock lock(mu_);
        const auto ready = [this]() REQUIRES(mu_) {
          return std::find_if(to_cancel_.begin(), to_cancel_.end(),
                              [](const auto& o) { return o->stream != nullptr; });
        };
        while (!closed_ && ready() == to_cancel_.end()) changed_.Wait(mu_);
        if (closed_) return;
        const auto next = ready();
        one = *next;
        stream = one->stream;
        to_cancel_.erase(next);
      }
      if (one->way == Way::kCancel) {
        (void)one->client->Cancel(one->accepted);
      } else {
        stream->Abandon();
      }
    }
  }

  const harness::Setting& setting_;
  mutable Mutex mu_;
  CondVar changed_;
  SplitMix64 random_ GUARDED_BY(mu_);
  const int64_t first_;
  int started_ GUARDED_BY(mu_) = 0;
  int ended_ GUARDED_BY(mu_) = 0;
  TimeNs last_end_ns_ GUARDED_BY(mu_) = 0;
  bool closed_ GUARDED_BY(mu_) = false;
  std::vector<std::shared_ptr<One>> to_cancel_ GUARDED_BY(mu_);
  std::atomic<int> completed_ = 0;
  std::vector<std::unique_ptr<client::GenerationClient>> clients_;
  Thread canceller_;
};

// Milliseconds from `since` until nothing is stranded anywhere.
double SettleMs(const harness::Cluster& cluster, TimeNs since, double& bytes_left) {
  StopSignal never;
  while (true) {
    bytes_left = cluster.MetricOverAll("reprise_stranded_bytes");
    const TimeNs passed = RealClock().NowNs() - since;
    if (bytes_left == 0 || passed > kSettleTimeoutNs) return MsFromNs(passed);
    never.WaitFor(10 * kMillisecond);
  }
}

// Pages or slots that are neither free nor reusable.
StatusOr<int64_t> PagesHeld(const harness::Cluster& cluster, const std::string& role) {
  ASSIGN_OR_RETURN(const v1::ClusterStatus status, cluster.QueryStatus());
  int64_t held = 0;
  for (const v1::NodeStatus& node : status.nodes()) {
    if (node.node().ref().name().find(role) != 0) continue;
    const v1::Load& load = node.load();
    held += load.blocks_total() - load.blocks_free() - load.blocks_cached();
  }
  return held;
}

Status Run(const BenchFlags& flags, Report& report) {
  harness::Setting setting;
  setting.program = flags.reprise;
  setting.prefill_workers = 1;
  setting.decode_workers = 2;
  setting.stores = 2;
  setting.step_ms = 5;
  ASSIGN_OR_RETURN(const auto cluster, harness::StartCluster(setting));
  RETURN_IF_ERROR(cluster->Metric("decode-0", "reprise_stranded_bytes").status());
  const int bursts = (flags.long_run ? 10 : 1) * kCancels / kBurst;
  StopSignal never;
  std::vector<double> settle_ms;
  double stranded = 0;
  int completed = 0;
  for (int i = 0; i < bursts; ++i) {
    Burst burst(setting, cluster->gateways(), static_cast<uint64_t>(i) + 1);
    RETURN_IF_ERROR(burst.Run());
    // Once for the cancelled, and once for those whose window has ended.
    const TimeNs windows_end = burst.last_end_ns() + kWindowMs * kMillisecond;
    for (const TimeNs since : {burst.last_end_ns(), windows_end}) {
      never.WaitFor(std::max<TimeNs>(0, since - RealClock().NowNs()));
      double left = 0;
      settle_ms.push_back(SettleMs(*cluster, since, left));
      stranded = std::max(stranded, left);
    }
    completed += burst.completed();
  }
  never.WaitFor(kSecond);  // reports carry what nodes hold
  ASSIGN_OR_RETURN(const int64_t held, PagesHeld(*cluster, "decode"));
  ASSIGN_OR_RETURN(const int64_t prefill_held, PagesHeld(*cluster, "prefill"));
  ASSIGN_OR_RETURN(const int64_t store_held, PagesHeld(*cluster, "store"));
  const int64_t cancels = int64_t{bursts} * kBurst;
  report.Note(
      "settled: from the last end of a burst, and from its last window's, to 0 stranded bytes");
  report.Figure("settle_p50", Percentile(settle_ms, 50), "ms");
  report.Figure("ended_before_their_cancel", completed, "");
  report.Bar("cancels", static_cast<double>(cancels), ">=", kCancels, cancels);
  report.Bar("settled_worst_s", Percentile(settle_ms, 100) / 1000, "<=", 1, cancels);
  report.Bar("stranded_bytes_left", stranded, "==", 0, cancels);
  report.Bar("worker_pages_held", static_cast<double>(held + prefill_held), "==", 0, cancels);
  report.Bar("store_slots_held", static_cast<double>(store_held), "==", 0, cancels);
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("cancel", argc, argv, reprise::bench::Run);
}
