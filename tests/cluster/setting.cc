#include "tests/cluster/setting.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/parallel/group_shape.h"

namespace reprise::harness {

Setting OneWorker(const std::string& program, const std::string& model_dir) {
  Setting setting;
  setting.program = program;
  setting.decode_workers = 1;
  setting.stores = 0;
  setting.gateways = 1;
  setting.replica_stores = 0;
  setting.model_dir = model_dir;
  setting.worker_flags = {"--pool-bytes=32MiB"};
  return setting;
}

std::vector<std::string> Names(const std::string& role, int count) {
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.push_back(absl::StrCat(role, "-", i));
  return names;
}

namespace {

Cluster::Flags WorkerFlags(const Setting& s) {
  Cluster::Flags flags = {absl::StrCat("--block-tokens=", s.model.block_tokens)};
  if (!s.model_dir.empty()) {
    flags.push_back("--model=" + s.model_dir);
  } else {
    flags.insert(flags.end(),
                 {"--timed", absl::StrCat("--timed-layers=", s.model.layers),
                  absl::StrCat("--timed-row-bytes=", s.model.row_bytes),
                  s.model.two_forms ? "--timed-two-forms" : "--no-timed-two-forms",
                  absl::StrCat("--timed-context=", s.model.context_tokens),
                  absl::StrCat("--timed-vocab=", s.model.vocab_size),
                  absl::StrCat("--timed-step-ms=", s.step_ms),
                  absl::StrCat("--timed-prefill-ms-per-token=", s.prefill_ms_per_token),
                  "--running-max=1024", "--pool-bytes=32MiB"});
  }
  flags.insert(flags.end(), s.worker_flags.begin(), s.worker_flags.end());
  return flags;
}

void AddOwn(const Setting& s, const std::string& name, Cluster::Flags& flags) {
  const auto own = s.flags_of.find(name);
  if (own != s.flags_of.end()) flags.insert(flags.end(), own->second.begin(), own->second.end());
}

// The processes of a group but for its driver.
std::vector<std::string> RankNames(const Setting& s, const std::string& worker, uint32_t ranks) {
  std::vector<std::string> names;
  for (uint32_t rank = 1; rank < ranks; ++rank) {
    names.push_back(absl::StrCat(worker, "-rank-", rank));
  }
  for (const std::string& spare : Names(worker + "-spare", s.group_spares)) names.push_back(spare);
  return names;
}

Status AddRanks(const Setting& s, Cluster& cluster) {
  if (s.groups.empty()) return absl::OkStatus();
  for (const auto& [worker, shape] : s.groups) {
    ASSIGN_OR_RETURN(const kv::GroupSplit split, parallel::ParseGroupShape(shape));
    const std::vector<std::string> names = RankNames(s, worker, split.ranks());
    for (size_t i = 0; i < names.size(); ++i) {
      const bool spare = i + 1 >= split.ranks();
      RETURN_IF_ERROR(cluster.AddRank(
          names[i],
          {"--group=" + shape, absl::StrCat("--rank=", spare ? -1 : int64_t(i) + 1),
           "--model=" + s.model_dir, absl::StrCat("--block-tokens=", s.model.block_tokens)}));
    }
  }
  return cluster.WaitReady();
}

// Of a worker that drives a group.
Status AddGroup(const Setting& s, const std::string& name, const Cluster& cluster,
                Cluster::Flags& flags) {
  const auto group = s.groups.find(name);
  if (group == s.groups.end()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const kv::GroupSplit split, parallel::ParseGroupShape(group->second));
  std::vector<std::string> at;
  for (const std::string& rank : RankNames(s, name, split.ranks())) {
    at.push_back(cluster.addresses(rank).grpc);
  }
  flags.push_back("--group=" + group->second);
  flags.push_back("--ranks=" + absl::StrJoin(at, ","));
  return absl::OkStatus();
}

Status AddWorkers(const Setting& s, Cluster& cluster) {
  RETURN_IF_ERROR(AddRanks(s, cluster));
  for (const std::string& name : Names("prefill", s.prefill_workers)) {
    Cluster::Flags flags = WorkerFlags(s);
    flags.insert(flags.end(), {"--no-decode", "--failure-domain=" + name});
    AddOwn(s, name, flags);
    RETURN_IF_ERROR(AddGroup(s, name, cluster, flags));
    RETURN_IF_ERROR(cluster.AddWorker(name, flags));
  }
  for (const std::string& name : Names("decode", s.decode_workers)) {
    Cluster::Flags flags = WorkerFlags(s);
    flags.push_back("--failure-domain=" + name);
    AddOwn(s, name, flags);
    RETURN_IF_ERROR(AddGroup(s, name, cluster, flags));
    RETURN_IF_ERROR(cluster.AddWorker(name, flags));
  }
  return absl::OkStatus();
}

Status AddStores(const Setting& s, Cluster& cluster) {
  for (const std::string& name : Names("store", s.stores)) {
    Cluster::Flags flags = {"--memory-bytes=64MiB", "--failure-domain=" + name};
    if (s.store_disks) {
      flags.push_back(absl::StrCat("--disk-path=", cluster.dir(), "/", name, ".blocks"));
      flags.push_back("--disk-bytes=64MiB");
    }
    AddOwn(s, name, flags);
    RETURN_IF_ERROR(cluster.AddStore(name, flags));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<Cluster>> StartCluster(const Setting& s) {
  ASSIGN_OR_RETURN(auto cluster,
                   Cluster::Create(Cluster::Options{
                       .program = s.program, .failpoints = s.failpoints, .lab = s.lab}));
  Cluster::Flags coordinator = {
      absl::StrCat("--replica-stores=", s.replica_stores),
      absl::StrCat("--remote-prefill-min-tokens=", s.remote_prefill_min_tokens)};
  coordinator.insert(coordinator.end(), s.coordinator_flags.begin(), s.coordinator_flags.end());
  if (s.coordinators == 1) {
    RETURN_IF_ERROR(cluster->AddCoordinator(coordinator));
  } else {
    RETURN_IF_ERROR(cluster->AddCoordinators(s.coordinators, coordinator));
  }
  RETURN_IF_ERROR(AddWorkers(s, *cluster));
  RETURN_IF_ERROR(AddStores(s, *cluster));
  for (const std::string& name : Names("gateway", s.gateways)) {
    Cluster::Flags flags = s.gateway_flags;
    if (!s.model_dir.empty()) flags.push_back("--model=" + s.model_dir);
    AddOwn(s, name, flags);
    RETURN_IF_ERROR(cluster->AddGateway(name, flags));
  }
  RETURN_IF_ERROR(cluster->WaitLive());
  return cluster;
}

CheckedLoadOptions TimedLoad(const Setting& setting, const Cluster& cluster, int in_flight,
                             int prompt_tokens, int max_tokens, int64_t first) {
  return {.gateways = cluster.gateways(),
          .in_flight = in_flight,
          .make = [model = setting.model, first, prompt_tokens, max_tokens](int64_t number) {
            return TimedRequest(model, first + number, prompt_tokens, max_tokens);
          }};
}

}  // namespace reprise::harness
