// How the attention kernel cuts up the scratch memory a caller gives it, the same on every
// instruction set. Owner: one task for its duration. Threads: each thread has its own share.
#ifndef REPRISE_KERNELS_CPU_ATTENTION_LAYOUT_H_
#define REPRISE_KERNELS_CPU_ATTENTION_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "common/inline.h"
#include "kernels/ops.h"

namespace reprise::kernels {

// Queries (row x head) of a tile.
inline constexpr int64_t kQueries = 24;
// Row of p: score tiles store 16 at a time from any slot, so up to 15 reach past the block.
inline constexpr int64_t kScoreStride = kBlockKeys + 16;

// Parts that the keys of a tile are cut into where there are fewer tiles than threads could use.
inline constexpr int64_t kCutsMax = 16;
// From so many tiles a thread on, nothing is cut.
inline constexpr int64_t kTilesPerThread = 2;

// Elements of keys and values, rounded up to 16.
struct TileDims {
  REPRISE_INLINE explicit TileDims(const PagedKv& kv)
      : key((kv.key_dim + 15) / 16 * 16), value((kv.value_dim + 15) / 16 * 16) {}
  // Floats of one partial result: out [kQueries][value], lse [kQueries].
  REPRISE_INLINE int64_t Partial() const { return kQueries * value + (kQueries + 15) / 16 * 16; }
  int64_t key, value;
};

// Partial results of all cuts of all tiles of a call, before the threads' shares.
REPRISE_INLINE int64_t CutBytes(int64_t threads, TileDims dims) {
  return kTilesPerThread * threads * kCutsMax * dims.Partial() * 4;
}

struct TileMemory {
  // Constant size up to the stack of partial results, which takes the rest of the share.
  REPRISE_INLINE TileMemory(std::byte* memory, TileDims dims) : partial(dims.Partial()) {
    rows = reinterpret_cast<const std::byte**>(memory);
    auto* f = reinterpret_cast<float*>(rows + kBlockKeys);
    const auto take = [&f](int64_t n) {
      float* p = f;
      f += n;
      return p;
    };
    q = take(kQueries * dims.key);
    wide = take(kBlockKeys * Wider(dims));
    p = take(kQueries * kScoreStride);
    leaf = take(kQueries * dims.value);
    max = take(Aligned(kQueries));
    sum = take(Aligned(kQueries));
    total = take(partial);
    next = take(partial);
    levels = f;
  }
  REPRISE_INLINE static constexpr int64_t Aligned(int64_t n) { return (n + 15) / 16 * 16; }
  // Bytes of a share whose stack has `depth` levels.
  static int64_t Bytes(TileDims dims, int64_t depth) {
    const int64_t floats = kQueries * (dims.key + dims.value) + kBlockKeys * Wider(dims) +
                           kQueries * kScoreStride + 2 * Aligned(kQueries) +
                           (2 + depth) * dims.Partial();
    return (kBlockKeys * static_cast<int64_t>(sizeof(std::byte*)) + floats * 4 + 63) / 64 * 64;
  }
  REPRISE_INLINE static int64_t Wider(TileDims dims) {
    return dims.key > dims.value ? dims.key : dims.value;
  }
  REPRISE_INLINE float* Level(int level) const { return levels + level * partial; }

  int64_t partial;         // floats of one partial result
  const std::byte** rows;  // [64], the block's keys, then its values
  float* q;                // [kQueries][key]
  float* wide;             // [64][key or value], those rows widened to f32
  float* p;     // [kQueries][kScoreStride], scores, then probabilities; slot = position mod 64
  float* leaf;  // [kQueries][value], unnormalised
  float* max;   // [kQueries]
  float* sum;
  float* total;  // partial results: all segments so far, the current segment, the stack
  float* next;
  float* levels;
};

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_CPU_ATTENTION_LAYOUT_H_
