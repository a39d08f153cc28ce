#include "kvstore/node/store_main.h"

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/grpc_status.h"
#include "common/log.h"
#include "common/random.h"
#include "common/rpc_server.h"
#include "coordinator/client/reporter_group.h"

namespace reprise::kv {
namespace {

constexpr TimeNs kModelRetryNs = 200 * kMillisecond;

// The first worker that reports brings the model; a store has nothing to do before.
StatusOr<v1::ModelInfo> WaitForModel(const StoreOptions& options, StopSignal* stop) {
  ASSIGN_OR_RETURN(const std::vector<std::string> coordinators,
                   ParseCoordinators(options.coordinator));
  std::vector<std::unique_ptr<v1::Coordinator::Stub>> stubs;
  for (const std::string& address : coordinators) {
    stubs.push_back(v1::Coordinator::NewStub(ClusterChannel(address)));
  }
  static LogEvery every(10 * kSecond);
  size_t turn = 0;
  do {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
    v1::GetModelRequest request;
    request.set_name(options.model);
    v1::ModelInfo model;
    const grpc::Status status = stubs[turn++ % stubs.size()]->GetModel(&context, request, &model);
    if (status.ok()) return model;
    if (every.Allow()) LogInfo("waiting_for_model", {{"status", FromGrpc(status)}});
  } while (!stop->WaitFor(kModelRetryNs));
  return absl::CancelledError("stopped before the cluster had a model");
}

v1::NodeInfo DescribeNode(const StoreOptions& options, const NodeKey& self,
                          const v1::ModelInfo& model, const RoleAddresses& addresses) {
  v1::NodeInfo node;
  node.mutable_ref()->set_name(self.name);
  node.mutable_ref()->set_incarnation(self.incarnation);
  node.mutable_ref()->set_grpc_address(addresses.grpc);
  node.mutable_ref()->set_kv_address(addresses.kv);
  node.set_role(v1::ROLE_STORE);
  node.set_metrics_address(addresses.metrics);
  node.set_failure_domain(options.failure_domain);
  *node.mutable_model() = model;
  return node;
}

}  // namespace

Status RunStore(const StoreOptions& options, const RoleControl& control) {
  SetLogRole("kvstore", options.name);
  const NodeKey self{options.name, RandomU64() | 1};
  MetricsRegistry metrics("kvstore");
  LeaderEpoch leader_epoch;
  AddLeaderEpochMetrics(&leader_epoch, &metrics);
  ASSIGN_OR_RETURN(const auto door, RpcServer::Start(options.listen, {}));
  ASSIGN_OR_RETURN(const auto metrics_door, ServeMetrics(metrics, options.metrics_listen));
  ASSIGN_OR_RETURN(const v1::ModelInfo model, WaitForModel(options, control.stop));
  ASSIGN_OR_RETURN(const auto server, StoreServer::Start(options, self, model, &metrics));
  const PeerAddress kv = server->kv_address();
  const RoleAddresses addresses{.grpc = door->address(),
                                .kv = absl::StrCat(kv.host, ":", kv.port),
                                .metrics = metrics_door->address()};
  ReporterGroupOptions reports;
  ASSIGN_OR_RETURN(reports.coordinators, ParseCoordinators(options.coordinator));
  reports.node = DescribeNode(options, self, model, addresses);
  ReporterGroupHandlers handlers;
  handlers.fill = [&](size_t index, v1::ReportRequest* request) {
    server->FillReport(request, index);
  };
  handlers.answered = [&](size_t index, const v1::ReportResponse& answer) {
    return server->OnReportAnswer(answer, index);
  };
  ReporterGroup reporter(std::move(reports), std::move(handlers), leader_epoch);
  door->SetServing(true);
  LogInfo("store_ready",
          {{"grpc", addresses.grpc}, {"kv", addresses.kv}, {"incarnation", self.incarnation}});
  if (control.ready) control.ready(addresses);
  control.stop->Wait();
  LogInfo("store_stopping");
  door->SetServing(false);
  reporter.Stop();
  return absl::OkStatus();
}

}  // namespace reprise::kv
