#include "coordinator/server/coordinator_service.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/failpoint.h"
#include "common/grpc_status.h"
#include "common/log.h"
#include "common/rpc_server.h"
#include "coordinator/server/convert.h"

namespace reprise::coordinator {
namespace {

// A caller with several coordinators asks the next one at once; one that asks again waits so long.
constexpr int64_t kRetryElsewhereMs = 100;

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
                                       MetricsRegistry* metrics, std::string name)
    : clock_(clock),
      name_(std::move(name)),
      grouped_(options.standby),
      incarnation_(options.incarnation),
      decision_seconds_(metrics->AddHistogram("reprise_coordinator_decision_seconds",
                                              "Time of one placement decision, lock included", {},
                                              ExponentialBuckets(1e-6, 2, 20))),
      malformed_total_(metrics->AddCounter("reprise_coordinator_malformed_total",
                                           "Messages refused before they reached the core")),
      core_(options, clock.NowNs()) {
  RegisterMetrics(metrics);
  RegisterLeaderMetrics(metrics);
}

CoordinatorService::~CoordinatorService() { StopLeading(); }

void CoordinatorService::Join(LeadershipOptions options) {
  owned_leadership_ = std::make_unique<Leadership>(
      std::move(options), clock_, [this](const Leadership::View& view) { OnLeadership(view); });
  leadership_.store(owned_leadership_.get(), std::memory_order_release);
  owned_leadership_->Start();
}

void CoordinatorService::StopLeading() {
  if (owned_leadership_ != nullptr) owned_leadership_->Stop();
}

void CoordinatorService::OnLeadership(const Leadership::View& view) {
  MutexLock lock(mu_);
  if (view.leads) {
    core_.Lead(view.epoch, clock_.NowNs());
  } else {
    core_.Follow(view.epoch);
  }
}

Leadership::View CoordinatorService::LeaderView() const {
  if (!grouped_) return {.leads = true, .leader = LeaderRecord{.epoch = 0, .name = name_}};
  const Leadership* leadership = leadership_.load(std::memory_order_acquire);
  return leadership == nullptr ? Leadership::View{} : leadership->view();
}

Status CoordinatorService::CheckOrders() const {
  if (!grouped_) return absl::OkStatus();
  const Leadership* leadership = leadership_.load(std::memory_order_acquire);
  if (leadership != nullptr) return leadership->CheckOrders();
  return absl::UnavailableError(
      absl::StrCat("not the leader: ", name_, " has not joined its group yet"));
}

void CoordinatorService::RegisterLeaderMetrics(MetricsRegistry* metrics) {
  using Read = double (*)(const Leadership::View&);
  const auto gauge = [&](const char* name, const char* help, Read read) {
    metrics->RegisterCallbackGauge(name, help, [this, read] { return read(LeaderView()); });
  };
  const auto counter = [&](const char* name, const char* help, Read read) {
    metrics->RegisterCallbackCounter(name, help, [this, read] { return read(LeaderView()); });
  };
  gauge("reprise_coordinator_leader", "1 while this coordinator leads",
        [](const auto& view) { return view.leads ? 1.0 : 0.0; });
  gauge("reprise_leader_epoch", "Highest leader epoch known",
        [](const auto& view) { return static_cast<double>(view.epoch); });
  counter("reprise_coordinator_elections_total", "Elections won by this process",
          [](const auto& view) { return static_cast<double>(view.elections); });
  counter("reprise_coordinator_elections_failed_total", "Tries that etcd did not answer",
          [](const auto& view) { return static_cast<double>(view.failed); });
  counter("reprise_coordinator_steps_down_total", "Times it led and heard of a higher epoch",
          [](const auto& view) { return static_cast<double>(view.steps_down); });
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
  counter("reprise_coordinator_attaches_total", "Requests taken over where they run",
          [](const auto& s) { return static_cast<double>(s.attaches); });
  counter("reprise_coordinator_verdicts_total", "Incarnations given up",
          [](const auto& s) { return static_cast<double>(s.verdicts); });
  counter("reprise_coordinator_role_moves_total", "Workers moved between prefill and decode",
          [](const auto& s) { return static_cast<double>(s.role_moves); });
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
  Failpoint("coordinator.report");
  auto report = ParseReport(request);
  if (!report.ok()) {
    malformed_total_.Increment();
    return report.status();
  }
  if (Leadership* leadership = leadership_.load(std::memory_order_acquire)) {
    leadership->OnEpoch(report->leader_epoch);
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
  Failpoint("coordinator.place");
  if (const Status status = CheckOrders(); !status.ok()) {
    return WithRetryAfter(status, kRetryElsewhereMs);
  }
  auto query = ParsePlaceQuery(request);
  if (!query.ok()) {
    malformed_total_.Increment();
    return query.status();
  }
  std::variant<Placement, Refusal> result;
  const TimeNs start = clock_.NowNs();
  {
    MutexLock lock(mu_);
    if (core_.standby())
      return absl::UnavailableError("not the leader: it has just lost its epoch");
    result = core_.OnPlace(*query, start);
  }
  Failpoint("coordinator.grant");
  decision_seconds_.Observe(SecondsFromNs(clock_.NowNs() - start));
  if (const Refusal* refusal = std::get_if<Refusal>(&result)) {
    const Status status = ToStatus(*refusal);
    LogDebug("placement_refused", {{"request", query->request_id}, {"status", status}});
    return refusal->retry_after_ms > 0 ? WithRetryAfter(status, refusal->retry_after_ms) : status;
  }
  Fill(std::get<Placement>(result), response);
  return absl::OkStatus();
}

Status CoordinatorService::DoDrain(const v1::DrainRequest& request, v1::DrainResponse* response) {
  RETURN_IF_ERROR(CheckOrders());
  RETURN_IF_ERROR(CheckDrain(request));
  StatusOr<int32_t> requests = 0;
  std::vector<MembershipChange> changes;
  {
    MutexLock lock(mu_);
    requests = core_.OnDrain(request.name(), request.deadline_ms());
    changes = core_.TakeChanges();
  }
  LogChanges(changes);
  if (!requests.ok()) return requests.status();
  LogInfo(
      "drain_ordered",
      {{"name", request.name()}, {"requests", *requests}, {"deadline_ms", request.deadline_ms()}});
  response->set_requests(*requests);
  return absl::OkStatus();
}

Status CoordinatorService::DoLead(const v1::LeadRequest& request, v1::LeadResponse* response) {
  Leadership* leadership = leadership_.load(std::memory_order_acquire);
  if (leadership == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(name_, " is in no group"));
  }
  ASSIGN_OR_RETURN(LeaderRecord leader, ParseLead(request));
  response->set_epoch(leadership->OnBeat(leader));
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
  const Leadership::View view = LeaderView();
  response->set_leader_epoch(view.epoch);
  response->set_leads(view.leads);
  if (view.leader) response->set_leader(view.leader->name);
  for (const NodeSummary& node : nodes) Fill(node, response->add_nodes());
}

grpc::ServerUnaryReactor* CoordinatorService::Report(grpc::CallbackServerContext* context,
                                                     const v1::ReportRequest* request,
                                                     v1::ReportResponse* response) {
  return Answer(context, DoReport(*request, response));
}

grpc::ServerUnaryReactor* CoordinatorService::Place(grpc::CallbackServerContext* context,
                                                    const v1::PlaceRequest* request,
                                                    v1::PlaceResponse* response) {
  if (context->IsCancelled()) return Answer(context, absl::CancelledError("the caller has gone"));
  return Answer(context, DoPlace(*request, response));
}

grpc::ServerUnaryReactor* CoordinatorService::Drain(grpc::CallbackServerContext* context,
                                                    const v1::DrainRequest* request,
                                                    v1::DrainResponse* response) {
  return Answer(context, DoDrain(*request, response));
}

grpc::ServerUnaryReactor* CoordinatorService::Lead(grpc::CallbackServerContext* context,
                                                   const v1::LeadRequest* request,
                                                   v1::LeadResponse* response) {
  return Answer(context, DoLead(*request, response));
}

grpc::ServerUnaryReactor* CoordinatorService::GetModel(grpc::CallbackServerContext* context,
                                                       const v1::GetModelRequest* request,
                                                       v1::ModelInfo* response) {
  return Answer(context, DoGetModel(*request, response));
}

grpc::ServerUnaryReactor* CoordinatorService::GetStatus(grpc::CallbackServerContext* context,
                                                        const v1::GetStatusRequest*,
                                                        v1::ClusterStatus* response) {
  DoGetStatus(response);
  return Answer(context, absl::OkStatus());
}

}  // namespace reprise::coordinator
