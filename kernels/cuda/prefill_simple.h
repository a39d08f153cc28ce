// Attention of rows where Prefill cannot be used: on any card from compute capability 8.0 on, for
// any dims, and over latents too. A warp for each (row, head), no tensor cores: only to be right.
// The order of operations is that of numerics.h' prompt form, but sums within a block go in another
// order than Prefill's, so it is a numerics class of its own.
#ifndef REPRISE_KERNELS_CUDA_PREFILL_SIMPLE_H_
#define REPRISE_KERNELS_CUDA_PREFILL_SIMPLE_H_

#include "kernels/cuda/prefill.h"

namespace reprise::cuda {

// As Prefill, with only the runs of a plan: tiles, processors, scratch and ping_pong are not read.
// `latent`: the pool holds latents and rotated keys, key dim is the sum of both and the value is
// the latent. Value dim is at most 512; dims are multiples of 8.
int PrefillSimple(const PrefillArgs& args, bool latent, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_PREFILL_SIMPLE_H_
