// Sixteen threads share a row, thread i being lane i of the canonical 16-lane sum, so the bits are
// the CPU's. A row is one pass over memory for the sum and one from the cache for the result: the
// kernel is bound by memory for any model's width, and the chain of cols / 16 FMAs hides behind the
// other rows of the block.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/rms_norm.h"

namespace {

constexpr int kLanes = 16;
constexpr int kRowsPerBlock = 16;

__device__ float Widen(float x) { return x; }
__device__ float Widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void Narrow(float x, float* y) { *y = x; }
__device__ void Narrow(float x, __nv_bfloat16* y) { *y = __float2bfloat16_rn(x); }

template <class T>
__global__ void __launch_bounds__(kLanes* kRowsPerBlock) RmsNormKernel(RepriseCudaRmsNorm args) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.y;
  const bool active = row < args.rows;
  const T* x = static_cast<const T*>(args.x) + (active ? row : 0) * args.x_stride;
  const int lane = threadIdx.x;
  float sum = 0;
#pragma unroll 8
  for (int64_t k = lane; k < args.cols; k += kLanes) {
    const float v = Widen(x[k]);
    sum = __fmaf_rn(v, v, sum);
  }
  for (int step = kLanes / 2; step >= 1; step /= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(0xFFFFFFFFu, sum, step));
  }
  if (!active) return;
  const float mean = __fdiv_rn(sum, static_cast<float>(args.cols));
  const float scale = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, args.eps)));
  T* y = static_cast<T*>(args.y) + row * args.y_stride;
#pragma unroll 8
  for (int64_t k = lane; k < args.cols; k += kLanes) {
    Narrow(__fmul_rn(__fmul_rn(Widen(x[k]), scale), args.weight[k]), y + k);
  }
}

}  // namespace

extern "C" int reprise_cuda_rms_norm(const RepriseCudaRmsNorm* args, void* stream) {
  if (args->rows == 0) return cudaSuccess;
  const dim3 block(kLanes, kRowsPerBlock);
  const auto grid = static_cast<unsigned>((args->rows + kRowsPerBlock - 1) / kRowsPerBlock);
  auto* s = static_cast<cudaStream_t>(stream);
  if (args->is_bf16 != 0) {
    RmsNormKernel<__nv_bfloat16><<<grid, block, 0, s>>>(*args);
  } else {
    RmsNormKernel<float><<<grid, block, 0, s>>>(*args);
  }
  return cudaGetLastError();
}
