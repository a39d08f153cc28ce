// Partial attention results of query rows, by node of the tree over stripes, kept until the node's
// other half is there. Owned by a call of ContextAttention; one thread.
//
// Invariants:
// 1. Halves are joined left with right, as the whole-sequence kernel joins them, whatever came
//    first: the result's bits depend on the nodes alone.
// 2. A result waits only while its other half is missing.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_PARTIALS_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_PARTIALS_H_

#include <cstddef>
#include <cstdint>
#include <map>

#include "common/status.h"
#include "worker/parallel/context/context_compute.h"
#include "worker/parallel/context/stripe_tree.h"

namespace reprise::parallel {

// Partial results of one shape, and how much of them is there at a time.
class PartialPool {
 public:
  // The compute outlives it.
  PartialPool(ContextCompute& compute, int64_t heads, int64_t value_dim)
      : compute_(compute), heads_(heads), value_dim_(value_dim) {}

  int64_t row_floats() const { return heads_ * (value_dim_ + 1); }
  size_t Bytes(int64_t rows) const {
    return static_cast<size_t>(rows * row_floats()) * sizeof(float);
  }

  // out, then lse: Bytes(rows) in one piece.
  StatusOr<Partial> Take(int64_t rows) { return Take(rows, ContextCompute::Use::kResults); }
  StatusOr<Partial> TakeForCopy(int64_t rows) { return Take(rows, ContextCompute::Use::kMoved); }
  void Give(const Partial& partial);
  // left = left joined with right.
  Status Merge(const Partial& left, const Partial& right) const {
    return compute_.Merge(left, right);
  }

  // Most that was taken and not given back at a time.
  int64_t peak_bytes() const { return peak_bytes_; }

 private:
  StatusOr<Partial> Take(int64_t rows, ContextCompute::Use use);

  ContextCompute& compute_;
  const int64_t heads_;
  const int64_t value_dim_;
  int64_t live_bytes_ = 0;
  int64_t peak_bytes_ = 0;
};

// Of query rows that see stripes 0 .. last.
class StripePartials {
 public:
  explicit StripePartials(int64_t last) : last_(last) {}

  Status Add(PartialPool& pool, StripeNode node, Partial partial);
  // Precondition: the node is there.
  Partial Remove(const StripeNode& node);
  // Precondition: everything was added.
  Partial RemoveRoot();

 private:
  struct Kept {
    StripeNode node;
    Partial partial;
  };
  int64_t last_;
  std::map<int64_t, Kept> kept_;  // by the node's first stripe
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_PARTIALS_H_
