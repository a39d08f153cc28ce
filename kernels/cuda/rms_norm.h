// RMSNorm on a GPU, plain C so that host code needs no CUDA header.
// Owner: the caller owns all memory, device pointers throughout. Threads: any; work is queued on
// the stream.
#ifndef REPRISE_KERNELS_CUDA_RMS_NORM_H_
#define REPRISE_KERNELS_CUDA_RMS_NORM_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct RepriseCudaRmsNorm {
  const void* x;        // [rows, cols], f32 or bf16
  const float* weight;  // [cols]
  void* y;              // [rows, cols], type of x; may be x
  int64_t rows;
  int64_t cols;
  int64_t x_stride;  // elements
  int64_t y_stride;
  float eps;
  int is_bf16;
} RepriseCudaRmsNorm;

// y = (x / sqrt(mean(x^2) + eps)) * weight in f32, in the canonical order of kernels/ops.h: f32
// results have the CPU's bits wherever no denormal occurs. Returns a cudaError_t; 0 means queued.
// `stream` is a cudaStream_t, null for the default stream.
int reprise_cuda_rms_norm(const RepriseCudaRmsNorm* args, void* stream);

#ifdef __cplusplus
}
#endif

#endif  // REPRISE_KERNELS_CUDA_RMS_NORM_H_
