// Rows of elements in device memory as arguments of kernels name them. Values; they own nothing.
#ifndef REPRISE_KERNELS_CUDA_ROWS_VIEW_H_
#define REPRISE_KERNELS_CUDA_ROWS_VIEW_H_

#include <cstdint>

namespace reprise::cuda {

// Row r begins at data + r * stride elements, f32 or bf16. 16-byte aligned rows are fast, others
// right.
struct ConstRows {
  const void* data = nullptr;
  int64_t stride = 0;
  bool bf16 = false;
};
struct Rows {
  void* data = nullptr;
  int64_t stride = 0;
  bool bf16 = false;
};

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_ROWS_VIEW_H_
