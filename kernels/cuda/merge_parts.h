// Joins partial results of attention over disjoint keys on the device, by the rule of numerics.h
// (WeightsOf, Merged), in a list or a tree: what MergeArgs (kernels/ops.h) is on the CPU. Device
// pointers, owned by the caller. Threads: any; work is queued on the stream.
//
// Invariants:
// 1. The order of joins is the list's or the tree's alone, so a result has the same bits however
//    its parts were brought together: a tree of subtrees is the whole tree.
// 2. A part with lse2 -inf leaves the others' bits untouched; nothing but such gives out 0 or the
//    parts' own, and -inf.
#ifndef REPRISE_KERNELS_CUDA_MERGE_PARTS_H_
#define REPRISE_KERNELS_CUDA_MERGE_PARTS_H_

#include <cstdint>

#include "kernels/cuda/device/runtime.h"
#include "kernels/cuda/rows_view.h"

namespace reprise::cuda {

inline constexpr int kMergePartsMax = 64;

struct MergePart {
  const float* out = nullptr;   // [rows, heads * dim]
  const float* lse2 = nullptr;  // [rows, heads], base 2
};

struct MergePartsArgs {
  MergePart parts[kMergePartsMax];
  int count = 0;  // 1 to kMergePartsMax
  // A list joins first with second, the result with the third, ...; a tree is the binary one over
  // absolute indices, of which the parts have first_index, first_index + 1, ...; a node missing one
  // child is the other.
  bool tree = false;
  int64_t first_index = 0;
  int64_t rows = 0;
  int heads = 0;
  int dim = 0;
  int64_t out_stride = 0;  // of the parts, from row to row
  int64_t lse_stride = 0;  // of the parts and of lse2
  Rows out;                // may be a part's, of f32 and the same stride
  float* lse2 = nullptr;   // [rows, heads]; not a part's. Null: not wanted
};
int MergeParts(const MergePartsArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_MERGE_PARTS_H_
