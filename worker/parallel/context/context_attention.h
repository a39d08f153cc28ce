// Attention of query rows to sequences whose keys lie in stripes over the ranks of a group
// (stripes.h). Every rank calls with the same plan; each gives the queries at positions it owns and
// gets their attended rows, in the bits one rank alone would have made. Owned by whoever runs the
// rank; one thread.
//
// Invariants:
// 1. out = the whole-sequence kernel's, to the bit: what is computed apart are nodes of its own
//    tree over stripes, joined by it alone (partials.h). Way, chunks and ranks change no bit.
// 2. What travels is what the cache holds (keys and values, or latents), or queries and partial
//    results in f32; payload is RingBytes, GatherBytes or QueryBytes of geometry.h.
// 3. Memory besides the pool and the partial results: a ring has three shards (two stripes each) at
//    most; gathering has all keys of a layer, within Machine::gather_bytes_max by the rule; queries
//    that travel are Machine::query_rows_max at a time, of all ranks. Partial results wait in
//    O(log) nodes of each own query row: log2(stripes) + 2 P + 2 at most.
// 4. An error is the communicator's (communicator.h) or the compute's, which ends the group: every
//    rank's call fails, nothing of out is to be used, and no memory is written afterwards by
//    others.
// 5. Out may still be on its way when the call returns, as the compute says.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_CONTEXT_ATTENTION_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_CONTEXT_ATTENTION_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "worker/parallel/communicator.h"
#include "worker/parallel/context/context_compute.h"
#include "worker/parallel/context/cost_rule.h"
#include "worker/parallel/context/geometry.h"
#include "worker/parallel/context/stripes.h"

namespace reprise::parallel {

// What each item's queries and keys do; equal on all ranks but for the items' own fields.
struct ContextPlan {
  std::vector<ContextItem> ring;
  std::vector<ContextItem> gather;
  struct Turn {
    std::vector<ContextItem> items;
    Merge merge = Merge::kGather;
  };
  std::vector<Turn> turns;  // of queries that travel
};

struct ContextRules {
  Machine machine;
  // In place of the rule's choice.
  std::optional<Way> way;
  std::optional<Merge> merge;
};
// As rank `rank` sees it. Items without rows are left out.
ContextPlan PlanOf(const Stripes& stripes, int rank, const std::vector<ContextItem>& items,
                   const CostShape& shape, const ContextRules& rules);

struct ContextCall {
  LayerPages pages;  // this rank's pool, which holds the keys of all items
  int64_t block_tokens = 0;
  int64_t page_bytes = 0;  // of the layer
  int64_t heads = 0;
  int64_t query_dim = 0;
  int64_t value_dim = 0;
  ByteRows q;    // own rows, heads * query_dim elements each
  ByteRows out;  // own rows, heads * value_dim elements each
  const ContextPlan* plan = nullptr;
};

struct ContextStats {
  TimeNs total_ns = 0;             // within Attend
  TimeNs wait_ns = 0;              // of that, blocked for a transfer
  int64_t buffer_bytes_peak = 0;   // keys of others, and own ones packed for them
  int64_t query_bytes_peak = 0;    // queries that travel, and messages of partial results
  int64_t partial_bytes_peak = 0;  // partial results
};

// Memory kept from call to call.
struct ContextMemory {
  std::array<ContextBuffer, 3> shards;
  ContextBuffer gathered;
  std::vector<int32_t> pages;  // 0, 1, 2, ..., or those of `gathered`
};

class ContextAttention {
 public:
  // Precondition: stripes are over the communicator's ranks, whose operands lie where `compute`
  // has its memory.
  ContextAttention(Communicator& communicator, ContextCompute& compute, const Stripes& stripes,
                   const Clock& clock)
      : communicator_(communicator), compute_(compute), stripes_(stripes), clock_(clock) {}

  // INVALID_ARGUMENT, on all ranks, when the group has not as many ranks as the stripes or a page
  // does not divide a stripe.
  Status Attend(const ContextCall& call, TimeNs deadline_ns);

  const Stripes& stripes() const { return stripes_; }
  const ContextStats& stats() const { return stats_; }

 private:
  Communicator& communicator_;
  ContextCompute& compute_;
  const Stripes stripes_;
  const Clock& clock_;
  ContextMemory memory_;
  ContextStats stats_;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_CONTEXT_ATTENTION_H_
