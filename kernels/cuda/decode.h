// Attention of single query rows over the paged cache (step form, numerics.h): of latents in
// absorbed form (MLA) and of grouped heads (GQA, MQA). At most 32 query heads a key head: bound by
// memory, every key is read once for all queries of a row that share it, and for those of several
// rows where the plan says so (decode_plan.h). Latents with more heads, up to 128:
// decode_wide.h. Latents may be in fp8 for at most 32 heads (decode_fp8.h).
//
// Owner: the caller owns all memory, device pointers unless said. Threads: any; queued on the
// stream. Compute capability 9.0.
#ifndef REPRISE_KERNELS_CUDA_DECODE_H_
#define REPRISE_KERNELS_CUDA_DECODE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/decode_plan.h"
#include "kernels/cuda/device/runtime.h"
#include "kernels/cuda/kv_pool.h"

namespace reprise::cuda {

inline constexpr int kDecodeGroupMax = 32;

// A DecodePlan on the device.
struct DecodePlanView {
  const DecodeRun* runs = nullptr;
  const int32_t* run_begin = nullptr;
  int workers = 0;
  const DecodeJoin* joins = nullptr;
  int join_count = 0;
  const int32_t* nodes = nullptr;
  const DecodeMerge* merges = nullptr;
  const int32_t* round_begin = nullptr;
  int nodes_max = 0;
  float* node_out = nullptr;   // [slots, DecodeNodeFloats]
  float* node_lse2 = nullptr;  // [slots, kDecodeGroupMax]; not for more heads than that
  // The plan may have shared units, whose rows these are.
  bool shared = false;
  const int32_t* rows = nullptr;
  // Where it is the device that knows how many joins there are; join_count is the most there may
  // be.
  const int32_t* joins_there = nullptr;
};

// A row that sees keys of a node of the tree only: where its query is, and where the node goes.
struct DecodePart {
  int32_t q_row = 0;
  float* out = nullptr;   // [q_heads, value dim]; no key: 0
  float* lse2 = nullptr;  // [q_heads], base 2; no key: -inf
};

struct DecodeArgs {
  KvMaps maps;
  // kHeads: keys of first_dim, values of second_dim. Latent: keys of first_dim + second_dim, values
  // the first of them.
  bool latent = false;
  int first_dim = 0;
  int second_dim = 0;
  int q_heads = 0;
  int kv_heads = 1;                     // latent: 1
  const uint16_t* q = nullptr;          // bf16 [rows, q_heads, key dim]
  int64_t q_row_stride = 0;             // elements
  const int32_t* page_table = nullptr;  // [rows, page_table_stride]: page of rows 64 i ...
  int64_t page_table_stride = 0;
  const int32_t* keys = nullptr;  // [rows]: visible keys, positions 0 ... keys - 1
  float scale = 0;                // > 0
  DecodePlanView plan;            // of these keys and kv_heads
  uint16_t* out = nullptr;        // bf16 [rows, q_heads, value dim]; no key: 0
  int64_t out_row_stride = 0;     // elements
  float* lse = nullptr;           // [rows, q_heads] natural log, or null; no key: -inf
  // [rows], in place of row r of q, out and lse; page tables, keys and plan are the nodes', whose
  // first key is leaf 0's. Null: rows see all their keys.
  const DecodePart* parts = nullptr;
  // Latents in rows of kernels/fp8_row.h instead of the maps': page 0's, aligned to 16.
  bool fp8 = false;
  const void* fp8_rows = nullptr;
  int64_t fp8_page_stride_bytes = 0;

  int value_dim() const { return latent ? first_dim : second_dim; }
};

// Whether there is a kernel for these dims and heads.
bool DecodeServes(const DecodeArgs& args);
// Workers that fill a card for these dims: for PlanDecode.
int DecodeWorkers(const DecodeArgs& args, int processors);
// Of a node of one row; a shared unit's takes several slots.
size_t DecodeNodeFloats(const DecodeArgs& args);
// What of a plan can be shared: for PlanDecode. Grouped heads, up to 16 a key head.
DecodeSharing DecodeSharingOf(const DecodeArgs& args);

// 0 or a cudaError_t; kErrorInvalidValue where DecodeServes is false, or for a shared plan where
// DecodeSharingOf has none.
int Decode(const DecodeArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DECODE_H_
