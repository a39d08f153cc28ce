// Which stores keep a request's replicas: rendezvous hashing (Thaler, Ravishankar: "Using
// name-based mappings to increase hit rates", 1998) over the live stores, with failure-domain
// anti-affinity. The coordinator chooses by it at placement and workers when a store is lost, so
// both come to the same set. Pure functions; any thread.
#ifndef REPRISE_KVSTORE_BLOCK_REPLICA_CHOICE_H_
#define REPRISE_KVSTORE_BLOCK_REPLICA_CHOICE_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace reprise::kv {

// The same on every machine and in every version, because stores are found again by it.
uint64_t RendezvousScore(absl::string_view key, absl::string_view node);

struct ReplicaCandidate {
  absl::string_view name;
  absl::string_view failure_domain;  // empty: shared with nobody
};

// Indexes of up to `count` of `stores`, best first. A store in a failure domain not used yet, by
// `used_domains` (the decode worker's and those of replicas that stay) or an earlier pick, goes
// before one that shares a domain. Otherwise the highest score wins, then the lower name. A store
// that joins or leaves moves only the keys it wins or held.
std::vector<size_t> PickReplicas(absl::string_view request_id, std::set<std::string> used_domains,
                                 const std::vector<ReplicaCandidate>& stores, int count);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_BLOCK_REPLICA_CHOICE_H_
