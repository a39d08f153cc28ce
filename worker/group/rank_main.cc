#include "worker/group/rank_main.h"

#include <memory>

#include "common/log.h"
#include "common/metrics.h"
#include "common/rpc_server.h"
#include "worker/group/rank_server.h"
#include "worker/parallel/group_shape.h"
#include "worker/parallel/ucx_group.h"

namespace reprise::worker {
namespace {

StatusOr<RankServerOptions> MakeServerOptions(const RankOptions& options) {
  if (options.model.empty()) return absl::InvalidArgumentError("a rank needs a model folder");
  RankServerOptions server;
  server.name = options.name;
  server.on.device = options.device;
  server.on.unproven_kernels = options.unproven_kernels;
  ASSIGN_OR_RETURN(server.split, SplitOn(server.on, options.group));
  if (server.split.ranks() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("group \"", options.group, "\" has no rank but the worker's own"));
  }
  if (options.rank == 0 || options.rank < -1) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank is ", options.rank, ", allowed are 1 to ", server.split.ranks() - 1,
                     ", or -1 for a spare; rank 0 is the worker itself"));
  }
  server.rank = options.rank;
  ASSIGN_OR_RETURN(
      server.transport,
      parallel::ParseUcxGroupOptions(options.group_listen, options.devices, options.shared_memory));
  server.model.model_dir = options.model;
  server.model.kv_dtype = options.kv_dtype;
  server.model.isa = options.isa;
  server.model.threads = options.threads;
  server.model.block_tokens = options.block_tokens;
  return server;
}

}  // namespace

Status RunRank(const RankOptions& options, const RoleControl& control) {
  ASSIGN_OR_RETURN(const RankServerOptions server_options, MakeServerOptions(options));
  SetLogRole("rank", options.name);
  MetricsRegistry metrics("rank");
  ASSIGN_OR_RETURN(const auto server, RankServer::Start(server_options, &metrics));
  ASSIGN_OR_RETURN(const auto metrics_door, ServeMetrics(metrics, options.metrics_listen));
  ASSIGN_OR_RETURN(const auto door, RpcServer::Start(options.listen, {server.get()}));
  const RoleAddresses addresses{
      .grpc = door->address(), .kv = server->group_address(), .metrics = metrics_door->address()};
  door->SetServing(true);
  LogInfo("rank_ready", {{"grpc", addresses.grpc}, {"group", addresses.kv}});
  if (control.ready) control.ready(addresses);
  control.stop->Wait();
  LogInfo("rank_stopping");
  door->SetServing(false);
  server->Stop();
  door->Shutdown(static_cast<int>(options.stop_grace_ms));
  return absl::OkStatus();
}

}  // namespace reprise::worker
