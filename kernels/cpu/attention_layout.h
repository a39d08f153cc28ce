// How the attention kernel cuts up the scratch memory a caller gives it, the same on every
// instruction set. Owner: one task for its duration. Threads: each thread has its own share.
#ifndef REPRISE_KERNELS_CPU_ATTENTION_LAYOUT_H_
#define REPRISE_KERNELS_CPU_ATTENTION_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "kernels/inline.h"
#include "kernels/ops.h"

namespace reprise::kernels {

// Queries (row x head) of a tile.
inline constexpr int64_t kQueries = 24;
// Row of p: score tiles store 16 at a time from any slot, so up to 15 reach past the block.
inline constexpr int64_t kScoreStride = kBlockKeys + 16;

struct TileMemory {
  // `padded` is head_dim rounded up to 16. Constant size up to the stack of partial results, which
  // takes the rest of the share.
  REPRISE_INLINE TileMemory(std::byte* memory, int64_t padded)
      : partial(kQueries * padded + Aligned(kQueries)) {
    rows = reinterpret_cast<const std::byte**>(memory);
    auto* f = reinterpret_cast<float*>(rows + kBlockKeys);
    const auto take = [&f](int64_t n) {
      float* p = f;
      f += n;
      return p;
    };
    q = take(kQueries * padded);
    wide = take(kBlockKeys * padded);
    p = take(kQueries * kScoreStride);
    leaf = take(kQueries * padded);
    max = take(Aligned(kQueries));
    sum = take(Aligned(kQueries));
    total = take(partial);
    next = take(partial);
    levels = f;
  }
  REPRISE_INLINE static constexpr int64_t Aligned(int64_t n) { return (n + 15) / 16 * 16; }
  // Bytes of a share whose stack has `depth` levels.
  static constexpr int64_t Bytes(int64_t padded, int64_t depth) {
    const int64_t partial = kQueries * padded + Aligned(kQueries);
    const int64_t floats = 2 * kQueries * padded + kBlockKeys * padded + kQueries * kScoreStride +
                           2 * Aligned(kQueries) + (2 + depth) * partial;
    return kBlockKeys * static_cast<int64_t>(sizeof(std::byte*)) + floats * 4;
  }
  REPRISE_INLINE float* Level(int level) const { return levels + level * partial; }

  int64_t partial;         // floats of one partial result: out [kQueries][padded], lse [kQueries]
  const std::byte** rows;  // [64], the block's keys, then its values
  float* q;                // [kQueries][padded]
  float* wide;             // [64][padded], those rows widened to f32
  float* p;     // [kQueries][kScoreStride], scores, then probabilities; slot = position mod 64
  float* leaf;  // [kQueries][padded], unnormalised
  float* max;   // [kQueries]
  float* sum;
  float* total;  // partial results: all segments so far, the current segment, the stack
  float* next;
  float* levels;
};

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_CPU_ATTENTION_LAYOUT_H_
