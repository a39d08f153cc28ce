// Which rank of a context-parallel group keeps, and computes, which positions of a sequence. A
// sequence is cut into stripes of whole canonical leaves (kernels::kLeafTokens positions); stripe i
// belongs to rank zigzag(i mod 2P), zigzag(j) = j for j < P, else 2P - 1 - j. A value; any thread.
//
// Invariants:
// 1. The owner of a position depends on the position, P and the stripe's size alone: chunks, prefix
//    hits and generated tokens find their rows where they have always been.
// 2. A stripe is an aligned subtree of the tree over leaves (its leaves are a power of two), so
//    what a rank computes over one is a node of the tree that attention merges by (kernels/ops.h).
// 3. In every 2P stripes each rank has two whose sum is the same: causal work is balanced.
// 4. Stripes of a rank that follow each other in the sequence follow each other in its cache.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_STRIPES_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_STRIPES_H_

#include <cstdint>
#include <vector>

#include "common/status.h"

namespace reprise::parallel {

// Positions [begin, end).
struct PositionRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const PositionRange&) const = default;
};

class Stripes {
 public:
  // INVALID_ARGUMENT unless ranks >= 1 and leaves is a power of two.
  static StatusOr<Stripes> Make(int ranks, int64_t leaves);

  int ranks() const { return ranks_; }
  int64_t tokens() const { return tokens_; }  // positions of a stripe
  // A round is 2P consecutive stripes, two of each rank.
  int64_t per_round() const { return 2 * int64_t{ranks_}; }

  int64_t StripeOf(int64_t position) const { return position / tokens_; }
  // Stripes that positions [0, end) touch.
  int64_t CountOf(int64_t end) const { return (end + tokens_ - 1) / tokens_; }
  int OwnerOf(int64_t stripe) const;
  int OwnerOfPosition(int64_t position) const { return OwnerOf(StripeOf(position)); }
  // The rank's stripes of a round, ascending: first is 0 or 1.
  int64_t StripeIn(int64_t round, int rank, int which) const;

  // Where the owner keeps the position: row 0 is the first of its first stripe.
  int64_t LocalRow(int64_t position) const;
  // Rows that the rank's cache holds of positions [0, end).
  int64_t RowsKept(int rank, int64_t end) const;
  // The rank's positions among [begin, end), ascending, neighbours joined.
  std::vector<PositionRange> OwnedIn(int rank, PositionRange range) const;

 private:
  Stripes(int ranks, int64_t tokens) : ranks_(ranks), tokens_(tokens) {}
  int ranks_;
  int64_t tokens_;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_STRIPES_H_
