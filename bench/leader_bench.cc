// The leading coordinator of a group is killed or frozen twenty times. New requests are offered all
// the time: their outage is what the unluckiest of them waited for its first token. An order that
// each leader gave before its fault is held back until its worker has heard of the next leader; the
// worker must refuse it then. So it must be with what a thawed leader grants, of a placement asked
// while it was frozen or right after. Long streams run beside and must not notice.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/bench_main.h"
#include "common/grpc_status.h"
#include "common/percentile.h"
#include "common/role.h"
#include "common/rpc_server.h"
#include "common/thread.h"
#include "tests/cluster/poll.h"
#include "tests/cluster/setting.h"
#include "tests/cluster/worker_client.h"

namespace reprise::bench {
namespace {

constexpr int kFaults = 20;
constexpr int kBeside = 32;  // long streams
constexpr TimeNs kSettleNs = 2 * kSecond;
constexpr TimeNs kFrozenMinNs = 2 * kSecond;
constexpr TimeNs kPatienceNs = 120 * kSecond;
constexpr char kRefused[] = "reprise_stale_leader_refused_total";
constexpr int64_t kProbesFrom = int64_t{1} << 40;  // request numbers

// A placement that one coordinator grants, or is asked for; its order may be brought to the worker
// at any later time.
class Placement {
 public:
  Placement(const std::string& coordinator, const v1::ModelInfo& model, const std::string& id)
      : stub_(v1::Coordinator::NewStub(ClusterChannel(coordinator))) {
    request_.set_request_id(id);
    request_.set_format_digest(model.format_digest());
    request_.set_prompt_tokens(4);
    request_.set_max_tokens(4);
    request_.set_branches(1);
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    thread_ = Thread("place",
                     [this] { status_ = FromGrpc(stub_->Place(&context_, request_, &answer_)); });
  }

  // Waits for the answer. What follows only when it is granted.
  bool Granted() {
    thread_.Join();
    return status_.ok();
  }
  uint64_t epoch() const { return answer_.leader_epoch(); }
  const std::string& worker() const { return answer_.decode().name(); }

  // The worker's answer to the order: OK when it took it.
  Status BringToWorker() const {
    ASSIGN_OR_RETURN(const auto client, harness::WorkerClient::Connect(answer_.decode()));
    v1::Submit submit;
    submit.set_request_id(request_.request_id());
    *submit.mutable_attempt() = answer_.attempt();
    submit.mutable_prompt()->Add(7);
    submit.mutable_sampling()->set_n(1);
    submit.mutable_sampling()->set_max_tokens(4);
    submit.mutable_sampling()->set_top_p(1);
    submit.mutable_sampling()->set_repetition_penalty(1);
    submit.set_leader_epoch(answer_.leader_epoch());
    ASSIGN_OR_RETURN(const harness::WorkerResult result, client->Run(submit, kPatienceNs));
    return result.status;
  }

 private:
  const std::unique_ptr<v1::Coordinator::Stub> stub_;
  v1::PlaceRequest request_;
  v1::PlaceResponse answer_;
  grpc::ClientContext context_;
  Status status_;
  Thread thread_;
};

class LeaderBench {
 public:
  LeaderBench(const BenchFlags& flags, Report& report) : flags_(flags), report_(report) {
    setting_.program = flags.reprise;
    setting_.decode_workers = 2;
    setting_.stores = 2;
    setting_.coordinators = 2;
    setting_.step_ms = 20;
    setting_.worker_flags = {"--timed-hidden-ms=10"};
  }

  Status Run() {
    ASSIGN_OR_RETURN(cluster_, harness::StartCluster(setting_));
    ASSIGN_OR_RETURN(model_, cluster_->QueryModel());
    harness::CheckedLoad beside(
        harness::TimedLoad(setting_, *cluster_, kBeside, 32, flags_.long_run ? 2000 : 400));
    harness::CheckedLoad probes(harness::TimedLoad(setting_, *cluster_, 4, 8, 1, kProbesFrom));
    RETURN_IF_ERROR(beside.WaitForTokens(kBeside * 5, kPatienceNs));
    StopSignal never;
    for (int fault = 0; fault < kFaults; ++fault) {
      RETURN_IF_ERROR(Strike(fault));
      never.WaitFor(kSettleNs);
    }
    RETURN_IF_ERROR(probes.Stop(kPatienceNs));
    RETURN_IF_ERROR(beside.Stop(kPatienceNs));
    Tell(probes.results(), beside.results());
    return absl::OkStatus();
  }

 private:
  // Until another coordinator leads.
  StatusOr<uint64_t> NextEpoch(const std::string& old_leader) {
    uint64_t epoch = 0;
    RETURN_IF_ERROR(harness::PollUntil("another leader than " + old_leader, kPatienceNs, [&] {
      const auto status = cluster_->QueryStatus();
      if (!status.ok() || status->leader() == old_leader) return false;
      epoch = status->leader_epoch();
      return true;
    }));
    return epoch;
  }

  // Ends with the old leader's order, given before the fault, at its worker, which by then has
  // heard of the next leader.
  Status Strike(int number) {
    const bool freeze = number % 2 == 1;
    ASSIGN_OR_RETURN(const std::string leader, cluster_->Leader());
    const std::string address = cluster_->addresses(leader).grpc;
    Placement held_back(address, model_, absl::StrCat("held-back-", number));
    if (!held_back.Granted()) return absl::UnavailableError("the leader granted no placement");
    struck_.push_back(RealClock().NowNs());
    RETURN_IF_ERROR(freeze ? cluster_->Freeze(leader) : cluster_->Kill(leader));
    std::optional<Placement> asked;
    if (freeze) asked.emplace(address, model_, absl::StrCat("while-frozen-", number));
    ASSIGN_OR_RETURN(const uint64_t epoch, NextEpoch(leader));
    RETURN_IF_ERROR(WaitSeen(held_back.worker(), epoch));
    if (freeze) {
      StopSignal never;
      never.WaitFor(kFrozenMinNs);
      RETURN_IF_ERROR(cluster_->Thaw(leader));
      // What it finds when it thaws, and what it is asked then.
      Placement after(address, model_, absl::StrCat("thawed-", number));
      RETURN_IF_ERROR(BringStale(*asked, epoch));
      RETURN_IF_ERROR(BringStale(after, epoch));
    } else {
      RETURN_IF_ERROR(cluster_->Restart(leader));
    }
    return BringStale(held_back, epoch);
  }

  Status WaitSeen(const std::string& worker, uint64_t epoch) const {
    return harness::PollUntil(absl::StrCat("epoch ", epoch, " at ", worker), kPatienceNs, [&] {
      return cluster_->Metric(worker, "reprise_leader_epoch").value_or(0) >=
             static_cast<double>(epoch);
    });
  }

  // An order of an epoch below `current_epoch`, if it is one. A worker that cannot be asked is an
  // error, not a refusal.
  Status BringStale(Placement& placement, uint64_t current_epoch) {
    ++asked_;
    if (!placement.Granted() || placement.epoch() >= current_epoch) return absl::OkStatus();
    ++stale_;
    const double before = cluster_->Metric(placement.worker(), kRefused).value_or(0);
    const Status order = placement.BringToWorker();
    stale_accepted_ += order.ok();
    if (order.ok() || absl::IsAborted(order)) {
      stale_refused_ += cluster_->Metric(placement.worker(), kRefused).value_or(0) - before;
      return absl::OkStatus();
    }
    return order;
  }

  void Tell(const std::vector<harness::StreamResult>& probes,
            const std::vector<harness::StreamResult>& beside) {
    std::vector<double> outage_s(struck_.size(), 0);
    for (const harness::StreamResult& probe : probes) {
      const auto after = std::upper_bound(struck_.begin(), struck_.end(), probe.first_ns);
      if (after == struck_.begin()) continue;
      double& worst = outage_s[static_cast<size_t>(after - struck_.begin()) - 1];
      worst = std::max(worst, SecondsFromNs(probe.first_ns - probe.start_ns));
    }
    const harness::LoadTotals asked = harness::Sum(probes);
    const harness::LoadTotals running = harness::Sum(beside);
    if (!asked.first_error.ok()) report_.Note("first error: " + asked.first_error.ToString());
    report_.Figure("new_requests", static_cast<double>(asked.streams), "");
    report_.Figure("outage_p50", Percentile(outage_s, 50), "s");
    report_.Figure("orders_of_old_leaders_asked_or_held_back", asked_, "");
    report_.Figure("orders_granted_in_an_old_epoch", stale_, "");
    report_.Bar("faults", static_cast<double>(struck_.size()), "==", kFaults,
                static_cast<int64_t>(struck_.size()));
    report_.Bar("outage_p99_s", Percentile(outage_s, 99), "<=", 2, kFaults);
    report_.Bar("new_requests_failed", static_cast<double>(asked.errors), "==", 0, asked.streams);
    report_.Bar("stale_orders_accepted", stale_accepted_, "==", 0, stale_);
    report_.Bar("stale_orders_refused", stale_refused_, ">=", kFaults, stale_);
    report_.Bar("streams_disturbed",
                static_cast<double>(running.hit + running.errors + running.lost +
                                    running.duplicated + running.different),
                "==", 0, running.streams);
  }

  const BenchFlags& flags_;
  Report& report_;
  harness::Setting setting_;
  std::unique_ptr<harness::Cluster> cluster_;
  v1::ModelInfo model_;
  std::vector<TimeNs> struck_;
  int asked_ = 0;
  int stale_ = 0;
  int stale_accepted_ = 0;
  double stale_refused_ = 0;  // by the workers' own count
};

Status Run(const BenchFlags& flags, Report& report) { return LeaderBench(flags, report).Run(); }

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("leader", argc, argv, reprise::bench::Run);
}
