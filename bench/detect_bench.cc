// How long until a failure is noticed by somebody who acts on it, for each kind of failure, and
// whether anybody is given up falsely while everything is busy.
//
// Noticed is the first of: the coordinator takes the node out of placement or gives it up; a
// gateway fails its link to the worker; a worker gives up a replica store. Of a gateway: its
// slowest client has its next token from another one. The signals are polled, so a figure is up to
// two polls long.
//
// Links between gateways and a worker go through a proxy that swallows bytes. UCX connects its
// lanes beside what a proxy sees, so a KV link is cut for real: nodes in network namespaces, whose
// cable to the switch is pulled while both ends see their link up.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bench/bench_main.h"
#include "common/percentile.h"
#include "common/role.h"
#include "tests/cluster/fault_proxy.h"
#include "tests/cluster/network_lab.h"
#include "tests/cluster/poll.h"
#include "tests/cluster/setting.h"

namespace reprise::bench {
namespace {

using harness::Cluster;

constexpr int kStreams = 32;
constexpr int kPromptTokens = 100;
constexpr int kMaxTokens = 100;
constexpr double kCrashMaxS = 1;
constexpr double kGrayMaxS = 2;
constexpr TimeNs kGiveUpNs = 15 * kSecond;
constexpr TimeNs kPatienceNs = 120 * kSecond;
// A worker's and a store's KV link, and all links of a worker.
constexpr const char* kLabFaults[] = {
    "black_holed_kv_link_of_worker", "black_holed_kv_link_of_store", "black_holed_links_of_worker"};
constexpr char kProxied[] = "decode-0";  // gateways reach it through the proxy

struct Fault {
  std::string name;
  std::string victim;
  double limit_s;
  std::function<Status()> happens;
  std::function<Status()> ends = [] { return absl::OkStatus(); };
};

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

  // First of all the lab: a thread that has started others cannot make it.
  Status Run() {
    auto lab = harness::NetworkLab::Create();
    RETURN_IF_ERROR(StartAll());
    for (const auto& faults : {Deaths(), Frozen(), Links()}) {
      for (const Fault& fault : faults) RETURN_IF_ERROR(MeasureAll(fault));
    }
    cluster_ = nullptr;
    if (!lab.ok()) {
      report_.Note(absl::StrCat("links between addresses of their own: ", lab.status().message()));
      for (const char* name : kLabFaults) {
        report_.Bar(absl::StrCat(name, "_worst_s"), SecondsFromNs(kGiveUpNs), "<=", kGrayMaxS, 0);
      }
    } else {
      lab_ = *std::move(lab);
      RETURN_IF_ERROR(MeasureInLab());
    }
    report_.Bar("streams_not_exact", static_cast<double>(not_exact_), "==", 0, streams_);
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

  // Workers and stores with network namespaces of their own, KV over TCP.
  Status MeasureInLab() {
    harness::Setting setting = setting_;
    setting.lab = lab_.get();
    ASSIGN_OR_RETURN(cluster_, harness::StartCluster(setting));
    for (const Fault& fault : Cables()) RETURN_IF_ERROR(MeasureAll(fault));
    cluster_ = nullptr;
    return absl::OkStatus();
  }

  std::vector<Fault> Deaths() {
    std::vector<Fault> faults;
    for (const auto& [name, victim] :
         {std::pair("crash_worker", "decode-1"), std::pair("crash_prefill", "prefill-0"),
          std::pair("crash_store", "store-0"), std::pair("crash_gateway", "gateway-0")}) {
      faults.push_back(
          {name, victim, kCrashMaxS, [this, v = victim] { return cluster_->Kill(v); }});
    }
    return faults;
  }

  std::vector<Fault> Frozen() {
    std::vector<Fault> faults;
    for (const auto& [name, victim] :
         {std::pair("frozen_worker", "decode-1"), std::pair("frozen_prefill", "prefill-0"),
          std::pair("frozen_store", "store-0"), std::pair("frozen_gateway", "gateway-0")}) {
      faults.push_back(
          {name, victim, kGrayMaxS, [this, v = victim] { return cluster_->Freeze(v); }});
    }
    for (const auto& [name, victim, order] :
         {std::tuple("stuck_step", "decode-1", "worker.step.layer=hang@1"),
          std::tuple("blocked_disk", "store-0", "store.disk.write=hang@1")}) {
      faults.push_back(
          {name, victim, kGrayMaxS, [this, v = victim, o = order] { return cluster_->Arm(v, o); }});
    }
    return faults;
  }

  // Between the gateways and one worker.
  std::vector<Fault> Links() {
    const auto heal = [this] {
      proxy_->SetBoth({});
      return absl::OkStatus();
    };
    return {{"half_open_link", kProxied, kGrayMaxS,
             [this] {
               proxy_->Set(harness::Direction::kToClient, {.black_hole = true});
               return absl::OkStatus();
             },
             heal},
            {"black_holed_link", kProxied, kGrayMaxS,
             [this] {
               proxy_->SetBoth({.black_hole = true});
               return absl::OkStatus();
             },
             heal}};
  }

  std::vector<Fault> Cables() {
    using Net = harness::NetworkLab::Net;
    const auto cut = [this](const char* name, const char* victim, const std::vector<Net>& nets) {
      const auto each = [this, v = std::string(victim),
                         nets](Status (harness::NetworkLab::*what)(const std::string&, Net)) {
        for (const Net net : nets) RETURN_IF_ERROR((*lab_.*what)(v, net));
        return absl::OkStatus();
      };
      return Fault{name, victim, kGrayMaxS, [each] { return each(&harness::NetworkLab::Cut); },
                   [each] { return each(&harness::NetworkLab::Heal); }};
    };
    return {cut(kLabFaults[0], "decode-1", {Net::kKv}), cut(kLabFaults[1], "store-1", {Net::kKv}),
            cut(kLabFaults[2], "decode-2", {Net::kKv, Net::kOrders})};
  }

  Status MeasureAll(const Fault& fault) {
    std::vector<double> seconds;
    const int runs = flags_.long_run ? 20 : 5;
    for (int run = 0; run < runs; ++run) {
      ASSIGN_OR_RETURN(const double noticed, Measure(fault));
      seconds.push_back(noticed);
      std::fprintf(stderr, "%s: %.3f s\n", fault.name.c_str(), noticed);
    }
    report_.Figure(absl::StrCat(fault.name, "_median"), Median(seconds), "s");
    report_.Bar(absl::StrCat(fault.name, "_worst_s"), Percentile(seconds, 100), "<=", fault.limit_s,
                runs);
    return absl::OkStatus();
  }

  // Seconds; kGiveUpNs when nobody noticed.
  double WaitNoticed(const std::string& victim, TimeNs start, double links, double replicas) const {
    const bool store = absl::StartsWith(victim, "store");
    const auto noticed = [&] {
      return cluster_->GivenUp(victim) ||
             (store ? cluster_->MetricOverAll(kReplicasLost, "decode") > replicas
                    : cluster_->MetricOverAll(kLinksLost, "gateway") > links);
    };
    (void)harness::PollUntil("notice of " + victim, kGiveUpNs, noticed);
    return SecondsFromNs(RealClock().NowNs() - start);
  }

  StatusOr<double> Measure(const Fault& fault) {
    harness::CheckedLoad load(harness::TimedLoad(setting_, *cluster_, kStreams, kPromptTokens,
                                                 kMaxTokens, kRequestsApart * ++round_));
    RETURN_IF_ERROR(load.WaitForTokens(kStreams * 10, kPatienceNs));
    if (!absl::StartsWith(fault.victim, "gateway")) {
      RETURN_IF_ERROR(harness::PollUntil(fault.victim + " in placement", kPatienceNs,
                                         [&] { return !cluster_->GivenUp(fault.victim); }));
    }
    const double links = cluster_->MetricOverAll(kLinksLost, "gateway");
    const double replicas = cluster_->MetricOverAll(kReplicasLost, "decode");
    const TimeNs start = RealClock().NowNs();
    RETURN_IF_ERROR(fault.happens());
    const bool gateway = absl::StartsWith(fault.victim, "gateway");
    double noticed = gateway ? 0 : WaitNoticed(fault.victim, start, links, replicas);
    if (gateway) RETURN_IF_ERROR(load.WaitForTokens(load.tokens() + kStreams * 100, kPatienceNs));
    RETURN_IF_ERROR(load.Stop(kPatienceNs));
    const std::vector<harness::StreamResult> results = load.results();
    for (const harness::StreamResult& r : results) {
      ++streams_;
      not_exact_ += !r.exact();
      if (!gateway || r.resumes == 0) continue;
      // One whose longest gap was another had a shorter one here.
      const TimeNs gap_ends = r.gap_from_ns + r.longest_gap_ns;
      const bool here = r.gap_from_ns <= start && gap_ends > start;
      noticed = std::max(noticed, SecondsFromNs(here ? gap_ends - start : r.longest_gap_ns));
    }
    RETURN_IF_ERROR(fault.ends());
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
        if (judged && cluster_->GivenUp(name)) ++false_verdicts;
      }
      never.WaitFor(100 * kMillisecond);
    }
    cpu += TotalCpu();
    const double links = cluster_->MetricOverAll(kLinksLost, "gateway");
    const double replicas = cluster_->MetricOverAll(kReplicasLost, "decode");
    RETURN_IF_ERROR(load.Stop(kPatienceNs));
    report_.Figure("saturated_cores", cpu / SecondsFromNs(RealClock().NowNs() - start), "");
    report_.Figure("saturated_streams", static_cast<double>(load.results().size()), "");
    report_.Figure("saturated_looks_at_a_suspect", static_cast<double>(false_verdicts), "");
    report_.Figure("saturated_links_lost", links, "");
    report_.Figure("saturated_replicas_lost", replicas, "");
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
  std::unique_ptr<harness::NetworkLab> lab_;
  std::unique_ptr<harness::FaultProxy> proxy_;
  std::unique_ptr<Cluster> cluster_;  // after the others: it uses them
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
