// The leading coordinator of a group is killed or frozen twenty times. New requests are offered all
// the time: their outage is what the unluckiest of them waited for its first token. Each thawed
// leader finds a placement asked of it while it was frozen; if it grants one in its old epoch, that
// order is brought to a worker, which must refuse it. Long streams run beside and must not notice.
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
#include "tests/cluster/setting.h"
#include "tests/cluster/worker_client.h"

namespace reprise::bench {
namespace {

constexpr int kFaults = 20;
constexpr int kBeside = 32;  // long streams
constexpr TimeNs kSettleNs = 2 * kSecond;
constexpr TimeNs kFrozenMinNs = 2 * kSecond;
constexpr TimeNs kPatienceNs = 120 * kSecond;
constexpr int64_t kProbesFrom = int64_t{1} << 40;  // request numbers

// A placement asked of one coordinator; waits for the answer on a thread of its own.
class StalePlacement {
 public:
  StalePlacement(const std::string& coordinator, const v1::ModelInfo& model, int number)
      : stub_(v1::Coordinator::NewStub(ClusterChannel(coordinator))) {
    request_.set_request_id(absl::StrCat("stale-", number));
    request_.set_format_digest(model.format_digest());
    request_.set_prompt_tokens(4);
    request_.set_max_tokens(4);
    request_.set_branches(1);
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    thread_ = Thread("stale_place",
                     [this] { status_ = FromGrpc(stub_->Place(&context_, request_, &answer_)); });
  }
  // Granted: the worker's answer to the order, OK when it took it. Not granted: nothing.
  std::optional<Status> BringToWorker(uint64_t current_epoch) {
    thread_.Join();
    if (!status_.ok() || answer_.leader_epoch() >= current_epoch) return std::nullopt;
    auto client = harness::WorkerClient::Connect(answer_.decode());
    if (!client.ok()) return client.status();
    v1::Submit submit;
    submit.set_request_id(request_.request_id());
    *submit.mutable_attempt() = answer_.attempt();
    submit.mutable_prompt()->Add(7);
    submit.mutable_sampling()->set_n(1);
    submit.mutable_sampling()->set_max_tokens(4);
    submit.mutable_sampling()->set_top_p(1);
    submit.mutable_sampling()->set_repetition_penalty(1);
    submit.set_leader_epoch(answer_.leader_epoch());
    const auto result = (*client)->Run(submit, kPatienceNs);
    return result.ok() ? result->status : result.status();
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
    ASSIGN_OR_RETURN(model_, AskModel());
    harness::CheckedLoad beside(
        harness::TimedLoad(setting_, *cluster_, kBeside, 32, flags_.long_run ? 2000 : 400));
    harness::CheckedLoad probes(harness::TimedLoad(setting_, *cluster_, 4, 8, 1, kProbesFrom));
    RETURN_IF_ERROR(beside.WaitForTokens(kBeside * 5, kPatienceNs));
    StopSignal never;
    std::vector<TimeNs> struck;
    for (int fault = 0; fault < kFaults; ++fault) {
      struck.push_back(RealClock().NowNs());
      RETURN_IF_ERROR(fault % 2 == 0 ? KillOne() : FreezeOne(fault));
      never.WaitFor(kSettleNs);
    }
    RETURN_IF_ERROR(probes.Stop(kPatienceNs));
    RETURN_IF_ERROR(beside.Stop(kPatienceNs));
    Tell(struck, probes.results(), beside.results());
    return absl::OkStatus();
  }

 private:
  StatusOr<v1::ModelInfo> AskModel() {
    ASSIGN_OR_RETURN(const std::string leader, cluster_->Leader());
    const auto stub = v1::Coordinator::NewStub(ClusterChannel(cluster_->addresses(leader).grpc));
    grpc::ClientContext context;
    v1::ModelInfo model;
    RETURN_IF_ERROR(FromGrpc(stub->GetModel(&context, v1::GetModelRequest(), &model)));
    return model;
  }

  // Until another coordinator leads.
  StatusOr<uint64_t> NextEpoch(const std::string& old_leader) {
    StopSignal never;
    const TimeNs until = RealClock().NowNs() + kPatienceNs;
    while (RealClock().NowNs() < until) {
      const auto status = cluster_->QueryStatus();
      if (status.ok() && status->leader() != old_leader) return status->leader_epoch();
      never.WaitFor(10 * kMillisecond);
    }
    return absl::DeadlineExceededError(absl::StrCat("nobody took over from ", old_leader));
  }

  Status KillOne() {
    ASSIGN_OR_RETURN(const std::string leader, cluster_->Leader());
    RETURN_IF_ERROR(cluster_->Kill(leader));
    RETURN_IF_ERROR(NextEpoch(leader).status());
    return cluster_->Restart(leader);
  }

  Status FreezeOne(int number) {
    ASSIGN_OR_RETURN(const std::string leader, cluster_->Leader());
    RETURN_IF_ERROR(cluster_->Freeze(leader));
    StalePlacement stale(cluster_->addresses(leader).grpc, model_, number);
    ASSIGN_OR_RETURN(const uint64_t epoch, NextEpoch(leader));
    StopSignal never;
    never.WaitFor(kFrozenMinNs);
    RETURN_IF_ERROR(cluster_->Thaw(leader));
    const std::optional<Status> order = stale.BringToWorker(epoch);
    ++asked_of_thawed_;
    if (!order.has_value()) return absl::OkStatus();
    ++stale_granted_;
    stale_accepted_ += order->ok();
    return absl::OkStatus();
  }

  void Tell(const std::vector<TimeNs>& struck, const std::vector<harness::StreamResult>& probes,
            const std::vector<harness::StreamResult>& beside) {
    std::vector<double> outage_s(struck.size(), 0);
    for (const harness::StreamResult& probe : probes) {
      const auto after = std::upper_bound(struck.begin(), struck.end(), probe.first_ns);
      if (after == struck.begin()) continue;
      double& worst = outage_s[static_cast<size_t>(after - struck.begin()) - 1];
      worst = std::max(worst, SecondsFromNs(probe.first_ns - probe.start_ns));
    }
    const harness::LoadTotals asked = harness::Sum(probes);
    const harness::LoadTotals running = harness::Sum(beside);
    if (!asked.first_error.ok()) report_.Note("first error: " + asked.first_error.ToString());
    report_.Figure("new_requests", static_cast<double>(asked.streams), "");
    report_.Figure("outage_p50", Percentile(outage_s, 50), "s");
    report_.Figure("orders_asked_of_thawed_leaders", asked_of_thawed_, "");
    report_.Figure("orders_granted_in_an_old_epoch", stale_granted_, "");
    report_.Figure("stale_leader_refused",
                   cluster_->MetricOverAll("reprise_stale_leader_refused_total"), "");
    report_.Bar("faults", static_cast<double>(struck.size()), "==", kFaults,
                static_cast<int64_t>(struck.size()));
    report_.Bar("outage_p99_s", Percentile(outage_s, 99), "<=", 2, kFaults);
    report_.Bar("new_requests_failed", static_cast<double>(asked.errors), "==", 0, asked.streams);
    report_.Bar("stale_orders_accepted", stale_accepted_, "==", 0, asked_of_thawed_);
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
  int asked_of_thawed_ = 0;
  int stale_granted_ = 0;
  int stale_accepted_ = 0;
};

Status Run(const BenchFlags& flags, Report& report) { return LeaderBench(flags, report).Run(); }

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("leader", argc, argv, reprise::bench::Run);
}
