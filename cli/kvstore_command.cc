#include "cli/roles.h"
#include "kvstore/node/store_main.h"

namespace reprise::cli {

int RunStoreCommand(const Args& args) {
  kv::StoreOptions o;
  FlagSet flags("reprise kvstore", "Runs a KV store node: sealed blocks in memory, then on disk.");
  flags.Add("name", &o.name, "name in logs and status; unique in the cluster");
  flags.Add("coordinator", &o.coordinator, "the coordinator's address");
  flags.Add("listen", &o.listen, "gRPC address (health), loopback only");
  flags.Add("kv-listen", &o.kv_listen, "KV stream address, loopback only");
  flags.Add("metrics-listen", &o.metrics_listen, "Prometheus address, loopback only");
  flags.Add("failure-domain", &o.failure_domain, "replicas go to other domains first");
  flags.AddBytes("memory-bytes", &o.memory_bytes, 1 << 16, int64_t{1} << 44, "memory for blocks");
  flags.Add("disk-path", &o.disk_path, "file of the disk tier; empty: none");
  flags.AddBytes("disk-bytes", &o.disk_bytes, 1 << 16, int64_t{1} << 48, "size of the disk tier");
  flags.Add("devices", &o.devices, "network devices of the KV stream");
  flags.Add("shared-memory", &o.shared_memory, "use shared memory to peers on this machine");
  flags.Add("model", &o.model, "the model served; empty: the cluster's only one");
  RoleFlags common;
  return RunRole(flags, common, args,
                 [&](const RoleControl& control) { return kv::RunStore(o, control); });
}

}  // namespace reprise::cli
