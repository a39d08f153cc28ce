// How long until a failure is noticed by somebody who acts on it, for each kind of failure, and
// whether anybody is given up falsely while everything is busy.
//
// Noticed is the first of: the coordinator takes the node out of placement or gives it up; a
// gateway fails its link to the worker; a worker gives up a replica store. Of a gateway: its
// slowest client has its next token from another one. The signals are polled, so a figure is up to
// two polls long.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bench/bench_main.h"
#include "common/percentile.h"
#include "common/role.h"
#include "tests/cluster/fault_proxy.h"
#include "tests/cluster/setting.h"

namespace reprise::bench {
namespace {

using harness::Cluster;

constexpr int kStreams = 32;
constexpr int kPromptTokens = 100;
constexpr int kMaxTokens = 100;
constexpr double kCrashMaxS = 1;
constexpr double kGrayMaxS = 2;
constexpr TimeNs kPollNs = 10 * kMillisecond;
constexpr TimeNs kGiveUpNs = 15 * kSecond;
constexpr TimeNs kPatienceNs = 120 * kSecond;
constexpr char kProxied[] = "decode-0";  // gateways reach it through the proxy

struct Fault {
  const char* name;
  const char* victim;
  double limit_s;
  std::function<Status(Cluster&, harness::FaultProxy&)> happens;
};

Status Hang(Cluster& cluster, const char* victim, const char* failpoint) {
  return cluster.Arm(victim, absl::StrCat(failpoint, "=hang@1"));
}

std::vector<Fault> Faults() {
  using P = harness::FaultProxy;
  const auto kill = [](const char* name) {
    return [name](Cluster& c, P&) { return c.Kill(name); };
  };
  const auto freeze = [](const char* name) {
    return [name](Cluster& c, P&) { return c.Freeze(name); };
  };
  const auto hang = [](const char* name, const char* at) {
    return [name, at](Cluster& c, P&) { return Hang(c, name, at); };
  };
  return {
      {"crash_worker", "decode-1", kCrashMaxS, kill("decode-1")},
      {"crash_prefill", "prefill-0", kCrashMaxS, kill("prefill-0")},
      {"crash_store", "store-0", kCrashMaxS, kill("store-0")},
      {"crash_gateway", "gateway-0", kCrashMaxS, kill("gateway-0")},
      {"frozen_worker", "decode-1", kGrayMaxS, freeze("decode-1")},
      {"frozen_prefill", "prefill-0", kGrayMaxS, freeze("prefill-0")},
      {"frozen_store", "store-0", kGrayMaxS, freeze("store-0")},
      {"frozen_gateway", "gateway-0", kGrayMaxS, freeze("gateway-0")},
      {"stuck_step", "decode-1", kGrayMaxS, hang("decode-1", "worker.step.layer")},
      {"blocked_disk", "store-0", kGrayMaxS, hang("store-0", "store.disk.write")},
      {"half_open_link", kProxied, kGrayMaxS,
       [](Cluster&, P& proxy) {
         proxy.Set(harness::Direction::kToClient, {.black_hole = true});
         return absl::OkStatus();
       }},
      {"black_holed_link", kProxied, kGrayMaxS,
       [](Cluster&, P& proxy) {
         proxy.SetBoth({.black_hole = true});
         return absl::OkStatus();
       }},
  };
}

class Detect {
 public:
  Detect(const BenchFlags& flags, Report& report) : flags_(flags), report_(report) {
    setting_.program = flags.reprise;
    setting_.prefill_workers = 1;
    setting_.stores = 3;
    setting_.store_disks = true;
    setting_.failpoints = true;
    setting_.step_ms = 10;
  }

  Status Run() {
    RETURN_IF_ERROR(StartAll());
    const int runs = flags_.long_run ? 20 : 5;
    for (const Fault& fault : Faults()) {
      std::vector<double> seconds;
      for (int run = 0; run < runs; ++run) {
        ASSIGN_OR_RETURN(const double noticed, Measure(fault));
        seconds.push_back(noticed);
        std::fprintf(stderr, "%s: %.3f s\n", fault.name, noticed);
      }
      report_.Figure(absl::StrCat(fault.name, "_median"), Median(seconds), "s");
      report_.Bar(absl::StrCat(fault.name, "_worst_s"), Percentile(seconds, 100),
                  "<=", fault.limit_s, runs);
    }
    report_.Bar("streams_not_exact", static_cast<double>(not_exact_), "==", 0, streams_);
    cluster_ = nullptr;
    return Saturated();
  }

 private:
  Status StartAll() {
    ASSIGN_OR_RETURN(proxy_, harness::FaultProxy::Start());
    harness::Setting setting = setting_;
    setting.flags_of[kProxied] = {"--advertise=" + proxy_->address()};
    ASSIGN_OR_RETURN(cluster_, harness::StartCluster(setting));
    return proxy_->SetTarget(cluster_->addresses(kProxied).grpc);
  }

  double Lost(const std::string& role, const char* family) const {
    double sum = 0;
    for (const std::string& name : cluster_->names()) {
      if (absl::StartsWith(name, role)) {
        sum += cluster_->Metric(name, family).value_or(0);
      }
    }
    return sum;
  }

  bool GivenUp(const std::string& victim) const {
    const auto status = cluster_->QueryStatus();
    if (!status.ok()) return false;
    for (const v1::NodeStatus& node : status->nodes()) {
      if (node.node().ref().name() != victim) continue;
      return node.state() != "live" || !node.reason().empty();
    }
    return true;
  }

  // Seconds; kGiveUpNs when nobody noticed.
  double WaitNoticed(const std::string& victim, TimeNs start, double links, double replicas) const {
    StopSignal never;
    while (RealClock().NowNs() - start < kGiveUpNs) {
      const bool worker = !absl::StartsWith(victim, "store");
      if (GivenUp(victim) || (worker && Lost("gateway", kLinksLost) > links) ||
          (!worker && Lost("decode", kReplicasLost) > replicas)) {
        break;
      }
      never.WaitFor(kPollNs);
    }
    return SecondsFromNs(RealClock().NowNs() - start);
  }

  StatusOr<double> Measure(const Fault& fault) {
    harness::CheckedLoad load(harness::TimedLoad(setting_, *cluster_, kStreams, kPromptTokens,
                                                 kMaxTokens, kRequestsApart * ++round_));
    RETURN_IF_ERROR(load.WaitForTokens(kStreams * 10, kPatienceNs));
    const double links = Lost("gateway", kLinksLost);
    const double replicas = Lost("decode", kReplicasLost);
    const TimeNs start = RealClock().NowNs();
    RETURN_IF_ERROR(fault.happens(*cluster_, *proxy_));
    const bool gateway = absl::StartsWith(fault.victim, "gateway");
    double noticed = gateway ? 0 : WaitNoticed(fault.victim, start, links, replicas);
    if (gateway) RETURN_IF_ERROR(load.WaitForTokens(load.tokens() + kStreams * 100, kPatienceNs));
    RETURN_IF_ERROR(load.Stop(kPatienceNs));
    const std::vector<harness::StreamResult> results = load.results();
    for (const harness::StreamResult& r : results) {
      ++streams_;
      not_exact_ += !r.exact();
      if (!gateway || r.resumes == 0 || r.gap_from_ns > start + kSecond) continue;
      noticed = std::max(noticed, SecondsFromNs(r.gap_from_ns + r.longest_gap_ns - start));
    }
    proxy_->SetBoth({});
    if (cluster_->running(fault.victim) && !cluster_->frozen(fault.victim)) {
      RETURN_IF_ERROR(cluster_->Kill(fault.victim));  // a hung one does not end by itself
    }
    RETURN_IF_ERROR(cluster_->Repair());
    return noticed;
  }

  // Everything busy for two minutes with the demo model: whoever is given up then was not dead.
  Status Saturated() {
    harness::Setting busy;
    busy.program = flags_.reprise;
    busy.decode_workers = 2;
    busy.prefill_workers = 1;
    busy.stores = 2;
    busy.model_dir = flags_.models + "/demo";
    busy.worker_flags = {"--pool-bytes=64MiB"};
    ASSIGN_OR_RETURN(cluster_, harness::StartCluster(busy));
    const TimeNs until = RealClock().NowNs() + (flags_.long_run ? 60 : 2) * int64_t{60} * kSecond;
    harness::CheckedLoad load({.gateways = cluster_->gateways(),
                               .in_flight = 64,
                               .make = [](int64_t number) { return BusyRequest(number); }});
    StopSignal never;
    int64_t looks = 0;
    int64_t false_verdicts = 0;
    double cpu = -TotalCpu();
    const TimeNs start = RealClock().NowNs();
    for (; RealClock().NowNs() < until; ++looks) {
      for (const std::string& name : cluster_->names()) {
        const bool judged =
            !absl::StartsWith(name, "coordinator") && !absl::StartsWith(name, "gateway");
        if (judged && GivenUp(name)) ++false_verdicts;
      }
      never.WaitFor(100 * kMillisecond);
    }
    cpu += TotalCpu();
    const double links = Lost("gateway", kLinksLost);
    const double replicas = Lost("decode", kReplicasLost);
    RETURN_IF_ERROR(load.Stop(kPatienceNs));
    report_.Figure("saturated_cores", cpu / SecondsFromNs(RealClock().NowNs() - start), "");
    report_.Figure("saturated_streams", static_cast<double>(load.results().size()), "");
    report_.Bar("false_verdicts", static_cast<double>(false_verdicts) + links + replicas, "==", 0,
                looks);
    report_.Bar("saturated_streams_hit", static_cast<double>(harness::Sum(load.results()).hit),
                "==", 0, static_cast<int64_t>(load.results().size()));
    return absl::OkStatus();
  }

  double TotalCpu() const {
    double seconds = 0;
    for (const std::string& name : cluster_->names()) {
      seconds += cluster_->CpuSeconds(name).value_or(0);
    }
    return seconds;
  }

  // Only its going on counts here, so no transcript is expected.
  static harness::CheckedRequest BusyRequest(int64_t number) {
    harness::CheckedRequest made;
    made.request.set_text(absl::StrCat("Story number ", number, ": once upon a time"));
    made.request.mutable_sampling()->set_max_tokens(200);
    made.request.mutable_sampling()->set_ignore_eos(true);
    return made;
  }

  static constexpr char kLinksLost[] = "reprise_gateway_links_lost_total";
  static constexpr char kReplicasLost[] = "reprise_replicas_lost_total";
  static constexpr int64_t kRequestsApart = 1'000'000;

  const BenchFlags& flags_;
  Report& report_;
  harness::Setting setting_;
  std::unique_ptr<harness::FaultProxy> proxy_;
  std::unique_ptr<Cluster> cluster_;  // after the proxy: it uses it
  int64_t round_ = 0;
  int64_t streams_ = 0;
  int64_t not_exact_ = 0;
};

Status Run(const BenchFlags& flags, Report& report) { return Detect(flags, report).Run(); }

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("detect", argc, argv, reprise::bench::Run);
}
