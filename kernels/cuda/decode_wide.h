// Decoding latents (512 + 64) for many query heads, more than decode.h' transposed kernel takes:
// the heads are the rows of a product, 64 in a block. Bound by the tensor cores. Arguments, plan
// and step form are decode.h'; Decode calls this where it serves.
//
// A node holds its log-sum-exps, too: DecodePlanView::node_lse2 is not read.
#ifndef REPRISE_KERNELS_CUDA_DECODE_WIDE_H_
#define REPRISE_KERNELS_CUDA_DECODE_WIDE_H_

#include "kernels/cuda/decode.h"

namespace reprise::cuda {

inline constexpr int kDecodeWideMax = 128;  // query heads

bool DecodeWideServes(const DecodeArgs& args);
// As their namesakes in decode.h; preconditions: DecodeWideServes.
int DecodeWideWorkers(const DecodeArgs& args, int processors);
size_t DecodeWideNodeFloats(const DecodeArgs& args);

// 0 or a cudaError_t.
int DecodeWide(const DecodeArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DECODE_WIDE_H_
