// Which rows of a batch begin with the same memory: prompts that begin alike, branches of one
// sequence. Pure host code; what it finds is PlanDecode's to use.
//
// One level: a row is in one group at most. Where prefixes nest (16 rows share a system prompt, 8
// of them a document behind it) the groups are those that save most: of every set of rows that
// share a prefix either all are a group, or those of its subsets that save more are, and the rows
// left over, which share the shorter prefix, may be another.
#ifndef REPRISE_KERNELS_CUDA_DECODE_SHARE_H_
#define REPRISE_KERNELS_CUDA_DECODE_SHARE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/decode_plan.h"

namespace reprise::cuda {

// As DecodeArgs has them.
struct DecodeTables {
  std::span<const int32_t> pages;  // [rows, stride]
  int64_t stride = 0;
  std::span<const int32_t> keys;  // [rows]
};

// Groups by their first row, rows ascending; none where sharing saves less than it costs, or less
// than a leaf for each worker. The same batch gives the same groups.
std::vector<DecodeGroup> FindShared(const DecodeTables& tables, int kv_heads, int workers,
                                    const DecodeSharing& with);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DECODE_SHARE_H_
