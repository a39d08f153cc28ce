// y = x W^T (+ bias) (+ residual): linear layers, one matrix or one a batch index (heads), or the
// experts of a mixture, each with its own rows of x. bf16 into f32.
//
// Every element of y is one sum over k, ascending, 16 at a time in the tensor cores, whatever the
// rows beside it and the tile it is computed in: no split of k. The tile follows from the number of
// rows and changes no bit.
//
// Owner: the caller owns all memory, device pointers unless said. Threads: any; queued on the
// stream. Compute capability 9.0.
#ifndef REPRISE_KERNELS_CUDA_GEMM_H_
#define REPRISE_KERNELS_CUDA_GEMM_H_

#include <cstdint>

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/runtime.h"
#include "kernels/cuda/device/tensor_map.h"

namespace reprise::cuda {

// [batch, rows, cols] of bf16, cols densely; strides are multiples of 8 elements.
struct GemmMatrix {
  const uint16_t* data = nullptr;  // aligned to 16 bytes
  int64_t batch = 1;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;    // elements
  int64_t batch_stride = 0;  // elements
};

// Element (batch b, row r, column c) lies at b batch_stride + Row(r) + Column(c), in elements.
struct GemmOutput {
  float* f32 = nullptr;  // one or both of these
  uint16_t* bf16 = nullptr;
  int64_t row_stride = 0;  // a multiple of 8
  int64_t batch_stride = 0;
  // Rows in groups (pages of a pool): r / row_group row_group_stride + r % row_group row_stride.
  int32_t row_group = 0;  // 0: one group
  int64_t row_group_stride = 0;
  // Columns in groups (heads): c / column_group column_group_stride + c % column_group.
  int32_t column_group = 0;  // 0: one group; a multiple of 8
  int64_t column_group_stride = 0;
  const float* bias = nullptr;      // [n]
  const float* residual = nullptr;  // as y lies, may be f32; batch 1 only

  REPRISE_HOST_DEVICE int64_t At(int64_t batch, int64_t row, int64_t column) const {
    int64_t at = batch * batch_stride;
    at += row_group == 0 ? row * row_stride
                         : row / row_group * row_group_stride + row % row_group * row_stride;
    return at + (column_group == 0
                     ? column
                     : column / column_group * column_group_stride + column % column_group);
  }
};

// Weights as the copy engine takes them, made once.
struct GemmWeights {
  TensorMap map;
  GemmMatrix matrix;
  int64_t batch = 0;  // experts, or heads
  int64_t n = 0;
  int64_t k = 0;
};
int MakeGemmWeights(const GemmMatrix& weights, GemmWeights* made);

// Rows first_row[e] ... first_row[e + 1] of x are expert e's.
struct GemmGroups {
  const int32_t* first_row = nullptr;  // [experts + 1], on the device
};

struct GemmArgs {
  const GemmWeights* weights = nullptr;  // host
  GemmMatrix x;                          // [batch, m, k]; of groups: batch 1, m all rows there are
  GemmOutput y;
  GemmGroups groups;  // first_row null: none; else weights are the experts'
};

// 0 or a cudaError_t; kErrorInvalidValue for shapes that do not fit together or are not aligned.
int Gemm(const GemmArgs& args, Stream stream);

// The same where Gemm cannot be used, on any card from compute capability 8.0 on: a thread an
// element, no tensor cores, only to be right. Another order of operations, so another numerics
// class.
int GemmSimple(const GemmArgs& args, Stream stream);

// What both demand of their arguments.
bool GemmFits(const GemmArgs& args);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_GEMM_H_
