// Joins attention results of the same queries over disjoint keys, by the rule of numerics.h: on
// the device what MergeArgs (kernels/ops.h) is on the CPU.
#ifndef REPRISE_KERNELS_CUDA_MERGE_PARTIALS_H_
#define REPRISE_KERNELS_CUDA_MERGE_PARTIALS_H_

#include <cstdint>

#include "kernels/cuda/device/runtime.h"

namespace reprise::cuda {

// f32 [rows, heads * head_dim], densely, and log-sum-exps in base 2, [rows, heads].
struct DevicePartial {
  const float* out = nullptr;
  const float* lse2 = nullptr;
};

// `out` may be left's or right's own when it is f32, lse2 too.
struct MergePartialsArgs {
  DevicePartial left;
  DevicePartial right;
  void* out = nullptr;    // f32 or bf16, dense
  float* lse2 = nullptr;  // or null
  float* lse = nullptr;   // natural logarithm; or null
  int64_t rows = 0;
  int heads = 0;
  int head_dim = 0;  // a multiple of 32
  bool out_bf16 = false;
};

// 0 or a cudaError_t.
int MergePartials(const MergePartialsArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_MERGE_PARTIALS_H_
