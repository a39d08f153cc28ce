#include "coordinator/server/coordinator_main.h"

#include <chrono>
#include <memory>

#include "common/limits.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/random.h"
#include "common/rpc_server.h"
#include "coordinator/server/coordinator_service.h"

namespace reprise::coordinator {
namespace {

constexpr int kShutdownGraceMs = 500;

Status CheckRange(const char* option, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(option, " is ", value, ", allowed are ", min, " to ", max));
}

uint64_t WallClockMicroseconds() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count());
}

CoreOptions MakeCoreOptions(const CoordinatorOptions& options) {
  CoreOptions core;
  core.incarnation = RandomU64() | 1;
  core.report_interval_ms = options.report_interval_ms;
  core.membership.suspect_after_ns = NsFromMs(options.suspect_after_ms);
  core.membership.dead_after_ns = NsFromMs(options.dead_after_ms);
  core.membership.forget_after_ns = NsFromMs(options.forget_after_ms);
  core.membership.stuck_after_ns = NsFromMs(options.stuck_after_ms);
  core.requests.epoch_base = WallClockMicroseconds();
  core.placement.remote_prefill_min_tokens = options.remote_prefill_min_tokens;
  core.placement.replica_stores = options.replica_stores;
  return core;
}

}  // namespace

Status ValidateOptions(const CoordinatorOptions& options) {
  constexpr int64_t kDayMs = 86'400'000;
  RETURN_IF_ERROR(CheckRange("report_interval_ms", options.report_interval_ms, 10, 10'000));
  RETURN_IF_ERROR(
      CheckRange("suspect_after_ms", options.suspect_after_ms, options.report_interval_ms, kDayMs));
  RETURN_IF_ERROR(
      CheckRange("dead_after_ms", options.dead_after_ms, options.suspect_after_ms, kDayMs));
  RETURN_IF_ERROR(CheckRange("forget_after_ms", options.forget_after_ms, 0, kDayMs));
  RETURN_IF_ERROR(
      CheckRange("stuck_after_ms", options.stuck_after_ms, options.report_interval_ms, kDayMs));
  RETURN_IF_ERROR(CheckRange("remote_prefill_min_tokens", options.remote_prefill_min_tokens, 0,
                             limits::kPromptTokensMax));
  return CheckRange("replica_stores", options.replica_stores, 0, limits::kReplicaStoresMax);
}

Status RunCoordinator(const CoordinatorOptions& options, const RoleControl& control) {
  RETURN_IF_ERROR(ValidateOptions(options));
  SetLogRole("coordinator", options.name);
  MetricsRegistry metrics("coordinator");
  const CoreOptions core = MakeCoreOptions(options);
  CoordinatorService service(core, RealClock(), &metrics);
  ASSIGN_OR_RETURN(const auto door, RpcServer::Start(options.listen, {&service}));
  ASSIGN_OR_RETURN(const auto metrics_door, ServeMetrics(metrics, options.metrics_listen));
  const RoleAddresses addresses{
      .grpc = door->address(), .kv = "", .metrics = metrics_door->address()};
  service.Tick();
  door->SetServing(true);
  LogInfo("coordinator_ready", {{"grpc", addresses.grpc},
                                {"metrics", addresses.metrics},
                                {"incarnation", core.incarnation}});
  if (control.ready) control.ready(addresses);
  while (!control.stop->WaitFor(core.membership.tick_interval_ns)) service.Tick();
  LogInfo("coordinator_stopping");
  door->Shutdown(kShutdownGraceMs);
  return absl::OkStatus();
}

}  // namespace reprise::coordinator
