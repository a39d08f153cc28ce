// What computes attention over some keys: the kernel itself, or something that makes keys and
// values of what is kept first (latents in prompt form). Owned by the caller of ContextAttention;
// one thread.
//
// Invariant: a query's result over a segment is a function of the query and of the segment's rows
// and positions up to the query's own: the same bits on every rank, alone or among other items.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_ATTENDER_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_ATTENDER_H_

#include <span>

#include "kernels/ops.h"

namespace reprise::parallel {

class Attender {
 public:
  virtual ~Attender() = default;
  // Fills out and lse of every item as AttentionArgs says. Each has one segment, over kv; items
  // over equal segments follow each other.
  virtual void Attend(const kernels::PagedKv& kv,
                      std::span<const kernels::AttentionItem> items) = 0;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_ATTENDER_H_
