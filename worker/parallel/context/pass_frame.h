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
  ContextCompute& compute;
  const Stripes& stripes;
  const ContextCall& call;
  const Clock& clock;
  PartialPool& partials;
  ContextMemory& memory;
  ContextStats& stats;
  TimeNs deadline_ns;

  int rank() const { return communicator.rank(); }
  int ranks() const { return communicator.size(); }
  int64_t page_bytes() const { return call.page_bytes; }
  int64_t block_tokens() const { return call.block_tokens; }

  // Counts what it blocks for.
  Status Wait(ExchangeId exchange) const;
};

// Query rows and what is known of their results.
struct RunWork {
  QueryRun run;
  ByteRows q;  // run.rows of them
  StripePartials partials;
};

// This rank's queries of the items.
std::vector<RunWork> OwnWork(const PassFrame& frame, const std::vector<ContextItem>& items);
// Their results into the call's out.
Status Finish(const PassFrame& frame, const std::vector<ContextItem>& items,
              std::vector<RunWork>& work);

// Packed pages as a pool of their own.
LayerPages PackedPages(const PassFrame& frame, const ContextBuffer& pages);

// Attends runs to keys, all in one call of the compute, and adds the results to the runs.
class NodeBatch {
 public:
  NodeBatch(const PassFrame& frame, const LayerPages& keys) : frame_(frame), keys_(keys) {}
  // `node`'s keys, of which `keys.size()` are there; their pages, from the first on.
  void Add(RunWork& work, const StripeNode& node, const int32_t* pages, PositionRange keys);
  Status Attend();

 private:
  struct Entry {
    RunWork* work;
    StripeNode node;
    const int32_t* pages;
    PositionRange keys;
  };
  const PassFrame& frame_;
  const LayerPages keys_;
  std::vector<Entry> entries_;
};

// The ways; collective.
Status RingPass(const PassFrame& frame, const std::vector<ContextItem>& items);
Status GatherPass(const PassFrame& frame, const std::vector<ContextItem>& items);
Status QueryPass(const PassFrame& frame, const ContextPlan::Turn& turn);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_PASS_FRAME_H_
