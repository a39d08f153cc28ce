// reprise up MODEL: a whole cluster on this machine, loopback only, no configuration.
#include "cli/up.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "cli/command.h"
#include "cli/supervisor.h"
#include "common/free_ports.h"
#include "common/limits.h"
#include "worker/parallel/group_shape.h"

namespace reprise::cli {
namespace {

struct UpOptions {
  std::string model;
  std::string state_dir = DefaultStateDir();
  std::string listen = "127.0.0.1:50051";
  int32_t prefill_workers = 1;
  int32_t decode_workers = 2;
  int32_t stores = 2;
  int32_t gateways = 1;
  int32_t coordinators = 1;
  std::string etcd;
  int32_t replica_stores = 1;
  bool elastic_roles = false;
  int32_t threads = 1;
  int32_t block_tokens = 64;
  int32_t remote_prefill_min_tokens = 256;
  std::string kv_dtype = "auto";
  std::string device = "cpu";
  bool unproven_kernels = false;
  int64_t pool_bytes = int64_t{256} << 20;
  std::string group;  // of every worker
  int32_t group_spares = 0;
  int64_t store_memory_bytes = int64_t{256} << 20;
  int64_t store_disk_bytes = int64_t{256} << 20;
  std::vector<std::string> worker_flags;
  bool restart = true;
  int64_t ready_timeout_ms = 120'000;
};

void Declare(FlagSet& flags, UpOptions& o) {
  flags.Add("state-dir", &o.state_dir, "where logs, addresses and disk tiers go");
  flags.Add("listen", &o.listen, "the gateway's gRPC address; port 0 takes any free one");
  flags.AddRange("prefill-workers", &o.prefill_workers, 0, 64, "workers that only prefill");
  flags.AddRange("decode-workers", &o.decode_workers, 1, 64, "workers that decode and prefill");
  flags.AddRange("stores", &o.stores, 0, 64, "KV store nodes");
  flags.AddRange("gateways", &o.gateways, 1, 64, "gateways; the second and later take free ports");
  flags.AddRange("coordinators", &o.coordinators, 1, limits::kCoordinatorsMax,
                 "coordinators; more than one need --etcd");
  flags.Add("etcd", &o.etcd, "etcd's addresses (host:port,..), where coordinators elect a leader");
  flags.AddRange("replica-stores", &o.replica_stores, 0, limits::kReplicaStoresMax,
                 "stores that keep a request's replica");
  flags.Add("elastic-roles", &o.elastic_roles,
            "move decode workers between prefill and decode by their load");
  flags.AddRange("threads", &o.threads, 1, 256, "compute threads per worker");
  flags.AddRange("block-tokens", &o.block_tokens, 1, 1024, "tokens per KV block");
  flags.AddRange("remote-prefill-min-tokens", &o.remote_prefill_min_tokens, 0, 1 << 20,
                 "uncached prompt tokens from which a prefill worker is used");
  flags.Add("kv-dtype", &o.kv_dtype, "KV element type: auto, f32, bf16, f16, fp8");
  flags.AddChoice("device", &o.device, {"cpu", "gpu", "emulated"},
                  "what workers and ranks compute on; gpu: all on the first card");
  flags.Add("unproven-kernels", &o.unproven_kernels,
            "use a GPU's kernels that no card has passed the tests of, too");
  flags.AddBytes("pool-bytes", &o.pool_bytes, 1 << 16, int64_t{1} << 42, "KV pool of a worker");
  flags.Add("group", &o.group,
            "shape of the group of ranks that every worker is, e.g. tp2 or pp2,tp2 or cp4");
  flags.AddRange("group-spares", &o.group_spares, 0, 64,
                 "processes that wait to take a dead rank's place, whichever worker's");
  flags.AddBytes("store-memory-bytes", &o.store_memory_bytes, 1 << 16, int64_t{1} << 42,
                 "memory of a store node");
  flags.AddBytes("store-disk-bytes", &o.store_disk_bytes, 0, int64_t{1} << 44,
                 "disk file of a store node; 0: none");
  flags.Add("worker-flag", &o.worker_flags,
            "passed to every worker as it is, e.g. --timed; may repeat");
  flags.Add("restart", &o.restart, "restart a process that ends");
  flags.AddDurationMs("ready-timeout", &o.ready_timeout_ms, 1'000, 3'600'000,
                      "for a process to begin, a worker to load its model included");
}

Status PrepareStateDir(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return absl::UnavailableError(absl::StrCat(dir, ": ", error.message()));
  if (chmod(dir.c_str(), 0700) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(dir, " belongs to another user"));
  }
  // Held until this process ends, however it ends.
  const int lock = open(absl::StrCat(dir, "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) != 0) {
    return absl::AlreadyExistsError(
        absl::StrCat("a cluster runs already in ", dir, "; stop it or choose another --state-dir"));
  }
  return absl::OkStatus();
}

std::string SelfPath() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).string();
}

// What workers and ranks of a group must agree on.
std::vector<std::string> ModelArgs(const UpOptions& o) {
  std::vector<std::string> args = {"--model=" + o.model, absl::StrCat("--threads=", o.threads),
                                   absl::StrCat("--block-tokens=", o.block_tokens),
                                   "--kv-dtype=" + o.kv_dtype, "--device=" + o.device};
  if (o.unproven_kernels) args.emplace_back("--unproven-kernels");
  return args;
}

// Ranks of one group that share a card: to NCCL they are on hosts of their own, which it would
// refuse otherwise.
std::vector<std::pair<std::string, std::string>> GroupEnv(const UpOptions& o,
                                                          const std::string& name) {
  if (o.group.empty() || o.device != "gpu") return {};
  return {{"NCCL_HOSTID", name}};
}

// The processes of a worker's further ranks (of rank -1: a spare of all workers).
Status StartRank(const UpOptions& o, const std::string& name, int64_t rank, Supervisor& cluster) {
  std::vector<std::string> args = {"rank", "--name=" + name, "--group=" + o.group,
                                   absl::StrCat("--rank=", rank)};
  const std::vector<std::string> model = ModelArgs(o);
  args.insert(args.end(), model.begin(), model.end());
  return cluster.Start({.name = name, .args = args, .extra_env = GroupEnv(o, name)});
}

std::string RankName(const std::string& worker, uint32_t rank) {
  return absl::StrCat(worker, "-rank-", rank);
}
std::string SpareName(int spare) { return absl::StrCat("spare-", spare); }

// Of all workers: they must be there before those begin.
Status StartRanks(const UpOptions& o, const std::vector<std::string>& workers, uint32_t ranks,
                  Supervisor& cluster, StopSignal* stop) {
  for (const std::string& worker : workers) {
    for (uint32_t rank = 1; rank < ranks; ++rank) {
      RETURN_IF_ERROR(StartRank(o, RankName(worker, rank), rank, cluster));
    }
  }
  for (int spare = 0; spare < o.group_spares; ++spare) {
    RETURN_IF_ERROR(StartRank(o, SpareName(spare), -1, cluster));
  }
  return cluster.WaitReady(stop);
}

std::vector<std::string> GroupArgs(const UpOptions& o, const std::string& worker, uint32_t ranks,
                                   const Supervisor& cluster) {
  if (ranks == 1) return {};
  std::vector<std::string> addresses;
  for (uint32_t rank = 1; rank < ranks; ++rank) {
    addresses.push_back(cluster.addresses(RankName(worker, rank)).grpc);
  }
  for (int spare = 0; spare < o.group_spares; ++spare) {
    addresses.push_back(cluster.addresses(SpareName(spare)).grpc);
  }
  return {"--group=" + o.group, "--ranks=" + absl::StrJoin(addresses, ",")};
}

std::vector<std::string> WorkerArgs(const UpOptions& o, const std::string& name,
                                    const std::string& coordinator, bool prefill_only) {
  std::vector<std::string> args = {"worker", "--name=" + name, "--coordinator=" + coordinator,
                                   absl::StrCat("--pool-bytes=", o.pool_bytes)};
  const std::vector<std::string> model = ModelArgs(o);
  args.insert(args.end(), model.begin(), model.end());
  if (prefill_only) args.push_back("--no-decode");
  args.insert(args.end(), o.worker_flags.begin(), o.worker_flags.end());
  return args;
}

// Of the nth of `count` alike: the only one has no number.
std::string NameOf(const std::string& role, int n, int count) {
  return count == 1 ? role : absl::StrCat(role, "-", n);
}

// Of all `count` alike, with commas between.
std::string AddressesOf(const Supervisor& cluster, const std::string& role, int count) {
  std::vector<std::string> addresses;
  for (int i = 0; i < count; ++i)
    addresses.push_back(cluster.addresses(NameOf(role, i, count)).grpc);
  return absl::StrJoin(addresses, ",");
}

// Members of a group know each other before they start. The answer: all addresses, with commas.
StatusOr<std::string> StartCoordinators(const UpOptions& o, Supervisor& cluster, StopSignal* stop) {
  if (o.coordinators > 1 && o.etcd.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(o.coordinators, " coordinators need --etcd to elect a leader"));
  }
  std::vector<std::string> listen = {"127.0.0.1:0"};
  if (o.coordinators > 1) {
    ASSIGN_OR_RETURN(const std::vector<uint16_t> ports, FreePorts(o.coordinators));
    listen.clear();
    for (const uint16_t port : ports) listen.push_back(absl::StrCat("127.0.0.1:", port));
  }
  for (int i = 0; i < o.coordinators; ++i) {
    const std::string name = NameOf("coordinator", i, o.coordinators);
    std::vector<std::string> args = {
        "coordinator", "--name=" + name,
        absl::StrCat("--remote-prefill-min-tokens=", o.remote_prefill_min_tokens),
        absl::StrCat("--replica-stores=", o.replica_stores)};
    if (o.elastic_roles) args.push_back("--elastic-roles");
    if (!o.etcd.empty()) args.push_back("--etcd=" + o.etcd);
    std::vector<std::string> peers = listen;
    peers.erase(peers.begin() + i);
    if (!peers.empty()) args.push_back("--peers=" + absl::StrJoin(peers, ","));
    RETURN_IF_ERROR(cluster.Start({name, args, listen[static_cast<size_t>(i)]}));
  }
  RETURN_IF_ERROR(cluster.WaitReady(stop));
  return AddressesOf(cluster, "coordinator", o.coordinators);
}

Status StartWorkers(const UpOptions& o, const std::string& coordinator, Supervisor& cluster,
                    StopSignal* stop) {
  ASSIGN_OR_RETURN(const kv::GroupSplit split, parallel::ParseGroupShape(o.group));
  std::vector<std::string> names;
  for (int i = 0; i < o.prefill_workers; ++i) names.push_back(absl::StrCat("prefill-", i));
  for (int i = 0; i < o.decode_workers; ++i) names.push_back(absl::StrCat("decode-", i));
  if (split.ranks() > 1) RETURN_IF_ERROR(StartRanks(o, names, split.ranks(), cluster, stop));
  for (size_t i = 0; i < names.size(); ++i) {
    const bool prefill_only = i < static_cast<size_t>(o.prefill_workers);
    std::vector<std::string> args = WorkerArgs(o, names[i], coordinator, prefill_only);
    const std::vector<std::string> group = GroupArgs(o, names[i], split.ranks(), cluster);
    args.insert(args.end(), group.begin(), group.end());
    RETURN_IF_ERROR(
        cluster.Start({.name = names[i], .args = args, .extra_env = GroupEnv(o, names[i])}));
  }
  return absl::OkStatus();
}

Status StartAll(const UpOptions& o, Supervisor& cluster, StopSignal* stop) {
  ASSIGN_OR_RETURN(const std::string coordinator, StartCoordinators(o, cluster, stop));
  RETURN_IF_ERROR(StartWorkers(o, coordinator, cluster, stop));
  for (int i = 0; i < o.stores; ++i) {
    const std::string name = absl::StrCat("store-", i);
    std::vector<std::string> args = {"kvstore", "--name=" + name, "--coordinator=" + coordinator,
                                     absl::StrCat("--memory-bytes=", o.store_memory_bytes)};
    if (o.store_disk_bytes > 0) {
      args.push_back(absl::StrCat("--disk-path=", o.state_dir, "/", name, ".blocks"));
      args.push_back(absl::StrCat("--disk-bytes=", o.store_disk_bytes));
    }
    RETURN_IF_ERROR(cluster.Start({name, args}));
  }
  for (int i = 0; i < o.gateways; ++i) {
    const std::string name = NameOf("gateway", i, o.gateways);
    RETURN_IF_ERROR(cluster.Start(
        {name,
         {"gateway", "--name=" + name, "--coordinator=" + coordinator, "--model=" + o.model},
         i == 0 ? o.listen : "127.0.0.1:0"}));
  }
  return cluster.WaitReady(stop);
}

void PrintDoors(const Supervisor& cluster, const std::string& state_dir) {
  std::printf("%-14s %-8s %-22s %-22s %s\n", "process", "pid", "gRPC", "KV stream", "metrics");
  for (const std::string& name : cluster.names()) {
    const RoleAddresses& at = cluster.addresses(name);
    std::printf("%-14s %-8d %-22s %-22s http://%s/metrics\n", name.c_str(), cluster.pid(name),
                at.grpc.c_str(), at.kv.empty() ? "-" : at.kv.c_str(), at.metrics.c_str());
  }
  std::printf("logs and addresses: %s\n", state_dir.c_str());
  std::fflush(stdout);
}

}  // namespace

int RunUp(const Args& args) {
  UpOptions options;
  FlagSet flags("reprise up", "Serves a model from a whole cluster of processes on this machine.",
                "MODEL_FOLDER");
  Declare(flags, options);
  std::vector<std::string> positional;
  if (const auto exit = ParseFlags(flags, args, 1, &positional)) return *exit;
  if (positional.size() != 1) {
    return Fail("up", absl::InvalidArgumentError("name the model's folder: reprise up MODEL"));
  }
  options.model = positional[0];
  if (const Status status = PrepareStateDir(options.state_dir); !status.ok()) {
    return Fail("up", status);
  }
  static StopSignal stop;
  StopOnSignals(&stop);
  Supervisor cluster({.program = SelfPath(),
                      .state_dir = options.state_dir,
                      .ready_timeout_ns = NsFromMs(options.ready_timeout_ms),
                      .restart = options.restart});
  if (const Status status = StartAll(options, cluster, &stop); !status.ok()) {
    return status.code() == absl::StatusCode::kCancelled ? 130 : Fail("up", status);
  }
  PrintDoors(cluster, options.state_dir);
  std::printf("serving %s on %s; Ctrl-C stops it\n", options.model.c_str(),
              AddressesOf(cluster, "gateway", options.gateways).c_str());
  std::fflush(stdout);
  const Status status = cluster.Watch(&stop, [](const std::string& event) {
    std::printf("%s\n", event.c_str());
    std::fflush(stdout);
  });
  cluster.StopAll();
  return status.ok() ? 0 : Fail("up", status);
}

}  // namespace reprise::cli
