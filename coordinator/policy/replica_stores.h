// Which stores keep a request's replicas: rendezvous hashing (Thaler, Ravishankar: "Using
// name-based mappings to increase hit rates", 1998) over the live stores, with failure-domain
// anti-affinity. Pure functions; any thread.
#ifndef REPRISE_COORDINATOR_POLICY_REPLICA_STORES_H_
#define REPRISE_COORDINATOR_POLICY_REPLICA_STORES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "coordinator/core/types.h"

namespace reprise::coordinator {

// The same on every machine and in every version, because stores are found again by it.
uint64_t RendezvousScore(absl::string_view key, absl::string_view node);

// Up to `count` of `stores`, best first. A store in a failure domain not used yet, by the decode
// worker or an earlier pick, goes before one that shares a domain; an empty domain is shared with
// nobody. Otherwise the highest score wins, then the lower name. A store that joins or leaves moves
// only the keys it wins or held.
std::vector<const NodeInfo*> PickStores(const std::string& request_id,
                                        const std::string& decode_domain,
                                        std::vector<const NodeInfo*> stores, int count);

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_POLICY_REPLICA_STORES_H_
