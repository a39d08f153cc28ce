// A whole cluster in a few words: how many of each role, which engine, how many replicas. Used by
// failover tests and benchmarks; the caller's thread owns the processes.
#ifndef REPRISE_TESTS_CLUSTER_SETTING_H_
#define REPRISE_TESTS_CLUSTER_SETTING_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "tests/cluster/checked_load.h"
#include "tests/cluster/cluster.h"
#include "worker/engine/timed_tokens.h"

namespace reprise::harness {

// Processes are named prefill-0, decode-0, store-0, gateway-0 and so on, coordinators as in
// cluster.h. Every store and worker is a failure domain of its own.
struct Setting {
  std::string program;
  int prefill_workers = 0;
  int decode_workers = 4;
  int stores = 3;
  int gateways = 2;
  int coordinators = 1;  // more agree through etcd
  int replica_stores = 1;
  int remote_prefill_min_tokens = 64;
  bool store_disks = false;
  bool failpoints = false;
  NetworkLab* lab = nullptr;  // as in cluster.h; one coordinator only
  std::string model_dir;      // empty: the timed engine
  worker::TimedModel model = {.layers = 2, .row_bytes = 64, .block_tokens = 16};
  double step_ms = 5;
  double prefill_ms_per_token = 0.05;
  // Workers that are groups of ranks, by name: their shapes ("pp2,tp2"). Ranks are named
  // decode-0-rank-1 and so on, the spares of each group decode-0-spare-0.
  std::map<std::string, std::string> groups;
  int group_spares = 0;
  Cluster::Flags coordinator_flags;
  Cluster::Flags worker_flags;  // of all workers
  Cluster::Flags gateway_flags;
  std::map<std::string, Cluster::Flags> flags_of;  // of one process, beside those of its role
};

// The least that serves the model in a folder: one worker and one gateway.
Setting OneWorker(const std::string& program, const std::string& model_dir);

std::vector<std::string> Names(const std::string& role, int count);

// Returns when all are live.
StatusOr<std::unique_ptr<Cluster>> StartCluster(const Setting& setting);

// Requests of the timed engine with prompts of `prompt_tokens` and answers of `max_tokens`; request
// numbers start at `first`, so that two loads share no prompt.
CheckedLoadOptions TimedLoad(const Setting& setting, const Cluster& cluster, int in_flight,
                             int prompt_tokens, int max_tokens, int64_t first = 0);

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_SETTING_H_
