#include "kernels/ops.h"

#include "kernels/packed_weights.h"

namespace reprise::kernels {

int64_t LinearScratchBytes(int64_t m, const PackedWeights& weights) {
  return m * weights.k_padded() * SizeOf(weights.dtype());
}

int64_t SegmentBytes(const PagedKv& kv) {
  return kv.kv_heads * kv.block_tokens * (FirstPartDim(kv) + SecondPartDim(kv)) * SizeOf(kv.dtype);
}

}  // namespace reprise::kernels
