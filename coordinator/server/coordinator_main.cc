#include "coordinator/server/coordinator_main.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "common/bind_address.h"
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

CoreOptions MakeCoreOptions(const CoordinatorOptions& options) {
  CoreOptions core;
  core.incarnation = RandomU64() | 1;
  core.report_interval_ms = options.report_interval_ms;
  core.idle_report_interval_ms =
      std::max(options.report_interval_ms, options.idle_report_interval_ms);
  core.membership.suspect_after_ns = NsFromMs(options.suspect_after_ms);
  core.membership.dead_after_ns = NsFromMs(options.dead_after_ms);
  core.membership.forget_after_ns = NsFromMs(options.forget_after_ms);
  core.membership.stuck_after_ns = NsFromMs(options.stuck_after_ms);
  // The epochs of a group come from its key, which rises too.
  core.standby = !options.etcd.empty();
  core.requests.epoch_base = core.standby ? 0 : WallClockMicroseconds();
  core.placement.remote_prefill_min_tokens = options.remote_prefill_min_tokens;
  core.placement.replica_stores = options.replica_stores;
  core.elastic_roles = options.elastic_roles;
  return core;
}

// Empty for an empty list.
StatusOr<std::vector<std::string>> ParseAddresses(const char* option, const std::string& list) {
  const std::vector<std::string> addresses = absl::StrSplit(list, ',', absl::SkipEmpty());
  if (addresses.size() > limits::kCoordinatorsMax) {
    return absl::InvalidArgumentError(absl::StrCat(option, " names ", addresses.size(),
                                                   " addresses, the limit is ",
                                                   limits::kCoordinatorsMax));
  }
  for (const std::string& address : addresses) {
    if (const auto parsed = ParseHostPort(address); !parsed.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(option, ": ", parsed.status().message()));
    }
  }
  return addresses;
}

Status ValidateGroup(const CoordinatorOptions& options) {
  RETURN_IF_ERROR(ParseAddresses("etcd", options.etcd).status());
  ASSIGN_OR_RETURN(const std::vector<std::string> peers, ParseAddresses("peers", options.peers));
  if (options.etcd.empty() && !peers.empty()) {
    return absl::InvalidArgumentError("peers agree through etcd: name its address too (etcd)");
  }
  for (const auto& [option, value] : {std::pair("name", options.name), {"group", options.group}}) {
    if (value.empty() || value.size() > limits::kNodeNameBytesMax ||
        value.find_first_of(" \t\n") != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(option, " is \"", value, "\", allowed are 1 to ", limits::kNodeNameBytesMax,
                       " bytes without spaces"));
    }
  }
  return absl::OkStatus();
}

Status JoinGroup(const CoordinatorOptions& options, const std::string& address,
                 CoordinatorService& service) {
  if (options.etcd.empty()) return absl::OkStatus();
  LeadershipOptions leadership;
  leadership.core = {.name = options.name, .address = address, .seed = RandomU64()};
  leadership.etcd.key = absl::StrCat(options.group, "/leader");
  ASSIGN_OR_RETURN(leadership.etcd.endpoints, ParseAddresses("etcd", options.etcd));
  ASSIGN_OR_RETURN(leadership.peers, ParseAddresses("peers", options.peers));
  service.Join(std::move(leadership));
  return absl::OkStatus();
}

}  // namespace

Status ValidateOptions(const CoordinatorOptions& options) {
  constexpr int64_t kDayMs = 86'400'000;
  RETURN_IF_ERROR(CheckRange("report_interval_ms", options.report_interval_ms, 10, 10'000));
  RETURN_IF_ERROR(CheckRange("idle_report_interval_ms", options.idle_report_interval_ms, 10,
                             options.suspect_after_ms));
  RETURN_IF_ERROR(
      CheckRange("suspect_after_ms", options.suspect_after_ms, options.report_interval_ms, kDayMs));
  RETURN_IF_ERROR(
      CheckRange("dead_after_ms", options.dead_after_ms, options.suspect_after_ms, kDayMs));
  RETURN_IF_ERROR(CheckRange("forget_after_ms", options.forget_after_ms, 0, kDayMs));
  RETURN_IF_ERROR(
      CheckRange("stuck_after_ms", options.stuck_after_ms, options.report_interval_ms, kDayMs));
  RETURN_IF_ERROR(CheckRange("remote_prefill_min_tokens", options.remote_prefill_min_tokens, 0,
                             limits::kPromptTokensMax));
  RETURN_IF_ERROR(
      CheckRange("replica_stores", options.replica_stores, 0, limits::kReplicaStoresMax));
  return ValidateGroup(options);
}

Status RunCoordinator(const CoordinatorOptions& options, const RoleControl& control) {
  RETURN_IF_ERROR(ValidateOptions(options));
  SetLogRole("coordinator", options.name);
  MetricsRegistry metrics("coordinator");
  const CoreOptions core = MakeCoreOptions(options);
  CoordinatorService service(core, RealClock(), &metrics, options.name);
  ASSIGN_OR_RETURN(const auto door, RpcServer::Start(options.listen, {&service}));
  ASSIGN_OR_RETURN(const auto metrics_door, ServeMetrics(metrics, options.metrics_listen));
  const RoleAddresses addresses{
      .grpc = door->address(), .kv = "", .metrics = metrics_door->address()};
  service.Tick();
  RETURN_IF_ERROR(JoinGroup(options, addresses.grpc, service));
  door->SetServing(true);
  LogInfo("coordinator_ready", {{"grpc", addresses.grpc},
                                {"metrics", addresses.metrics},
                                {"incarnation", core.incarnation}});
  if (control.ready) control.ready(addresses);
  while (!control.stop->WaitFor(core.membership.tick_interval_ns)) service.Tick();
  LogInfo("coordinator_stopping");
  service.StopLeading();
  door->Shutdown(kShutdownGraceMs);
  return absl::OkStatus();
}

}  // namespace reprise::coordinator
