// Inside of decode_wide.cu, included by it alone: what lies in a block's shared memory, which tiles
// a run has, and the warp that copies them.
//
// A tile is 64 keys in nine chunks of 64 columns. Chunks come one by one, so that scores begin with
// the first. They go in three parts, since three readers are done with them at different times:
// latents 0 to 255 (the values of the first warpgroup), latents 256 to 511 (of the second), and the
// rotated key, which is free first and therefore comes first. Even tiles lie in the first stage,
// odd ones in the second.
#ifndef REPRISE_KERNELS_CUDA_DECODE_WIDE_COPIER_H_
#define REPRISE_KERNELS_CUDA_DECODE_WIDE_COPIER_H_

#include "kernels/cuda/decode_wide.h"
#include "kernels/cuda/device/copy.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/numerics.h"

namespace reprise::cuda::wide {

inline constexpr int kRows = 64;  // query heads of a block
inline constexpr int kHalves = 2;
inline constexpr int kThreads = 128 * (1 + kHalves);
inline constexpr int kLatent = 512;
inline constexpr int kHalfLatent = kLatent / kHalves;
inline constexpr int kRotated = 64;
inline constexpr int kKeyDim = kLatent + kRotated;
inline constexpr int kTilesPerLeaf = kStepLeaf / kPageRows;
inline constexpr uint32_t kChunkBytes = 64 * 128;
inline constexpr uint32_t kChunks = kKeyDim / 64;
inline constexpr uint32_t kHalfChunks = kHalfLatent / 64;
inline constexpr uint32_t kTileBytes = kChunks * kChunkBytes;
inline constexpr uint32_t kStages = 2;
inline constexpr uint32_t kBarriers = kStages * (kChunks + 3) + 1;

// ---- shared memory ----

inline constexpr uint32_t kTilesAt = kTileBytes;  // after the queries, as large
inline constexpr uint32_t kWeightsAt = kTilesAt + kStages * kTileBytes;
inline constexpr uint32_t kKeepAt = kWeightsAt + kRows * 128;      // [kHalves][kRows] f32
inline constexpr uint32_t kTopAt = kKeepAt + kHalves * kRows * 4;  // [kHalves][kRows]
inline constexpr uint32_t kSumAt = kTopAt + kHalves * kRows * 4;   // [2][kHalves][kRows]
inline constexpr uint32_t kBarriersAt = kSumAt + 2 * kHalves * kRows * 4;
inline constexpr uint32_t kBytes = kBarriersAt + kBarriers * sizeof(Mbarrier);

enum Part : uint32_t { kFirst, kSecond, kThird, kParts };
inline constexpr uint32_t kRotatedChunk = kChunks - 1;

REPRISE_DEVICE uint8_t* Tile(uint32_t stage) { return Shared() + kTilesAt + stage * kTileBytes; }
REPRISE_DEVICE Mbarrier* Barrier(uint32_t i) {
  return reinterpret_cast<Mbarrier*>(Shared() + kBarriersAt) + i;
}
REPRISE_DEVICE Mbarrier* Full(uint32_t stage, uint32_t chunk) {
  return Barrier(stage * kChunks + chunk);
}
REPRISE_DEVICE Mbarrier* Empty(uint32_t stage, uint32_t part) {
  return Barrier(kStages * kChunks + stage * kParts + part);
}
REPRISE_DEVICE Mbarrier* Raw() { return Barrier(kBarriers - 1); }  // latents to be cleaned

REPRISE_DEVICE void InitBarriers() {
  for (uint32_t i = 0; i < kStages * kChunks; ++i) InitBarrier(Barrier(i), 1);
  // The warps of the part's last reader.
  for (uint32_t i = 0; i < kStages * kParts; ++i) InitBarrier(Empty(0, 0) + i, 4);
  InitBarrier(Raw(), 1);
  FenceInit();
}

// ---- tiles ----

// Of a run, [first, end) of the unit's.
struct Tiles {
  int32_t keys;  // of the unit
  int32_t first;
  int32_t end;
};
REPRISE_DEVICE Tiles TilesOf(const DecodeArgs& args, const DecodeRun& run) {
  const int32_t keys = args.keys[run.unit];
  const int32_t all = (keys + kPageRows - 1) / kPageRows;
  const int32_t end = run.end_leaf * kTilesPerLeaf;
  return {keys, run.first_leaf * kTilesPerLeaf, end < all ? end : all};
}

// ---- the warp that copies ----

struct Copier {
  const DecodeArgs& args;
  uint32_t used[kStages] = {};
  uint32_t raw_parity = 0;
  int32_t entry = 0;  // this lane's of 32 entries of the page table

  REPRISE_DEVICE int32_t Page(const DecodeRun& run, const Tiles& tiles, int32_t tile) {
    const int32_t place = (tile - tiles.first) % 32;
    if (place == 0) {
      const int32_t mine = tile + static_cast<int32_t>(Lane());
      entry = mine < tiles.end ? args.page_table[run.unit * args.page_table_stride + mine] : 0;
    }
    return static_cast<int32_t>(
        Shuffle(static_cast<uint32_t>(entry), static_cast<uint32_t>(place)));
  }

  // By one lane.
  REPRISE_DEVICE void LoadHalf(uint32_t stage, uint32_t half, bool clean, int32_t page) const {
    for (uint32_t i = 0; i < kHalfChunks; ++i) {
      const uint32_t chunk = half * kHalfChunks + i;
      if (!clean) ArriveExpecting(Full(stage, chunk), kChunkBytes);
      LoadTile(Tile(stage) + chunk * kChunkBytes, args.maps.first,
               clean ? Raw() : Full(stage, chunk), static_cast<int32_t>(chunk * 64), 0, page,
               Reuse::kOnce);
    }
  }

  // Rows that the page does not have may be NaN; as values they count zero times.
  REPRISE_DEVICE void Clean(uint32_t stage, int32_t rows) const {
    const int32_t words = (kPageRows - rows) * 8;
    for (uint32_t chunk = 0; chunk < kRotatedChunk; ++chunk) {
      uint8_t* from = Tile(stage) + chunk * kChunkBytes + rows * 128;
      for (auto i = static_cast<int32_t>(Lane()); i < words; i += 32) {
        Store16(from + i * 16, {{0, 0, 0, 0}});
      }
    }
  }

  REPRISE_DEVICE void Load(int32_t tile, int32_t keys, int32_t page) {
    const uint32_t stage = static_cast<uint32_t>(tile) % kStages;
    const uint32_t empty_parity = (used[stage] & 1) ^ 1;
    ++used[stage];
    const int32_t rows = keys - tile * kPageRows;
    const bool clean = rows < kPageRows;
    Wait(Empty(stage, kThird), empty_parity);
    if (Lane() == 0) {
      Mbarrier* full = Full(stage, kRotatedChunk);
      ArriveExpecting(full, kChunkBytes);
      LoadTile(Tile(stage) + kRotatedChunk * kChunkBytes, args.maps.second, full, 0, 0, page,
               Reuse::kOnce);
      if (clean) ArriveExpecting(Raw(), kRotatedChunk * kChunkBytes);
    }
    for (uint32_t half = 0; half < kHalves; ++half) {
      Wait(Empty(stage, half), empty_parity);
      if (Lane() == 0) LoadHalf(stage, half, clean, page);
    }
    if (!clean) return;
    Wait(Raw(), raw_parity);
    raw_parity ^= 1;
    Clean(stage, rows);
    FenceAsync();
    SyncWarp();
    if (Lane() < kRotatedChunk) Arrive(Full(stage, Lane()));
  }

  REPRISE_DEVICE void Run(const DecodeRun& run) {
    const Tiles tiles = TilesOf(args, run);
    for (int32_t tile = tiles.first; tile < tiles.end; ++tile) {
      Load(tile, tiles.keys, Page(run, tiles, tile));
    }
  }
};

}  // namespace reprise::cuda::wide

#endif  // REPRISE_KERNELS_CUDA_DECODE_WIDE_COPIER_H_
