#include "worker/server/worker_main.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_split.h"
#include "common/bind_address.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/random.h"
#include "common/rpc_server.h"
#include "coordinator/client/reporter_group.h"
#include "worker/device/device_executor.h"
#include "worker/engine/engine.h"
#include "worker/engine/timed_executor.h"
#include "worker/group/group_executor.h"
#include "worker/model/model_executor.h"
#include "worker/parallel/group_shape.h"
#include "worker/parallel/ucx_group.h"
#include "worker/server/convert.h"
#include "worker/server/worker_service.h"

namespace reprise::worker {
namespace {

// Requests a report names; the rest follow from what gateways report.
constexpr int kReportedRequestsMax = 4096;

Status CheckAtLeast(absl::string_view name, int64_t value, int64_t min) {
  if (value >= min) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, ", at least ", min, " is needed"));
}

ModelExecutorOptions ModelOptionsOf(const WorkerOptions& options) {
  ModelExecutorOptions model;
  model.model_dir = options.model;
  model.kv_dtype = options.kv_dtype;
  model.threads = options.threads;
  model.isa = options.isa;
  model.block_tokens = options.block_tokens;
  model.chunk_tokens = options.chunk_tokens;
  return model;
}

StatusOr<std::unique_ptr<Executor>> MakeGroup(const WorkerOptions& options,
                                              const kv::GroupSplit& split, MetricsRegistry* metrics,
                                              StopSignal* stop) {
  GroupOptions group;
  group.owner = options.name;
  group.split = split;
  group.ranks = absl::StrSplit(options.ranks, ',', absl::SkipEmpty());
  ASSIGN_OR_RETURN(
      group.transport,
      parallel::ParseUcxGroupOptions(options.group_listen, options.devices, options.shared_memory));
  group.model = ModelOptionsOf(options);
  group.on = {.device = options.device,
              .unproven_kernels = options.unproven_kernels,
              .pool_bytes = options.pool_bytes};
  group.stop = stop;
  ASSIGN_OR_RETURN(std::unique_ptr<Executor> executor, GroupExecutor::Create(group, metrics));
  return executor;
}

StatusOr<std::unique_ptr<Executor>> MakeOnDevice(const WorkerOptions& options) {
  DeviceOptions device;
  device.model_dir = options.model;
  device.kv_dtype = options.kv_dtype;
  device.block_tokens = options.block_tokens;
  device.chunk_tokens = options.chunk_tokens;
  device.pool_bytes = options.pool_bytes;
  device.emulated = options.device == "emulated";
  device.unproven_kernels = options.unproven_kernels;
  ASSIGN_OR_RETURN(std::unique_ptr<Executor> executor, DeviceExecutor::Create(device));
  return executor;
}

StatusOr<std::unique_ptr<Executor>> MakeExecutor(const WorkerOptions& options,
                                                 MetricsRegistry* metrics, StopSignal* stop) {
  ASSIGN_OR_RETURN(const kv::GroupSplit split, SplitOn({.device = options.device}, options.group));
  if (split.ranks() > 1) return MakeGroup(options, split, metrics, stop);
  if (options.device != "cpu") return MakeOnDevice(options);
  if (!options.timed) return MakeModelExecutor(ModelOptionsOf(options));
  TimedOptions timed;
  timed.model.key = static_cast<uint64_t>(options.timed_settings.key);
  timed.model.vocab_size = options.timed_settings.vocab_size;
  timed.model.context_tokens = options.timed_settings.context_tokens;
  timed.model.layers = static_cast<uint32_t>(options.timed_settings.layers);
  timed.model.two_forms = options.timed_settings.two_forms;
  timed.model.row_bytes = static_cast<uint32_t>(options.timed_settings.row_bytes);
  timed.model.block_tokens = static_cast<uint32_t>(options.block_tokens);
  timed.prefill_ms_per_token = options.timed_settings.prefill_ms_per_token;
  timed.step_ms = options.timed_settings.step_ms;
  timed.hidden_ms = options.timed_settings.hidden_ms;
  if (options.chunk_tokens > 0) timed.chunk_tokens_max = options.chunk_tokens;
  ASSIGN_OR_RETURN(std::unique_ptr<Executor> executor, TimedExecutor::Create(timed));
  return executor;
}

std::optional<Recovery> ForcedRecovery(const std::string& name) {
  if (name == "restore") return Recovery::kRestore;
  if (name == "recompute") return Recovery::kRecompute;
  if (name == "wait") return Recovery::kWait;
  return std::nullopt;
}

StatusOr<EngineOptions> MakeEngineOptions(const WorkerOptions& options, const NodeKey& self) {
  ASSIGN_OR_RETURN(const HostPort kv, ParseHostPort(options.kv_listen));
  size_t coordinators = 0;
  if (!options.coordinator.empty()) {
    ASSIGN_OR_RETURN(const auto named, ParseCoordinators(options.coordinator));
    coordinators = named.size();
  }
  RETURN_IF_ERROR(CheckLoopback(kv.host));
  EngineOptions engine;
  engine.stream.self = self;
  engine.stream.listen_host = kv.host;
  engine.stream.listen_port = kv.port;
  engine.stream.devices = options.devices;
  engine.stream.shared_memory = options.shared_memory;
  engine.stream.throttle_bytes_per_s = options.throttle_bytes_per_s;
  engine.coordinators = coordinators;
  engine.pool_bytes = options.pool_bytes;
  engine.publish_layers = options.publish_layers;
  engine.core.failure_domain = options.failure_domain;
  engine.core.chunk_tokens = options.chunk_tokens;
  engine.core.running_max = options.running_max;
  engine.core.waiting_max = options.waiting_max;
  engine.core.local_suffix_tokens = options.local_suffix_tokens;
  engine.core.can_prefill = options.prefill;
  engine.core.can_decode = options.decode;
  engine.swap.host_bytes = options.swap_host_bytes;
  engine.swap.disk_bytes = options.swap_disk_bytes;
  engine.swap.disk_dir = options.swap_dir;
  engine.swap.throttle_bytes_per_s = options.swap_bytes_per_s;
  engine.core.microbatches = options.microbatches;
  engine.core.recovery = ForcedRecovery(options.recovery);
  engine.core.fetch_timeout_ns = NsFromMs(options.fetch_timeout_ms);
  engine.core.leg_timeout_ns = NsFromMs(options.leg_timeout_ms);
  engine.core.leg_linger_ns = NsFromMs(options.leg_linger_ms);
  return engine;
}

void FillModel(const ExecutorInfo& info, v1::ModelInfo* model) {
  const auto bytes = [](const Digest256& digest) {
    return std::string(reinterpret_cast<const char*>(digest.data()), digest.size());
  };
  const kv::KvFormat& format = info.kv_format;
  model->set_name(info.model_name);
  model->set_fingerprint(bytes(format.model_fingerprint));
  model->set_numerics_class(bytes(format.numerics_class));
  model->set_format_digest(bytes(format.Digest()));
  model->set_format_text(format.CanonicalText());
  model->set_block_tokens(static_cast<int32_t>(format.block_tokens));
  model->set_vocab_size(info.vocab_size);
  model->set_context_tokens(info.context_tokens);
  model->set_block_bytes(static_cast<int64_t>(format.block_bytes()));
  model->set_two_forms(info.two_forms);
}

void FillGroup(const kv::GroupSplit& split, v1::NodeInfo* node) {
  if (split.ranks() == 1) return;
  node->mutable_group()->set_pipeline(split.pipeline);
  node->mutable_group()->set_context(split.context);
  node->mutable_group()->set_tensor(split.tensor);
  node->mutable_group()->set_stripe_leaves(split.stripe_leaves);
}

StatusOr<v1::NodeInfo> DescribeNode(const WorkerOptions& options, const NodeKey& self,
                                    const ExecutorInfo& info, const RoleAddresses& addresses) {
  ASSIGN_OR_RETURN(const kv::GroupSplit split, SplitOn({.device = options.device}, options.group));
  v1::NodeInfo node;
  node.mutable_ref()->set_name(self.name);
  node.mutable_ref()->set_incarnation(self.incarnation);
  node.mutable_ref()->set_grpc_address(options.advertise.empty() ? addresses.grpc
                                                                 : options.advertise);
  node.mutable_ref()->set_kv_address(addresses.kv);
  node.set_role(v1::ROLE_WORKER);
  node.set_metrics_address(addresses.metrics);
  node.set_failure_domain(options.failure_domain);
  node.set_can_prefill(options.prefill);
  node.set_can_decode(options.decode);
  FillModel(info, node.mutable_model());
  FillGroup(split, &node);
  return node;
}

void FillLoad(const Engine& engine, v1::Load* load) {
  const EngineStats stats = engine.stats();
  load->set_running(stats.running);
  load->set_waiting(stats.waiting);
  load->set_queued_prefill_tokens(stats.queued_prefill_tokens);
  load->set_blocks_total(stats.pages.total);
  load->set_blocks_free(stats.pages.free);
  load->set_blocks_cached(stats.pages.cached);
  load->set_blocks_quarantined(stats.pages.quarantined);
  load->set_progress(engine.progress());
  load->set_busy(engine.busy());
  load->set_step_ms(stats.step_ms);
  load->set_stranded_bytes(stats.stranded_bytes);
  load->set_probe_age_ms(engine.probe_age_ms());
  for (const std::string& peer : engine.unreachable()) load->add_unreachable(peer);
}

// What the leader says beside its acknowledgement.
void TakeOrders(const v1::ReportResponse& answer, int64_t drain_deadline_ms, Engine* engine,
                StopSignal* drained) {
  if (answer.stores_version() != 0) static_cast<void>(engine->Post(ParseStores(answer)));
  for (const v1::Verdict& verdict : answer.verdicts()) {
    const NodeKey node{verdict.node().name(), verdict.node().incarnation()};
    static_cast<void>(engine->Post(
        ReplicaLost{node, absl::UnavailableError(absl::StrCat("verdict: ", verdict.reason()))}));
  }
  const EngineStats stats = engine->stats();
  const bool prefill = answer.roles().prefill();
  const bool decode = answer.roles().decode();
  if (answer.has_roles() && (prefill != stats.can_prefill || decode != stats.can_decode)) {
    LogInfo("roles_changed", {{"prefill", prefill}, {"decode", decode}});
    static_cast<void>(engine->Post(SetRoles{prefill, decode}));
  }
  if (answer.drain() && !stats.draining) {
    const int64_t ms =
        answer.drain_deadline_ms() > 0 ? answer.drain_deadline_ms() : drain_deadline_ms;
    LogInfo("drain_ordered", {{"deadline_ms", ms}});
    static_cast<void>(engine->Post(Drain{RealClock().NowNs() + NsFromMs(ms)}));
  }
  if (stats.draining && stats.idle) drained->Stop();
}

// Reports until it goes; absent without a coordinator.
StatusOr<std::unique_ptr<ReporterGroup>> StartReports(const WorkerOptions& options,
                                                      v1::NodeInfo node, Engine* engine,
                                                      WorkerService* service,
                                                      LeaderEpoch* leader_epoch, StopSignal* stop) {
  if (options.coordinator.empty()) return nullptr;
  ReporterGroupOptions reports;
  ASSIGN_OR_RETURN(reports.coordinators, ParseCoordinators(options.coordinator));
  reports.node = std::move(node);
  reports.interval_ms = options.report_interval_ms;
  ReporterGroupHandlers handlers;
  handlers.fill = [engine, service](size_t index, v1::ReportRequest* request) {
    FillLoad(*engine, request->mutable_load());
    const EngineStats stats = engine->stats();
    request->mutable_node()->set_can_prefill(stats.can_prefill && !stats.draining);
    request->mutable_node()->set_can_decode(stats.can_decode && !stats.draining);
    FillKvPart(engine->PrepareEvents(index), request);
    service->FillRequests(request, kReportedRequestsMax);
  };
  handlers.answered = [engine](size_t index, const v1::ReportResponse& answer) {
    return engine->OnEventsAnswer(index, KvAnswer(answer));
  };
  handlers.ordered = [engine, stop, deadline_ms = options.drain_deadline_ms](
                         size_t, const v1::ReportResponse& answer) {
    TakeOrders(answer, deadline_ms, engine, stop);
  };
  // What a process says whose name another one has taken counts no more.
  handlers.fenced = [service, stop](const Status& why) {
    service->CloseStreams(why);
    stop->Stop();
  };
  return std::make_unique<ReporterGroup>(std::move(reports), std::move(handlers), *leader_epoch);
}

}  // namespace

Status ValidateOptions(const WorkerOptions& options) {
  if (!options.timed && options.model.empty()) {
    return absl::InvalidArgumentError("a worker needs a model folder or the timed engine");
  }
  if (!options.prefill && !options.decode) {
    return absl::InvalidArgumentError("a worker that neither prefills nor decodes does nothing");
  }
  RETURN_IF_ERROR(CheckAtLeast("block_tokens", options.block_tokens, 1));
  RETURN_IF_ERROR(CheckAtLeast("chunk_tokens", options.chunk_tokens, 0));
  RETURN_IF_ERROR(CheckAtLeast("running_max", options.running_max, 1));
  RETURN_IF_ERROR(CheckAtLeast("waiting_max", options.waiting_max, 1));
  RETURN_IF_ERROR(CheckAtLeast("microbatches", options.microbatches, 1));
  RETURN_IF_ERROR(CheckAtLeast("swap_host_bytes", options.swap_host_bytes, 0));
  RETURN_IF_ERROR(CheckAtLeast("swap_disk_bytes", options.swap_disk_bytes, 0));
  if (options.swap_disk_bytes > 0 && options.swap_dir.empty()) {
    return absl::InvalidArgumentError("swap_disk_bytes needs swap_dir, a folder for the file");
  }
  RETURN_IF_ERROR(CheckAtLeast("threads", options.threads, 1));
  RETURN_IF_ERROR(CheckAtLeast("fetch_timeout_ms", options.fetch_timeout_ms, 1));
  RETURN_IF_ERROR(CheckAtLeast("leg_timeout_ms", options.leg_timeout_ms, 1));
  RETURN_IF_ERROR(CheckAtLeast("leg_linger_ms", options.leg_linger_ms, 1));
  RETURN_IF_ERROR(CheckAtLeast("report_interval_ms", options.report_interval_ms, 1));
  RETURN_IF_ERROR(CheckAtLeast("drain_deadline_ms", options.drain_deadline_ms, 0));
  RETURN_IF_ERROR(CheckAtLeast("layers", options.timed_settings.layers, 1));
  RETURN_IF_ERROR(CheckAtLeast("row_bytes", options.timed_settings.row_bytes, 1));
  ASSIGN_OR_RETURN(const kv::GroupSplit split, parallel::ParseGroupShape(options.group));
  if (split.ranks() > 1 && options.timed) {
    return absl::InvalidArgumentError(
        absl::StrCat("the timed engine has no ranks, the group is ", options.group));
  }
  if (options.device != "cpu" && options.timed) {
    return absl::InvalidArgumentError(
        absl::StrCat("device is ", options.device, ", which does not compute the timed engine"));
  }
  if (options.unproven_kernels && options.device == "cpu") {
    return absl::InvalidArgumentError("unproven_kernels are a card's, the device is cpu");
  }
  if (split.ranks() == 1 && !options.ranks.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("ranks are named (", options.ranks, ") and no group that they form"));
  }
  return absl::OkStatus();
}

Status RunWorker(const WorkerOptions& options, const RoleControl& control) {
  RETURN_IF_ERROR(ValidateOptions(options));
  SetLogRole("worker", options.name);
  const NodeKey self{options.name, RandomU64() | 1};
  ASSIGN_OR_RETURN(EngineOptions engine_options, MakeEngineOptions(options, self));
  // Destroyed in the reverse order: the doors first, then the engine, then what it calls.
  MetricsRegistry metrics("worker");
  ASSIGN_OR_RETURN(std::unique_ptr<Executor> executor,
                   MakeExecutor(options, &metrics, control.stop));
  LeaderEpoch leader_epoch;
  AddLeaderEpochMetrics(&leader_epoch, &metrics);
  WorkerService service(self, leader_epoch);
  auto started = Engine::Start(std::move(engine_options), std::move(executor), &service, &metrics);
  if (!started.ok() && control.stop->stopped())
    return absl::CancelledError(started.status().message());
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, std::move(started));
  service.Attach(engine.get());
  ASSIGN_OR_RETURN(auto metrics_door, ServeMetrics(metrics, options.metrics_listen));
  ASSIGN_OR_RETURN(const auto door, RpcServer::Start(options.listen, {&service}));
  const kv::PeerAddress kv = engine->kv_address();
  const RoleAddresses addresses{.grpc = door->address(),
                                .kv = HostPort{kv.host, static_cast<uint16_t>(kv.port)}.ToString(),
                                .metrics = metrics_door->address()};
  ASSIGN_OR_RETURN(v1::NodeInfo node, DescribeNode(options, self, engine->info(), addresses));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<ReporterGroup> reporter,
      StartReports(options, std::move(node), engine.get(), &service, &leader_epoch, control.stop));
  door->SetServing(true);
  LogInfo("worker_ready", {{"grpc", addresses.grpc},
                           {"kv", addresses.kv},
                           {"model", engine->info().model_name},
                           {"pages", engine->stats().pages.total},
                           {"incarnation", self.incarnation}});
  if (control.ready) control.ready(addresses);
  // A stream may be stuck for good: a peer that is killed while it writes into this process's
  // shared memory leaves it so. A group's ranks may be lost. To others that is a crash.
  while (!control.stop->WaitFor(kSecond) && engine->health().ok()) {
  }
  Status health = engine->health();
  LogInfo("worker_stopping", {{"health", health}});
  door->SetServing(false);
  const TimeNs deadline = RealClock().NowNs() + NsFromMs(options.drain_deadline_ms);
  // The engine ends what is left at its deadline. Who is of no use can move nothing.
  constexpr TimeNs kLastWords = kSecond;
  if (health.ok()) {
    if (!engine->stats().draining) static_cast<void>(engine->Post(Drain{deadline}));
    if (reporter != nullptr) reporter->Wake();
    if (!engine->AwaitDrained(deadline + kLastWords)) LogWarning("drain_incomplete");
  }
  if (reporter != nullptr) reporter->Stop();
  service.CloseStreams(absl::UnavailableError("the worker stops"));
  door->Shutdown(static_cast<int>(options.stop_grace_ms));
  service.Detach();
  metrics_door = nullptr;  // it reads the engine and its stream
  engine->Stop();
  return health;
}

}  // namespace reprise::worker
