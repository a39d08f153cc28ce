// What the threads of a decoding warpgroup hold of scores and results, and where it lies in shared
// memory. Scores are transposed, S^T = K Q^T with 64 keys on the rows of a product and the query
// heads on its columns, so that few heads do not waste the tensor cores: O^T = V^T P^T likewise. A
// thread has the same columns, query heads, in both.
#ifndef REPRISE_KERNELS_CUDA_DECODE_TILE_H_
#define REPRISE_KERNELS_CUDA_DECODE_TILE_H_

#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/numerics.h"

namespace reprise::cuda {

// kN query heads (8, 16 or 32); kTileStages tiles of 64 keys in shared memory.
template <int kN_, int kFirst, int kSecond, bool kLatent_, int kStages_>
struct DecodeShape {
  static constexpr int kN = kN_;
  static constexpr bool kLatent = kLatent_;
  static constexpr int kStages = kStages_;
  static constexpr int kFirstChunks = kFirst / 64;
  static constexpr int kSecondChunks = kSecond / 64;
  static constexpr int kChunks = kFirstChunks + kSecondChunks;
  static constexpr int kKeyChunks = kLatent ? kChunks : kFirstChunks;
  static constexpr int kValueChunks = kLatent ? kFirstChunks : kSecondChunks;
  static constexpr int kKeyDim = 64 * kKeyChunks;
  static constexpr int kValueDim = 64 * kValueChunks;
  static constexpr int kFirstValue = kLatent ? 0 : kFirstChunks;  // chunk

  // ---- shared memory; a chunk is 64 keys of 64 elements, swizzled ----
  static constexpr int kChunkBytes = 8192;
  static constexpr int kTileBytes = kChunks * kChunkBytes;
  static constexpr int kQueryChunkBytes = kN * 128;
  static constexpr int kQuery = kStages * kTileBytes;
  static constexpr int kProbabilities = kQuery + kKeyChunks * kQueryChunkBytes;  // [kN][64]
  static constexpr int kStats = kProbabilities + kQueryChunkBytes;               // [4 warps][kN]
  static constexpr int kKeptMax = 33;
  static constexpr int kKeptLse = kStats + 4 * kN * 4;             // [kKeptMax][kN]
  static constexpr int kKeptNodes = kKeptLse + kKeptMax * kN * 4;  // [kKeptMax] first leaf, level
  static constexpr int kBarriers = kKeptNodes + (kKeptMax + 1) / 2 * 2 * 8;
  static constexpr int kBytes = kBarriers + kStages * 8;

  // Of a node as threads keep it: [kValueChunks][kN / 8][128 threads][4].
  static constexpr int kNodeFloats = kValueDim * kN;
  static constexpr int kSlotFloats = kNodeFloats;
  static constexpr bool kShared = false;  // columns are of one row
  static constexpr bool kBeside = false;  // there is another shape in the kernel
};

// Two shapes in one kernel, over the same tiles in the same place: rows' own units and shared ones,
// whose nodes take several of the others' slots.
template <class Own, class Shared>
struct OwnBeside : Own {
  static constexpr int kBarriers = Shared::kBarriers;
  static constexpr bool kBeside = true;
};
template <class Own, class Shared>
struct SharedBeside : Shared {
  static constexpr int kSlotFloats = Own::kNodeFloats;
  static constexpr bool kShared = true;
  static constexpr bool kBeside = true;
  static_assert(Own::kStages == Shared::kStages && Own::kBytes <= Shared::kBytes);
};

// A thread's place: rows row and row + 8 of a product, columns 8 j + col and 8 j + col + 1.
struct FragmentPlace {
  REPRISE_DEVICE static FragmentPlace Of(uint32_t thread) {
    return {static_cast<int>(16 * (thread / 32) + thread % 32 / 4),
            static_cast<int>(2 * (thread % 4))};
  }
  int row;
  int col;
};

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DECODE_TILE_H_
