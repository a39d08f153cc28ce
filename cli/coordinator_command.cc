#include "cli/roles.h"
#include "coordinator/server/coordinator_main.h"

namespace reprise::cli {

int RunCoordinatorCommand(const Args& args) {
  coordinator::CoordinatorOptions o;
  FlagSet flags("reprise coordinator",
                "Runs the coordinator: membership, prefix index, placement.");
  flags.Add("name", &o.name, "name in logs and status");
  flags.Add("listen", &o.listen, "gRPC address, loopback only");
  flags.Add("metrics-listen", &o.metrics_listen, "Prometheus address, loopback only");
  flags.AddRange("report-interval-ms", &o.report_interval_ms, 10, 60'000, "how often nodes report");
  flags.AddRange("idle-report-interval-ms", &o.idle_report_interval_ms, 10, 60'000,
                 "how often while none has a request, if longer");
  flags.AddDurationMs("suspect-after", &o.suspect_after_ms, 10, 600'000,
                      "silence after which a node gets no new work");
  flags.AddDurationMs("dead-after", &o.dead_after_ms, 10, 600'000,
                      "silence after which a node is dead");
  flags.AddDurationMs("forget-after", &o.forget_after_ms, 10, 86'400'000,
                      "after which a dead node is no longer shown");
  flags.AddDurationMs("stuck-after", &o.stuck_after_ms, 10, 600'000,
                      "busy time without progress after which a worker gets no new work");
  flags.AddRange("remote-prefill-min-tokens", &o.remote_prefill_min_tokens, 0, 1 << 20,
                 "uncached prompt tokens from which a prefill worker is used");
  flags.AddRange("replica-stores", &o.replica_stores, 0, 8, "stores that keep a request's blocks");
  flags.Add("elastic-roles", &o.elastic_roles,
            "move workers between prefill and decode by their load");
  flags.Add("etcd", &o.etcd,
            "etcd's addresses (host:port,..) where the coordinators of a group agree on a leader; "
            "empty: this is the only one");
  flags.Add("peers", &o.peers, "addresses of the other coordinators of the group (host:port,..)");
  flags.Add("group", &o.group, "the group's name in etcd: its key is NAME/leader");
  RoleFlags common;
  return RunRole(flags, common, args, [&](const RoleControl& control) {
    return coordinator::RunCoordinator(o, control);
  });
}

}  // namespace reprise::cli
