// A cluster whose requests the benchmark places itself: a coordinator for membership only, workers
// and stores with chosen flags, and a direct client of each worker. Owned by the benchmark; one
// thread.
#ifndef REPRISE_BENCH_PLACED_CLUSTER_H_
#define REPRISE_BENCH_PLACED_CLUSTER_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/bench_main.h"
#include "common/status.h"
#include "tests/cluster/cluster.h"
#include "tests/cluster/worker_client.h"

namespace reprise::bench {

struct PlacedOptions {
  std::string reprise;
  // Name and flags of each.
  std::vector<std::pair<std::string, harness::Cluster::Flags>> workers;
  std::vector<std::pair<std::string, harness::Cluster::Flags>> stores;
};

class PlacedCluster {
 public:
  static StatusOr<std::unique_ptr<PlacedCluster>> Start(const PlacedOptions& options);

  harness::Cluster& processes() { return *cluster_; }
  const v1::NodeRef& ref(const std::string& name) const { return refs_.at(name); }
  harness::WorkerClient& worker(const std::string& name) { return *clients_.at(name); }
  // 0 when the node has no such metric yet.
  double Metric(const std::string& name, absl::string_view family) const;
  // Lets "prefill" compute the submissions, which name "store", so many at a time, and waits until
  // that one has so many segments more.
  Status FillStore(const std::vector<v1::Submit>& submits, int concurrency, int64_t segments,
                   TimeNs timeout_ns);

 private:
  PlacedCluster() = default;
  std::unique_ptr<harness::Cluster> cluster_;
  std::map<std::string, v1::NodeRef> refs_;
  std::map<std::string, std::unique_ptr<harness::WorkerClient>> clients_;  // go first
};

// Greedy, `max_tokens` without heed of end tokens.
v1::Submit GreedySubmit(const std::string& request_id, const std::vector<int32_t>& prompt,
                        int32_t max_tokens);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_PLACED_CLUSTER_H_
