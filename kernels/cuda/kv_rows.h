// From a projection to attention's operands on the device, in one kernel: RMSNorm of heads,
// rotation, queries as bf16, and rows of keys and values (or latents and rotated keys) into the
// paged pool; and reading such rows back. Device pointers throughout, owned by the caller. Threads:
// any; work is queued on the stream.
//
// A pool in fp8 (kv_pool.h) gets its latents as codes and scales, rounded once from f32, and gives
// back what the attention kernels see: code times scale, rounded to bf16.
//
// Invariants:
// 1. Arithmetic is f32 in the order of kernels/ops.h (rms_norm, rope_apply, write_kv), rounded to
//    bf16 once: the bits are the CPU's.
// 2. Two rows of a call have different slots.
#ifndef REPRISE_KERNELS_CUDA_KV_ROWS_H_
#define REPRISE_KERNELS_CUDA_KV_ROWS_H_

#include <cstdint>

#include "kernels/cuda/device/runtime.h"
#include "kernels/cuda/kv_pool.h"
#include "kernels/cuda/rows_view.h"

namespace reprise::cuda {

// Heads of a step's rows, [rows, heads, dim].
struct HeadRows {
  ConstRows x;
  int64_t head_stride = 0;  // elements
  int heads = 0;            // 0: none
  int dim = 0;
  const float* norm = nullptr;  // [dim], RMSNorm's weight; null: none
  bool rotate = false;          // the first 2 * half elements
};

struct QueryRows {
  HeadRows heads;
  void* out = nullptr;  // bf16
  int64_t out_stride = 0;
  int64_t out_head_stride = 0;
};

// Where a row of a step lies in the pool; page below 0: nowhere (padding), it is not stored.
struct KvSlot {
  int32_t page = 0;
  int32_t row = 0;  // below kPageRows
};

struct StoreRowsArgs {
  QueryRows queries[2];  // the second for queries in two pieces
  // As wide as the pool's parts.
  HeadRows first;
  HeadRows second;
  KvPool pool;
  const KvSlot* slots = nullptr;  // [rows]
  // cos and sin, [.., half]; row r of the step takes row angles[r] of them, null: r.
  const float* cos = nullptr;
  const float* sin = nullptr;
  const int32_t* angles = nullptr;
  int half = 0;
  float eps = 0;
  int64_t rows = 0;
};
// kErrorInvalidValue for heads that are not the pool's, and for a rotated first part in fp8.
int StoreRows(const StoreRowsArgs& args, Stream stream);

// The rows of slots, [rows, kv_heads * dim] each; data null: not wanted. A row without a page is
// left as it is.
struct ReadRowsArgs {
  KvPool pool;
  const KvSlot* slots = nullptr;
  Rows first;
  Rows second;
  int64_t rows = 0;
};
int ReadRows(const ReadRowsArgs& args, Stream stream);

// The same rows of a pool in fp8 as they lie there, [rows][kFp8RowBytes].
struct ReadFp8Args {
  KvPool pool;
  const KvSlot* slots = nullptr;
  uint8_t* out = nullptr;  // aligned to 16
  int64_t rows = 0;
};
int ReadFp8(const ReadFp8Args& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_KV_ROWS_H_
