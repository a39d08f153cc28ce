#include "bench/placed_cluster.h"

#include "common/clock.h"
#include "common/role.h"

namespace reprise::bench {

StatusOr<std::unique_ptr<PlacedCluster>> PlacedCluster::Start(const PlacedOptions& options) {
  std::unique_ptr<PlacedCluster> placed(new PlacedCluster());
  ASSIGN_OR_RETURN(placed->cluster_, harness::Cluster::Create(options.reprise));
  harness::Cluster& cluster = *placed->cluster_;
  RETURN_IF_ERROR(cluster.AddCoordinator());
  for (const auto& [name, flags] : options.workers) {
    RETURN_IF_ERROR(cluster.AddWorker(name, flags));
  }
  for (const auto& [name, flags] : options.stores) RETURN_IF_ERROR(cluster.AddStore(name, flags));
  RETURN_IF_ERROR(cluster.WaitLive());
  for (const auto& nodes : {&options.workers, &options.stores}) {
    for (const auto& [name, flags] : *nodes) {
      ASSIGN_OR_RETURN(placed->refs_[name], cluster.Ref(name));
    }
  }
  for (const auto& [name, flags] : options.workers) {
    ASSIGN_OR_RETURN(placed->clients_[name],
                     harness::WorkerClient::Connect(placed->refs_.at(name)));
  }
  return placed;
}

double PlacedCluster::Metric(const std::string& name, absl::string_view family) const {
  return cluster_->Metric(name, family).value_or(0);
}

Status PlacedCluster::FillStore(const std::vector<v1::Submit>& submits, int concurrency,
                                int64_t segments, TimeNs timeout_ns) {
  const auto received = [this] { return Metric("store", "reprise_kv_segments_received_total"); };
  const double full = received() + static_cast<double>(segments);
  RETURN_IF_ERROR(worker("prefill").RunAll(submits, concurrency, timeout_ns).status());
  StopSignal never;
  const TimeNs until = RealClock().NowNs() + timeout_ns;
  while (received() < full) {
    if (RealClock().NowNs() > until) return absl::DeadlineExceededError("the store is not full");
    never.WaitFor(kMillisecond);
  }
  return absl::OkStatus();
}

v1::Submit GreedySubmit(const std::string& request_id, const std::vector<int32_t>& prompt,
                        int32_t max_tokens) {
  v1::Submit submit;
  submit.set_request_id(request_id);
  submit.mutable_prompt()->Add(prompt.begin(), prompt.end());
  v1::ResolvedSampling& sampling = *submit.mutable_sampling();
  sampling.set_temperature(0);
  sampling.set_top_p(1);
  sampling.set_repetition_penalty(1);
  sampling.set_max_tokens(max_tokens);
  sampling.set_n(1);
  return submit;
}

}  // namespace reprise::bench
