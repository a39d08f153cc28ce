// One row for all heads: rotated keys of latents into the expanded keys of every head. Device
// pointers, owned by the caller. Threads: any; queued on the stream.
#ifndef REPRISE_KERNELS_CUDA_SPREAD_ROWS_H_
#define REPRISE_KERNELS_CUDA_SPREAD_ROWS_H_

#include <cstdint>

#include "kernels/cuda/device/runtime.h"

namespace reprise::cuda {

// Row r, head h of y begins at r / kPageRows page_stride + h head_stride + r % kPageRows
// row_stride.
struct SpreadRowsArgs {
  const uint16_t* x = nullptr;  // bf16 [rows, dim], 16-byte aligned rows
  int64_t x_stride = 0;         // elements
  uint16_t* y = nullptr;
  int64_t page_stride = 0;
  int64_t head_stride = 0;
  int64_t row_stride = 0;
  int64_t rows = 0;
  int heads = 0;
  int dim = 0;  // a multiple of 8
};
// 0 or a cudaError_t.
int SpreadRows(const SpreadRowsArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_SPREAD_ROWS_H_
