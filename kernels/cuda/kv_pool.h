// One layer of the paged KV pool on the device, as attention kernels read it: the layout of
// kernels/ops.h (PagedKv) in bf16, with pages of 64 rows. A segment has two parts, each
// [kv_heads][64][elements]: keys and values, or latents and rotated keys. In fp8 it has one part,
// [64] rows of kernels/fp8_row.h.
//
// Owner: who made the pool; maps and views are values.
#ifndef REPRISE_KERNELS_CUDA_KV_POOL_H_
#define REPRISE_KERNELS_CUDA_KV_POOL_H_

#include <cstdint>

#include "kernels/cuda/device/tensor_map.h"
#include "kernels/fp8_row.h"

namespace reprise::cuda {

inline constexpr int kPageRows = 64;

struct KvPool {
  void* layer_base = nullptr;  // of page 0; aligned to 128
  int64_t pages = 0;
  int64_t page_stride_bytes = 0;
  int kv_heads = 1;
  int first_dim = 0;   // key dim, or latent rank
  int second_dim = 0;  // value dim, or rotated dim
  bool fp8 = false;    // latents; FitsFp8 holds

  bool FitsFp8() const {
    return kv_heads == 1 && first_dim == kernels::kFp8LatentDim &&
           second_dim == kernels::kFp8RotatedDim;
  }
  int64_t FirstBytes() const { return int64_t{2} * kv_heads * kPageRows * first_dim; }
  int64_t SegmentBytes() const {
    if (fp8) return int64_t{kPageRows} * kernels::kFp8RowBytes;
    return int64_t{2} * kv_heads * kPageRows * (first_dim + second_dim);
  }
};

// Tiles of 64 rows and `cols` elements (64: swizzled by 128 bytes), at coordinates (element, 64 *
// head + row, page).
struct KvMaps {
  TensorMap first;
  TensorMap second;
};

// Of a pool in bf16.
inline int MakeKvMap(const KvPool& pool, bool second, TensorMap* map) {
  const int dim = second ? pool.second_dim : pool.first_dim;
  const auto* base = static_cast<const uint8_t*>(pool.layer_base);
  TensorSpec spec;
  spec.base = base + (second ? pool.FirstBytes() : 0);
  spec.rank = 3;
  spec.dims[0] = static_cast<uint64_t>(dim);
  spec.dims[1] = static_cast<uint64_t>(pool.kv_heads) * kPageRows;
  spec.dims[2] = static_cast<uint64_t>(pool.pages);
  spec.stride_bytes[1] = static_cast<uint64_t>(dim) * 2;
  spec.stride_bytes[2] = static_cast<uint64_t>(pool.page_stride_bytes);
  spec.box[0] = 64;
  spec.box[1] = kPageRows;
  spec.box[2] = 1;
  spec.swizzle_bytes = 128;
  return MakeTensorMap(spec, map);
}
inline int MakeKvMaps(const KvPool& pool, KvMaps* maps) {
  const int e = MakeKvMap(pool, false, &maps->first);
  return e != 0 ? e : MakeKvMap(pool, true, &maps->second);
}

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_KV_POOL_H_
