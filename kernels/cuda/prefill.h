// Attention of prompt rows on Hopper: causal or full, of any lengths, over the paged pool, in the
// prompt form of numerics.h. What a row gets is the same bits in whatever batch, chunk or tile it
// stands.
//
// PlanPrefill is pure host code; its tiles and the runs go to the device, Prefill queues the
// kernel. Scratch is the kernel's alone while it runs; what it holds is lost.
#ifndef REPRISE_KERNELS_CUDA_PREFILL_H_
#define REPRISE_KERNELS_CUDA_PREFILL_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/device/runtime.h"
#include "kernels/cuda/kv_pool.h"

namespace reprise::cuda {

// Consecutive query rows of one sequence and a part of the keys they may see, of which row i of the
// page table stands at position key_position + i.
struct PrefillRun {
  int32_t first_row = 0;  // in q, out and lse
  int32_t rows = 0;
  int32_t first_position = 0;  // the first row's
  int32_t key_position = 0;    // a multiple of kPromptBlock
  int32_t key_rows = 0;
  int32_t first_page = 0;  // in PrefillArgs::page_tables: ceil(key_rows / kPageRows) pages
  int32_t causal = 1;      // a row sees keys at positions <= its own; 0: all
};

// 128 rows of a run, fewer at its end.
struct PrefillTile {
  int32_t run = 0;
  int32_t first_row = 0;  // in the run
};

struct PrefillPlan {
  std::vector<PrefillTile> tiles;  // those with most keys first
  int leaves_max = 0;              // that a tile sees
  int rows_max = 0;                // of a run
};
// 0, or kErrorInvalidValue: a negative length or position, or keys that begin within a block.
int PlanPrefill(std::span<const PrefillRun> runs, PrefillPlan* plan);

struct PrefillArgs {
  KvPool pool;              // kHeads: (key, value) dims (64, 64), (128, 128) or (192, 128)
  const void* q = nullptr;  // bf16 [q_rows, q_heads * key dim], aligned to 16 bytes
  void* out = nullptr;      // bf16 or f32 [q_rows, q_heads * value dim], aligned to 16 bytes
  float* lse = nullptr;     // [q_rows, q_heads], natural logarithm; or null
  float* lse2 = nullptr;    // the same in base 2, for MergeParts; or null
  int64_t q_rows = 0;
  int64_t q_stride = 0;  // elements, a multiple of 8
  int64_t out_stride = 0;
  int q_heads = 0;  // a multiple of pool.kv_heads
  float scale = 0;  // > 0
  bool out_bf16 = false;
  bool ping_pong = true;  // the two halves of a tile take turns at the tensor cores
  // On the device, as planned.
  const PrefillRun* runs = nullptr;
  int64_t run_count = 0;
  const PrefillTile* tiles = nullptr;
  int64_t tile_count = 0;
  int leaves_max = 0;
  int rows_max = 0;
  const int32_t* page_tables = nullptr;
  int processors = 0;  // blocks to launch at most: the card's SMs
  void* scratch = nullptr;
  int64_t scratch_bytes = 0;
};

int64_t PrefillScratchBytes(const PrefillPlan& plan, int value_dim, int processors);

// Rows of q that no run names are left alone. 0 or a cudaError_t; kErrorInvalidValue for what the
// comments above exclude.
int Prefill(const PrefillArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_PREFILL_H_
