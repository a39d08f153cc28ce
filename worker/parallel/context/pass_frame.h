// What the three ways of attending (ring_pass, gather_pass, query_pass) share within one call:
// the call, its group and memory, query runs with their partial results, batches of keys to attend
// to. Owned by the call; one thread.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_PASS_FRAME_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_PASS_FRAME_H_

#include <vector>

#include "worker/parallel/context/context_attention.h"
#include "worker/parallel/context/partials.h"

namespace reprise::parallel {

struct PassFrame {
  Communicator& communicator;
  const Stripes& stripes;
  const ContextCall& call;
  const Clock& clock;
  PartialPool& partials;
  ContextMemory& memory;
  ContextStats& stats;
  TimeNs deadline_ns;

  int rank() const { return communicator.rank(); }
  int ranks() const { return communicator.size(); }
  int64_t page_bytes() const { return kernels::SegmentBytes(call.kv); }
  int64_t block_tokens() const { return call.kv.block_tokens; }

  // Counts what it blocks for.
  Status Wait(ExchangeId exchange) const;
};

// Query rows and what is known of their results.
struct RunWork {
  QueryRun run;
  kernels::ConstF32 q;  // [run.rows, heads * query_dim]
  StripePartials partials;
};

// This rank's queries of the items.
std::vector<RunWork> OwnWork(const PassFrame& frame, const std::vector<ContextItem>& items);
// Their results into the call's out.
void Finish(const PassFrame& frame, const std::vector<ContextItem>& items,
            std::vector<RunWork>& work);

// Copies pages of the call's pool, one after the other.
void PackPages(const PassFrame& frame, const int32_t* pages, int64_t count, uint8_t* to);
// Packed pages as a pool of their own.
kernels::PagedKv PackedKv(const PassFrame& frame, std::vector<uint8_t>& pages);

// Attends runs to keys, all in one call of the attender, and adds the results to the runs.
class NodeBatch {
 public:
  NodeBatch(const PassFrame& frame, const kernels::PagedKv& kv) : frame_(frame), kv_(kv) {}
  // `node`'s keys, of which `keys.size()` are there; pages of kv, from the first on.
  void Add(RunWork& work, const StripeNode& node, const int32_t* pages, PositionRange keys);
  void Attend();

 private:
  struct Entry {
    RunWork* work;
    StripeNode node;
    kernels::KeySegment segment;
    PartialMemory partial;
  };
  const PassFrame& frame_;
  const kernels::PagedKv kv_;
  std::vector<Entry> entries_;
};

// The ways; collective.
Status RingPass(const PassFrame& frame, const std::vector<ContextItem>& items);
Status GatherPass(const PassFrame& frame, const std::vector<ContextItem>& items);
Status QueryPass(const PassFrame& frame, const ContextPlan::Turn& turn);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_PASS_FRAME_H_
