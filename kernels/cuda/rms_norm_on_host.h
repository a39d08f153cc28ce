// Test support: RMSNorm on a GPU over host memory. Owner: tests. Threads: any.
#ifndef REPRISE_KERNELS_CUDA_RMS_NORM_ON_HOST_H_
#define REPRISE_KERNELS_CUDA_RMS_NORM_ON_HOST_H_

#include "kernels/cuda/rms_norm.h"

#ifdef __cplusplus
extern "C" {
#endif

// As reprise_cuda_rms_norm with host pointers and dense rows: copies there, runs, copies back.
// Returns the first error.
int reprise_cuda_rms_norm_on_host(const RepriseCudaRmsNorm* host);

#ifdef __cplusplus
}
#endif

#endif  // REPRISE_KERNELS_CUDA_RMS_NORM_ON_HOST_H_
