// How the attention kernel cuts up the scratch memory a caller gives it, the same on every
// instruction set. Owner: one task for its duration. Threads: each thread has its own share.
#ifndef REPRISE_KERNELS_CPU_ATTENTION_LAYOUT_H_
#define REPRISE_KERNELS_CPU_ATTENTION_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "kernels/ops.h"

namespace reprise::kernels {

// Queries (row x head) of a tile.
inline constexpr int64_t kQueries = 24;

struct TileMemory {
  // `padded` is head_dim rounded up to 16. Constant size up to the stack of partial results, which
  // takes the rest of the share. Inlined wherever used: see half.h.
  __attribute__((always_inline)) TileMemory(std::byte* memory, int64_t padded)
      : partial(kQueries * padded + Aligned(kQueries)) {
    k_rows = reinterpret_cast<const float**>(memory);
    v_rows = k_rows + kBlockKeys;
    auto* f = reinterpret_cast<float*>(v_rows + kBlockKeys);
    const auto take = [&f](int64_t n) {
      float* p = f;
      f += n;
      return p;
    };
    q = take(kQueries * padded);
    k = take(kBlockKeys * padded);
    v = take(kBlockKeys * padded);
    p = take(kQueries * kBlockKeys);
    leaf = take(kQueries * padded);
    max = take(Aligned(kQueries));
    sum = take(Aligned(kQueries));
    total = take(partial);
    next = take(partial);
    levels = f;
  }
  static constexpr int64_t Aligned(int64_t n) { return (n + 15) / 16 * 16; }
  // Bytes of a share whose stack has `depth` levels.
  static constexpr int64_t Bytes(int64_t padded, int64_t depth) {
    const int64_t partial = kQueries * padded + Aligned(kQueries);
    const int64_t floats = 2 * kQueries * padded + 2 * kBlockKeys * padded + kQueries * kBlockKeys +
                           2 * Aligned(kQueries) + (2 + depth) * partial;
    return 2 * kBlockKeys * static_cast<int64_t>(sizeof(float*)) + floats * 4;
  }
  float* Level(int level) const { return levels + level * partial; }

  int64_t partial;       // floats of one partial result: out [kQueries][padded], lse [kQueries]
  const float** k_rows;  // [64], the block's keys
  const float** v_rows;
  float* q;     // [kQueries][padded]
  float* k;     // [64][padded], keys widened to f32
  float* v;     // [64][padded]
  float* p;     // [kQueries][64], scores, then probabilities; slot = position mod 64
  float* leaf;  // [kQueries][padded], unnormalised
  float* max;   // [kQueries]
  float* sum;
  float* total;  // partial results: all segments so far, the current segment, the stack
  float* next;
  float* levels;
};

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_CPU_ATTENTION_LAYOUT_H_
