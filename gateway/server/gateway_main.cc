#include "gateway/server/gateway_main.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/log.h"
#include "common/metrics.h"
#include "common/random.h"
#include "common/rpc_server.h"
#include "coordinator/client/reporter_group.h"
#include "gateway/server/generation_service.h"
#include "gateway/server/placement_client.h"
#include "gateway/text/tokenizer.h"
#include "worker/model/model_config.h"

namespace reprise::gateway {
namespace {

// What the model folder gives; all empty without one.
struct Folder {
  std::unique_ptr<Tokenizer> tokenizer;
  worker::GenerationDefaults defaults;
  int32_t vocab = 0;
};

StatusOr<Folder> LoadFolder(const std::string& dir) {
  Folder folder;
  if (dir.empty()) return folder;
  ASSIGN_OR_RETURN(const worker::ModelConfig config, worker::LoadModelConfig(dir));
  ASSIGN_OR_RETURN(folder.defaults, worker::LoadGenerationDefaults(dir, config));
  ASSIGN_OR_RETURN(folder.tokenizer, Tokenizer::Load(dir));
  folder.vocab = static_cast<int32_t>(config.vocab);
  return folder;
}

v1::NodeInfo DescribeNode(const GatewayOptions& options, const NodeKey& self,
                          const RoleAddresses& addresses) {
  v1::NodeInfo node;
  node.mutable_ref()->set_name(self.name);
  node.mutable_ref()->set_incarnation(self.incarnation);
  node.mutable_ref()->set_grpc_address(addresses.grpc);
  node.set_role(v1::ROLE_GATEWAY);
  node.set_metrics_address(addresses.metrics);
  node.set_failure_domain(options.failure_domain);
  return node;
}

// False when told to stop first.
bool WaitForModel(const CoordinatorLink& coordinator, StopSignal* stop) {
  static LogEvery every(10 * kSecond);
  while (true) {
    const auto model = coordinator.model();
    if (model.ok()) return true;
    if (every.Allow()) LogInfo("waiting_for_model", {{"status", model.status()}});
    if (stop->WaitFor(20 * kMillisecond)) return false;
  }
}

}  // namespace

Status RunGateway(const GatewayOptions& options, const RoleControl& control) {
  SetLogRole("gateway", options.name);
  const NodeKey self{options.name, RandomU64() | 1};
  ASSIGN_OR_RETURN(const std::vector<std::string> coordinators,
                   ParseCoordinators(options.coordinator));
  ASSIGN_OR_RETURN(const Folder folder, LoadFolder(options.model_dir));
  MetricsRegistry metrics_registry("gateway");
  GatewayMetrics metrics(metrics_registry);
  LeaderEpoch leader_epoch;
  AddLeaderEpochMetrics(&leader_epoch, &metrics_registry);
  std::unique_ptr<MetricsServer> metrics_door;
  if (!options.metrics_listen.empty()) {
    ASSIGN_OR_RETURN(metrics_door, ServeMetrics(metrics_registry, options.metrics_listen));
  }

  // In order of use: each may call those before it, and they end in reverse.
  StreamSlots slots(options.streams_max);
  TimerQueue timers;
  SessionRegistry registry;
  WorkerLinks links(self, registry, timers, metrics);
  PlacementClient placements({.coordinators = coordinators, .timeout_ms = options.place_timeout_ms},
                             timers, leader_epoch);
  CoordinatorLink coordinator({.coordinators = coordinators,
                               .model = options.model,
                               .defaults = folder.defaults,
                               .folder_vocab = folder.vocab},
                              registry, links, leader_epoch);
  GenerationService service(SessionContext{
      .registry = registry,
      .timers = timers,
      .links = links,
      .coordinator = coordinator,
      .placements = placements,
      .metrics = metrics,
      .tokenizer = folder.tokenizer.get(),
      .slots = slots,
      .stream_buffer_bytes_max = static_cast<size_t>(options.stream_buffer_bytes_max),
      .slow_reader_grace_ns = NsFromMs(options.slow_reader_grace_ms),
      .attempts_max = options.attempts_max});
  ASSIGN_OR_RETURN(const auto door, RpcServer::Start(options.listen, {&service}));
  const RoleAddresses addresses{
      .grpc = door->address(),
      .kv = "",
      .metrics = metrics_door == nullptr ? std::string() : metrics_door->address()};
  coordinator.Start(DescribeNode(options, self, addresses));
  if (WaitForModel(coordinator, control.stop)) {
    door->SetServing(true);
    LogInfo("gateway_ready", {{"grpc", addresses.grpc},
                              {"metrics", addresses.metrics},
                              {"incarnation", self.incarnation},
                              {"tokenizer", folder.tokenizer != nullptr}});
    if (control.ready) control.ready(addresses);
    control.stop->Wait();
  }

  LogInfo("gateway_stopping", {{"streams", slots.open()}});
  door->SetServing(false);
  slots.Close(0);
  registry.ForEach([](const std::string&, RequestSink& sink) {
    sink.Abort(absl::UnavailableError("the gateway is stopping"));
  });
  slots.Close(NsFromMs(options.stop_grace_ms));
  // What is left is cut off. Idle clients may never answer a goodbye, so there is nothing to wait
  // for.
  door->Shutdown(0);
  // Every Generate call is done; answers under way find ended requests.
  placements.Stop();
  coordinator.Stop();
  links.Shutdown();
  return absl::OkStatus();
}

}  // namespace reprise::gateway
