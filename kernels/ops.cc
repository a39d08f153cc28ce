#include "kernels/ops.h"

#include "kernels/packed_weights.h"

namespace reprise::kernels {

int64_t LinearScratchBytes(int64_t m, const PackedWeights& weights) {
  return m * weights.k_padded() * SizeOf(weights.dtype());
}

int64_t SegmentBytes(const PagedKv& kv) {
  return 2 * kv.kv_heads * kv.block_tokens * kv.head_dim * SizeOf(kv.dtype);
}

}  // namespace reprise::kernels
