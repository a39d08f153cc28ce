#include "coordinator/server/coordinator_service.h"

#include <utility>
#include <vector>

#include "common/grpc_status.h"
#include "common/log.h"
#include "coordinator/server/convert.h"

namespace reprise::coordinator {
namespace {

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

const char* EventName(MembershipChange::Kind kind) {
  switch (kind) {
    case MembershipChange::Kind::kJoined:
      return "node_joined";
    case MembershipChange::Kind::kState:
      return "node_state";
    case MembershipChange::Kind::kReplaced:
      return "node_replaced";
    case MembershipChange::Kind::kForgotten:
      return "node_forgotten";
  }
  return "node_changed";
}

void LogChanges(const std::vector<MembershipChange>& changes) {
  for (const MembershipChange& change : changes) {
    LogInfo(EventName(change.kind), {{"name", change.key.name},
                                     {"incarnation", change.key.incarnation},
                                     {"node_role", RoleName(change.role)},
                                     {"from", StateName(change.from)},
                                     {"to", StateName(change.to)},
                                     {"reason", change.reason}});
  }
}

}  // namespace

CoordinatorService::CoordinatorService(const CoreOptions& options, const Clock& clock,
                                       MetricsRegistry* metrics)
    : clock_(clock),
      incarnation_(options.incarnation),
      decision_seconds_(metrics->AddHistogram("reprise_coordinator_decision_seconds",
                                              "Time of one placement decision, lock included", {},
                                              ExponentialBuckets(1e-6, 2, 20))),
      malformed_total_(metrics->AddCounter("reprise_coordinator_malformed_total",
                                           "Messages refused before they reached the core")),
      core_(options, clock.NowNs()) {
  RegisterMetrics(metrics);
}

CoordinatorCore::Stats CoordinatorService::CoreStats() {
  MutexLock lock(mu_);
  return core_.stats();
}

void CoordinatorService::RegisterMetrics(MetricsRegistry* metrics) {
  for (const Role role : {Role::kGateway, Role::kWorker, Role::kStore}) {
    for (const NodeState state :
         {NodeState::kLive, NodeState::kSuspect, NodeState::kLeaving, NodeState::kDead}) {
      metrics->RegisterCallbackGauge("reprise_coordinator_nodes", "Nodes by role and state",
                                     [this, role, state] {
                                       MutexLock lock(mu_);
                                       return static_cast<double>(core_.CountNodes(role, state));
                                     },
                                     {{"role", RoleName(role)}, {"state", StateName(state)}});
    }
  }
  for (const RefusalCode code : kRefusalCodes) {
    metrics->RegisterCallbackCounter(
        "reprise_coordinator_refusals_total", "Placements refused, by name",
        [this, code] {
          return static_cast<double>(CoreStats().refusals[static_cast<size_t>(code)]);
        },
        {{"name", RefusalName(code)}});
  }
  using Read = double (*)(const CoordinatorCore::Stats&);
  const auto counter = [&](const char* name, const char* help, Read read) {
    metrics->RegisterCallbackCounter(name, help, [this, read] { return read(CoreStats()); });
  };
  const auto gauge = [&](const char* name, const char* help, Read read) {
    metrics->RegisterCallbackGauge(name, help, [this, read] { return read(CoreStats()); });
  };
  counter("reprise_coordinator_placements_total", "Placements granted",
          [](const auto& s) { return static_cast<double>(s.placements); });
  counter("reprise_coordinator_prefill_legs_total", "Placements with a prefill worker of its own",
          [](const auto& s) { return static_cast<double>(s.prefill_legs); });
  counter("reprise_coordinator_stale_refused_total", "Reports of replaced incarnations refused",
          [](const auto& s) { return static_cast<double>(s.stale_refused); });
  counter("reprise_coordinator_late_seconds_total", "Time deadlines moved by for late ticks",
          [](const auto& s) { return SecondsFromNs(s.compensated_ns); });
  counter("reprise_coordinator_index_gaps_total", "Reports that began beyond the next event",
          [](const auto& s) { return static_cast<double>(s.index.gaps); });
  counter("reprise_coordinator_index_snapshots_total", "Snapshots taken in whole",
          [](const auto& s) { return static_cast<double>(s.index.snapshots); });
  counter("reprise_coordinator_index_dropped_total", "Entries dropped with their node",
          [](const auto& s) { return static_cast<double>(s.index.dropped_entries); });
  counter("reprise_coordinator_index_over_limit_total", "Blocks not indexed for want of room",
          [](const auto& s) { return static_cast<double>(s.index.over_limit); });
  gauge("reprise_coordinator_index_blocks", "Distinct blocks in the prefix index",
        [](const auto& s) { return static_cast<double>(s.index.blocks); });
  gauge("reprise_coordinator_index_entries", "(Block, node) pairs in the prefix index",
        [](const auto& s) { return static_cast<double>(s.index.entries); });
  gauge("reprise_coordinator_requests", "Requests whose attempts are remembered",
        [](const auto& s) { return static_cast<double>(s.requests); });
}

void CoordinatorService::Tick() {
  std::vector<MembershipChange> changes;
  {
    MutexLock lock(mu_);
    core_.OnTick(clock_.NowNs());
    changes = core_.TakeChanges();
  }
  LogChanges(changes);
}

Status CoordinatorService::DoReport(const v1::ReportRequest& request,
                                    v1::ReportResponse* response) {
  auto report = ParseReport(request);
  if (!report.ok()) {
    malformed_total_.Increment();
    return report.status();
  }
  std::vector<MembershipChange> changes;
  StatusOr<ReportAnswer> answer = ReportAnswer{};
  {
    MutexLock lock(mu_);
    answer = core_.OnReport(*report, clock_.NowNs());
    changes = core_.TakeChanges();
  }
  LogChanges(changes);
  if (!answer.ok()) {
    static LogEvery every(kSecond);
    if (every.Allow()) {
      LogWarning("report_refused",
                 {{"name", report->node.ref.key.name}, {"status", answer.status()}});
    }
    return answer.status();
  }
  Fill(*answer, response);
  return absl::OkStatus();
}

Status CoordinatorService::DoPlace(const v1::PlaceRequest& request, v1::PlaceResponse* response) {
  auto query = ParsePlaceQuery(request);
  if (!query.ok()) {
    malformed_total_.Increment();
    return query.status();
  }
  std::variant<Placement, Refusal> result;
  const TimeNs start = clock_.NowNs();
  {
    MutexLock lock(mu_);
    result = core_.OnPlace(*query, start);
  }
  decision_seconds_.Observe(SecondsFromNs(clock_.NowNs() - start));
  if (const Refusal* refusal = std::get_if<Refusal>(&result)) {
    const Status status = ToStatus(*refusal);
    LogDebug("placement_refused", {{"request", query->request_id}, {"status", status}});
    return refusal->retry_after_ms > 0 ? WithRetryAfter(status, refusal->retry_after_ms) : status;
  }
  Fill(std::get<Placement>(result), response);
  return absl::OkStatus();
}

Status CoordinatorService::DoGetModel(const v1::GetModelRequest& request, v1::ModelInfo* response) {
  StatusOr<ModelInfo> model = ModelInfo{};
  {
    MutexLock lock(mu_);
    model = core_.Model(request.name());
  }
  if (!model.ok()) return model.status();
  Fill(*model, response);
  return absl::OkStatus();
}

void CoordinatorService::DoGetStatus(v1::ClusterStatus* response) {
  std::vector<NodeSummary> nodes;
  CoordinatorCore::Stats stats;
  {
    MutexLock lock(mu_);
    nodes = core_.Nodes(clock_.NowNs());
    stats = core_.stats();
  }
  response->set_coordinator_incarnation(incarnation_);
  response->set_indexed_blocks(static_cast<int64_t>(stats.index.blocks));
  response->set_placements(static_cast<int64_t>(stats.placements));
  response->set_refusals(static_cast<int64_t>(stats.refused()));
  for (const NodeSummary& node : nodes) Fill(node, response->add_nodes());
}

grpc::ServerUnaryReactor* CoordinatorService::Report(grpc::CallbackServerContext* context,
                                                     const v1::ReportRequest* request,
                                                     v1::ReportResponse* response) {
  return Finish(context, DoReport(*request, response));
}

grpc::ServerUnaryReactor* CoordinatorService::Place(grpc::CallbackServerContext* context,
                                                    const v1::PlaceRequest* request,
                                                    v1::PlaceResponse* response) {
  if (context->IsCancelled()) return Finish(context, absl::CancelledError("the caller has gone"));
  return Finish(context, DoPlace(*request, response));
}

grpc::ServerUnaryReactor* CoordinatorService::GetModel(grpc::CallbackServerContext* context,
                                                       const v1::GetModelRequest* request,
                                                       v1::ModelInfo* response) {
  return Finish(context, DoGetModel(*request, response));
}

grpc::ServerUnaryReactor* CoordinatorService::GetStatus(grpc::CallbackServerContext* context,
                                                        const v1::GetStatusRequest*,
                                                        v1::ClusterStatus* response) {
  DoGetStatus(response);
  return Finish(context, absl::OkStatus());
}

}  // namespace reprise::coordinator
