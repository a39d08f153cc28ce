// Which way the ranks of a group attend to a sequence together: keys travel (as a ring, or gathered
// at once), or queries do. The bits are the same every way; what differs is bytes, balance and
// memory. The rule is a pure function of what all ranks know, so all choose alike. Any thread.
//
// Estimated seconds of a layer, of the busiest rank (docs/long-context.md has the derivation):
//   ring    max(bytes / rate, compute) + rounds (P - 1) latency     transfers hide behind compute
//   gather  bytes / rate + compute + latency                        nothing hides
//   query   bytes / rate + compute + 2 turns latency                nothing hides
// compute: ring and gather: the rank's own queries with all keys they see, and every key expanded
// where keys are latents; query: all queries with the rank's own keys, those alone expanded, once a
// turn. The least wins; of equals the first. Gathering is out when all keys of a layer take more
// than gather_bytes_max.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_COST_RULE_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_COST_RULE_H_

#include <cstdint>
#include <vector>

#include "worker/parallel/context/geometry.h"

namespace reprise::parallel {

enum class Way : uint8_t { kRing, kGather, kQuery };
const char* WayName(Way way);

// What the rule counts with; the same on all ranks.
struct Machine {
  double latency_s = 50e-6;     // of a step: posting, the wire, waking up
  double bytes_per_s = 1.25e9;  // of a rank's link
  double macs_per_s = 20e9;     // of a rank, multiply-adds
  int64_t gather_bytes_max = int64_t{64} << 20;
  int64_t query_rows_max = 256;  // queries of all ranks that travel at a time
};

struct CostShape {
  WireShape wire;
  double pair_macs = 0;  // multiply-adds of a query with a key, all heads
  double key_macs = 0;   // of expanding a key, all heads; 0: keys are kept as they are used
};

double SecondsOf(Way way, const Stripes& stripes, const ContextItem& item, const CostShape& shape,
                 const Machine& machine);
Way ChooseWay(const Stripes& stripes, const ContextItem& item, const CostShape& shape,
              const Machine& machine);

// How partial results of a turn come back: by the same estimate, levels * latency + the bytes that
// the busiest rank of each level receives / rate. Of equals kGather.
Merge ChooseMerge(const Stripes& stripes, const std::vector<ContextItem>& items,
                  const CostShape& shape, const Machine& machine);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_COST_RULE_H_
