// Random bf16 values in [-1, 1) on the device.
#ifndef REPRISE_BENCH_GPU_FILL_H_
#define REPRISE_BENCH_GPU_FILL_H_

#include <cstdint>

#include "kernels/cuda/device/runtime.h"

namespace reprise::bench::gpu {

// 0 or a cudaError_t.
int FillRandom(uint16_t* to, int64_t count, uint64_t seed, cuda::Stream stream);

}  // namespace reprise::bench::gpu

#endif  // REPRISE_BENCH_GPU_FILL_H_
