// Sums of row-parallel layers whose bits do not depend on the number of ranks. Such a layer cuts k
// into kSlices slices, each reduced alone, joined ((0+1)+(2+3))+((4+5)+(6+7)) (kernels/ops.h,
// LinearArgs::k_slices). Rank r of P holds consecutive slices and joins what of the tree lies whole
// within them; the subtrees it is left with travel apart and are added in the tree's order.
// Stateless; a call is a call of the communicator.
#ifndef REPRISE_WORKER_PARALLEL_CANONICAL_SUM_H_
#define REPRISE_WORKER_PARALLEL_CANONICAL_SUM_H_

#include <span>
#include <vector>

#include "kernels/ops.h"
#include "worker/parallel/communicator.h"

namespace reprise::parallel {

inline constexpr int kSlices = kernels::kRowParallelSlices;

// Slices [first, first + width).
struct SliceRange {
  int first = 0;
  int width = 0;
  bool operator==(const SliceRange&) const = default;
};

// Those of rank r of P in [1, kSlices]: [8 r / P, 8 (r+1) / P).
SliceRange SlicesOf(int rank, int size);

// The fewest aligned subtrees (width a power of two that divides first) that make up the range, in
// order: one for P a power of two, at most two otherwise.
std::vector<SliceRange> SubtreesOf(SliceRange range);

// partials [SubtreesOf(SlicesOf(rank, size)).size()][n]: the sums of this rank's subtrees,
// overwritten. sum [n]: the whole tree's, equal bits on all ranks and for every P. INVALID_ARGUMENT
// for more than kSlices ranks. Rank r sends, in elements, with t(r) subtrees and chunk c(r) =
// ChunkOf(n, r, P): P in {1, 2, 4, 8}: as AllReduce, under all_reduce. Otherwise t(r) (n - c(r))
// under all_to_all and (P-1) c(r) under all_gather.
Status CanonicalSum(Communicator& communicator, std::span<float> partials, std::span<float> sum,
                    TimeNs deadline_ns);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CANONICAL_SUM_H_
