// Ten thousand requests are cancelled at random moments: by Cancel, by a client that leaves without
// a resume window, by one that leaves with a short window, and by their deadline. Within a second
// of each cancel (or of its window's end) nothing may be held for it any more, and in the end every
// page of every worker must be free or reusable.
//
// Nodes say how many bytes they hold for ended requests, all together (reprise_stranded_bytes). A
// moment at which a node says 0 is one at which it holds nothing for any cancel it has heard of. So
// a cancel has settled when every node has said 0 at least once, kDeliveryNs or more after it.
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
constexpr int kInFlight = 32;
constexpr int kPromptTokens = 100;
constexpr int kMaxTokens = 200;
constexpr int64_t kWindowMs = 300;
constexpr TimeNs kTimeoutNs = 600 * kSecond;
constexpr TimeNs kSampleNs = 40 * kMillisecond;
constexpr TimeNs kDeliveryNs = 100 * kMillisecond;  // client to gateway to worker to store
constexpr TimeNs kLastSettleNs = 2 * kSecond;
constexpr double kSettledMaxS = 1;
constexpr double kNeverS = 1000;

enum class Way { kCancel, kLeave, kLeaveWithWindow, kDeadline };

// When each node held nothing for ended requests, from samples taken all the time. Its own thread.
class ZeroMoments {
 public:
  ZeroMoments(const harness::Cluster& cluster, std::vector<std::string> nodes)
      : cluster_(cluster), nodes_(std::move(nodes)), zeros_(nodes_.size()) {
    thread_ = Thread("zero_moments", [this] { Loop(); });
  }
  ~ZeroMoments() { Stop(); }

  void Stop() {
    stop_.Stop();
    thread_.Join();
  }
  // Seconds until every node had said 0; kNeverS when one did not. After Stop.
  double SettleSeconds(TimeNs cancel_ns) const {
    TimeNs last = cancel_ns;
    for (const std::vector<TimeNs>& zeros : zeros_) {
      const auto first = std::lower_bound(zeros.begin(), zeros.end(), cancel_ns + kDeliveryNs);
      if (first == zeros.end()) return kNeverS;
      last = std::max(last, *first);
    }
    return SecondsFromNs(last - cancel_ns);
  }
  int64_t samples() const { return samples_; }
  double worst_bytes() const { return worst_bytes_; }  // of one node
  int64_t unanswered() const { return unanswered_; }

 private:
  void Loop() {
    while (!stop_.WaitFor(kSampleNs)) {
      for (size_t i = 0; i < nodes_.size(); ++i) {
        const TimeNs asked = RealClock().NowNs();
        const auto bytes = cluster_.Metric(nodes_[i], "reprise_stranded_bytes");
        ++samples_;
        if (!bytes.ok()) {
          ++unanswered_;
          continue;
        }
        if (*bytes == 0) zeros_[i].push_back(asked);
        worst_bytes_ = std::max(worst_bytes_, *bytes);
      }
    }
  }

  const harness::Cluster& cluster_;
  const std::vector<std::string> nodes_;
  std::vector<std::vector<TimeNs>> zeros_;  // by node; of the thread until Stop
  int64_t samples_ = 0;
  int64_t unanswered_ = 0;
  double worst_bytes_ = 0;
  StopSignal stop_;
  Thread thread_;
};

// Streams, each ended in its own way at its own token, until so many were cancelled.
class RandomCancels {
 public:
  RandomCancels(const harness::Setting& setting, const std::vector<std::string>& gateways,
                uint64_t seed, int64_t cancels)
      : setting_(setting), cancels_(cancels), random_(seed) {
    for (const std::string& gateway : gateways) {
      clients_.push_back(std::make_unique<client::GenerationClient>(
          client::ClientOptions{.address = gateway, .connections = 2}));
    }
    canceller_ = Thread("canceller", [this] { Cancels(); });
  }
  ~RandomCancels() {
    {
      MutexLock lock(mu_);
      closed_ = true;
      changed_.NotifyAll();
    }
    canceller_.Join();
    clients_.clear();
  }

  // When each was cancelled, or its window ended.
  StatusOr<std::vector<TimeNs>> Run() {
    for (int i = 0; i < kInFlight; ++i) StartNext();
    const TimeNs until = RealClock().NowNs() + kTimeoutNs;
    MutexLock lock(mu_);
    while (running_ > 0) {
      if (RealClock().NowNs() > until) {
        return absl::DeadlineExceededError(absl::StrCat(
            cancelled_ns_.size(), " of ", cancels_, " were cancelled, ", running_, " streams run"));
      }
      changed_.WaitFor(mu_, std::chrono::nanoseconds(kSecond));
    }
    return cancelled_ns_;
  }
  int64_t completed() const { return completed_; }  // before their cancel came

 private:
  struct One {
    Way way = Way::kCancel;
    int at_token = 0;
    int tokens = 0;
    TimeNs cancelled_ns = 0;  // 0: not yet
    bool completed = false;   // every branch by itself
    v1::Accepted accepted;
    client::GenerationClient* client = nullptr;
    std::shared_ptr<client::GenerationStream> stream;
  };

  void StartNext() {
    auto one = std::make_shared<One>();
    v1::GenerateRequest request;
    {
      MutexLock lock(mu_);
      if (static_cast<int64_t>(cancelled_ns_.size()) >= cancels_) return;
      ++running_;
      one->way = static_cast<Way>(random_.Below(4));
      one->at_token = static_cast<int>(random_.Below(40));
      request = harness::TimedRequest(setting_.model, started_++, kPromptTokens, 0).request;
      request.mutable_sampling()->set_max_tokens(kMaxTokens);
      if (one->way == Way::kDeadline) {
        const int64_t ms = 1 + static_cast<int64_t>(random_.Below(200));
        request.set_deadline_ms(ms);
        one->cancelled_ns = RealClock().NowNs() + NsFromMs(ms);
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
    if (event.has_finished()) one->completed = EndedByItself(event.finished());
    one->tokens += event.tokens().tokens_size();
    if (one->cancelled_ns != 0 || one->completed || one->tokens < one->at_token) return;
    one->cancelled_ns = RealClock().NowNs();
    if (one->way == Way::kLeaveWithWindow) one->cancelled_ns += NsFromMs(kWindowMs);
    MutexLock lock(mu_);
    to_cancel_.push_back(one);
    changed_.NotifyAll();
  }

  static bool EndedByItself(const v1::Finished& finished) {
    return std::all_of(finished.branches().begin(), finished.branches().end(),
                       [](const v1::BranchFinished& branch) {
                         return branch.reason() == v1::FINISH_REASON_LENGTH ||
                                branch.reason() == v1::FINISH_REASON_EOS;
                       });
  }

  void OnDone(const One& one) {
    {
      MutexLock lock(mu_);
      if (one.completed) {
        ++completed_;
      } else if (one.cancelled_ns != 0) {
        cancelled_ns_.push_back(one.cancelled_ns);
      }
    }
    StartNext();
    MutexLock lock(mu_);
    --running_;
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
  const int64_t cancels_;
  Mutex mu_;
  CondVar changed_;
  SplitMix64 random_ GUARDED_BY(mu_);
  int64_t started_ GUARDED_BY(mu_) = 0;
  int running_ GUARDED_BY(mu_) = 0;
  std::vector<TimeNs> cancelled_ns_ GUARDED_BY(mu_);
  bool closed_ GUARDED_BY(mu_) = false;
  std::vector<std::shared_ptr<One>> to_cancel_ GUARDED_BY(mu_);
  std::atomic<int64_t> completed_ = 0;
  std::vector<std::unique_ptr<client::GenerationClient>> clients_;
  Thread canceller_;
};

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
  std::vector<std::string> nodes = {"prefill-0"};
  for (const auto& names : {harness::Names("decode", setting.decode_workers),
                            harness::Names("store", setting.stores)}) {
    nodes.insert(nodes.end(), names.begin(), names.end());
  }
  for (const std::string& node : nodes) {
    RETURN_IF_ERROR(cluster->Metric(node, "reprise_stranded_bytes").status());
  }
  ZeroMoments zeros(*cluster, nodes);
  const uint64_t seed = RandomU64() % 1'000'000;
  report.Note(absl::StrCat("seed of the cancels ", seed));
  RandomCancels random(setting, cluster->gateways(), seed,
                       (flags.long_run ? 10 : 1) * int64_t{kCancels});
  ASSIGN_OR_RETURN(const std::vector<TimeNs> cancelled, random.Run());
  StopSignal never;
  never.WaitFor(kLastSettleNs);  // reports carry what nodes hold
  zeros.Stop();
  std::vector<double> settle_s;
  for (const TimeNs at : cancelled) settle_s.push_back(zeros.SettleSeconds(at));
  ASSIGN_OR_RETURN(const int64_t held, PagesHeld(*cluster, "decode"));
  ASSIGN_OR_RETURN(const int64_t prefill_held, PagesHeld(*cluster, "prefill"));
  ASSIGN_OR_RETURN(const int64_t store_held, PagesHeld(*cluster, "store"));
  const auto cancels = static_cast<int64_t>(cancelled.size());
  const auto late =
      std::count_if(settle_s.begin(), settle_s.end(), [](double s) { return s > kSettledMaxS; });
  report.Note("settled: from the cancel (or its window's end) until every node held 0 bytes");
  report.Figure("settled_p50", Percentile(settle_s, 50), "s");
  report.Figure("ended_before_their_cancel", static_cast<double>(random.completed()), "");
  report.Figure("samples_of_stranded_bytes", static_cast<double>(zeros.samples()), "");
  report.Figure("samples_without_an_answer", static_cast<double>(zeros.unanswered()), "");
  report.Figure("stranded_bytes_of_a_node_worst", zeros.worst_bytes(), "bytes");
  report.Bar("cancels", static_cast<double>(cancels), ">=", kCancels, cancels);
  report.Bar("settled_worst_s", Percentile(settle_s, 100), "<=", kSettledMaxS, cancels);
  report.Bar("cancels_with_stranded_bytes_after_1_s", static_cast<double>(late), "==", 0, cancels);
  report.Bar("stranded_bytes_left", cluster->MetricOverAll("reprise_stranded_bytes"), "==", 0,
             cancels);
  report.Bar("worker_pages_held", static_cast<double>(held + prefill_held), "==", 0, cancels);
  report.Bar("store_slots_held", static_cast<double>(store_held), "==", 0, cancels);
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("cancel", argc, argv, reprise::bench::Run);
}
