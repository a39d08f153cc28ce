// RMSNorm on the device. Owner: the caller owns all memory, device pointers throughout. Threads:
// any; work is queued on the stream.
#ifndef REPRISE_KERNELS_CUDA_RMS_NORM_H_
#define REPRISE_KERNELS_CUDA_RMS_NORM_H_

#include <cstdint>

#include "kernels/cuda/device/runtime.h"

namespace reprise::cuda {

struct RmsNormArgs {
  const void* x = nullptr;        // [rows, cols], f32 or bf16
  const float* weight = nullptr;  // [cols]
  void* y = nullptr;              // [rows, cols]; of x's type may be x
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t x_stride = 0;  // elements
  int64_t y_stride = 0;
  float eps = 0;
  bool x_bf16 = false;
  bool y_bf16 = false;
};

// y = (x / sqrt(mean(x^2) + eps)) * weight in f32, in the canonical order of kernels/ops.h: f32
// results have the CPU's bits. Returns a cudaError_t; 0 means queued.
int RmsNorm(const RmsNormArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_RMS_NORM_H_
