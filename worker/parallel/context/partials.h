// Partial attention results of query rows, by node of the tree over stripes, kept until the node's
// other half is there. Owned by a call of ContextAttention; one thread.
//
// Invariants:
// 1. Halves are joined left with right, as the whole-sequence kernel joins them, whatever came
//    first: the result's bits depend on the nodes alone.
// 2. A result waits only while its other half is missing.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_PARTIALS_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_PARTIALS_H_

#include <cstdint>
#include <map>
#include <vector>

#include "kernels/ops.h"
#include "worker/parallel/context/stripe_tree.h"

namespace reprise::parallel {

// out [rows, heads * value_dim], then lse [rows, heads].
using PartialMemory = std::vector<float>;

// What a partial result looks like, and the memory of those that are done with, for reuse.
class PartialPool {
 public:
  PartialPool(const kernels::CpuOps& ops, int64_t heads, int64_t value_dim)
      : ops_(ops), heads_(heads), value_dim_(value_dim) {}

  int64_t out_cols() const { return heads_ * value_dim_; }
  int64_t row_floats() const { return out_cols() + heads_; }
  kernels::Partials View(PartialMemory& memory, int64_t rows) const;

  PartialMemory Take(int64_t rows);
  void Give(PartialMemory memory);
  // left = left joined with right.
  void Merge(PartialMemory& left, PartialMemory& right, int64_t rows) const;

  // Most that was taken and not given back at a time.
  int64_t peak_bytes() const { return peak_bytes_; }

 private:
  const kernels::CpuOps& ops_;
  const int64_t heads_;
  const int64_t value_dim_;
  std::map<size_t, std::vector<PartialMemory>> free_;  // by size
  int64_t live_bytes_ = 0;
  int64_t peak_bytes_ = 0;
};

// Of `rows` query rows that see stripes 0 .. last.
class StripePartials {
 public:
  StripePartials(int64_t rows, int64_t last) : rows_(rows), last_(last) {}

  void Add(PartialPool& pool, StripeNode node, PartialMemory partial);
  // Precondition: the node is there.
  PartialMemory Remove(const StripeNode& node);
  // Precondition: everything was added.
  PartialMemory RemoveRoot();

 private:
  struct Kept {
    StripeNode node;
    PartialMemory partial;
  };
  int64_t rows_;
  int64_t last_;
  std::map<int64_t, Kept> kept_;  // by the node's first stripe
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_PARTIALS_H_
