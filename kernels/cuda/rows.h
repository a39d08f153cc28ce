// Element by element over rows on the device: embedding, sums, SwiGLU, conversion, taking rows by
// index. All pointers are device pointers, owned by the caller. Threads: any; work is queued on the
// stream. Every function returns a cudaError_t; 0 means queued.
//
// Invariants:
// 1. Arithmetic is f32 in the order of kernels/ops.h: f32 results have the CPU's bits, bf16 ones
//    are these, rounded once. A NaN is a NaN, with a payload of the device's own.
// 2. An output may be an input of the same type, unless said otherwise.
#ifndef REPRISE_KERNELS_CUDA_ROWS_H_
#define REPRISE_KERNELS_CUDA_ROWS_H_

#include <cstdint>

#include "kernels/cuda/device/runtime.h"
#include "kernels/cuda/rows_view.h"

namespace reprise::cuda {

// y row i = table row ids[i], and the same in `also`.
struct EmbedArgs {
  ConstRows table;
  const int32_t* ids = nullptr;  // [rows], each a row of the table
  Rows y;
  Rows also;  // data null: none
  int64_t rows = 0;
  int64_t cols = 0;
};
int Embed(const EmbedArgs& args, Stream stream);

// y = (x + bias) + residual.
struct AddRowsArgs {
  ConstRows x;
  const float* bias = nullptr;  // [cols] or null
  ConstRows residual;           // data null: none
  Rows y;
  int64_t rows = 0;
  int64_t cols = 0;
};
int AddRows(const AddRowsArgs& args, Stream stream);

// y = (gate / (1 + exp(-gate))) * up.
struct SwigluArgs {
  ConstRows gate;
  ConstRows up;
  Rows y;
  int64_t rows = 0;
  int64_t cols = 0;
};
int Swiglu(const SwigluArgs& args, Stream stream);

// y = x, in y's type. Not in place.
struct ConvertArgs {
  ConstRows x;
  Rows y;
  int64_t rows = 0;
  int64_t cols = 0;
};
int Convert(const ConvertArgs& args, Stream stream);

// y row to[i] = fma(weights[i], x row i, y row to[i]). y is f32.
struct AddScaledArgs {
  ConstRows x;
  const int32_t* to = nullptr;     // [rows], distinct
  const float* weights = nullptr;  // [rows]
  Rows y;
  int64_t rows = 0;
  int64_t cols = 0;
};
int AddScaled(const AddScaledArgs& args, Stream stream);

// y row to[i] = x row from[i], bytes as they are; columns are taken by where the pointers stand.
// Not in place.
struct CopyRowsArgs {
  const void* x = nullptr;
  int64_t x_stride_bytes = 0;
  void* y = nullptr;
  int64_t y_stride_bytes = 0;
  const int32_t* from = nullptr;  // null: i; negative: a row of zeros
  const int32_t* to = nullptr;    // null: i; negative: not stored; distinct otherwise
  int64_t rows = 0;
  int64_t row_bytes = 0;
};
int CopyRows(const CopyRowsArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_ROWS_H_
