// Inside of the prefill kernel (prefill.cu): what lies in a block's shared memory, what a block
// works on, and the warp that copies. Included by prefill.cu alone.
//
// Keys that are not there: a page beyond the table is asked for at a place beyond the pool, where
// the copy engine writes zeros; rows of values beyond the last key are overwritten with zeros by
// this warp, since a weight of zero times NaN would be NaN.
#ifndef REPRISE_KERNELS_CUDA_PREFILL_COPIER_H_
#define REPRISE_KERNELS_CUDA_PREFILL_COPIER_H_

#include "kernels/cuda/device/copy.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/prefill_tiles.h"

namespace reprise::cuda::prefill {

inline constexpr int kTileRows = kPrefillTileRows;
inline constexpr int kHalves = 2;
inline constexpr int kThreads = 128 * (1 + kHalves);
inline constexpr int kStages = 2;
inline constexpr int kWarpsComputing = 4 * kHalves;
// 64 columns of a tile of 128 rows: rows of 128 bytes.
inline constexpr uint32_t kColumnBytes = 128 * 128;
inline constexpr uint32_t kPageBytes = kPageRows * 128;
inline constexpr int kStepsOfBlock = kPromptBlock / 16;
inline constexpr uint32_t kTurn = 1;  // the first of two named barriers

struct Parameters {
  TensorMap queries;
  KvMaps kv;
  PrefillArgs args;
  int levels = 0;  // of kept nodes, for each block
};

// What lies in a block's shared memory.
template <int kKeyDim, int kValueDim>
struct Layout {
  static constexpr uint32_t kQueryBytes = kKeyDim / 64 * kColumnBytes;
  static constexpr uint32_t kKeyBytes = kKeyDim / 64 * kColumnBytes;
  static constexpr uint32_t kValueBytes = kValueDim / 64 * kColumnBytes;
  static constexpr uint32_t kTiles = kQueryBytes + kStages * (kKeyBytes + kValueBytes);
  static constexpr uint32_t kBytes = kTiles + 16 * sizeof(Mbarrier);
  static constexpr int kNodeFloats = (kValueDim / 2 + 2) * 128 * kHalves;

  static REPRISE_DEVICE uint8_t* Queries() { return Shared(); }
  static REPRISE_DEVICE uint8_t* Keys(uint32_t stage) {
    return Shared() + kQueryBytes + stage * kKeyBytes;
  }
  static REPRISE_DEVICE uint8_t* Values(uint32_t stage) {
    return Shared() + kQueryBytes + kStages * kKeyBytes + stage * kValueBytes;
  }
  static REPRISE_DEVICE Mbarrier* Barrier(uint32_t i) {
    return reinterpret_cast<Mbarrier*>(Shared() + kTiles) + i;
  }
  static REPRISE_DEVICE Mbarrier* QueriesFull() { return Barrier(0); }
  static REPRISE_DEVICE Mbarrier* QueriesEmpty() { return Barrier(1); }
  static REPRISE_DEVICE Mbarrier* Raw() { return Barrier(2); }  // values that are to be cleaned
  static REPRISE_DEVICE Mbarrier* KeysFull(uint32_t stage) { return Barrier(3 + stage); }
  static REPRISE_DEVICE Mbarrier* KeysEmpty(uint32_t stage) { return Barrier(5 + stage); }
  static REPRISE_DEVICE Mbarrier* ValuesFull(uint32_t stage) { return Barrier(7 + stage); }
  static REPRISE_DEVICE Mbarrier* ValuesEmpty(uint32_t stage) { return Barrier(9 + stage); }
};

// Place in a ring of stages, and the parity of its barriers.
struct Ring {
  uint32_t count = 0;
  REPRISE_DEVICE uint32_t stage() const { return count % kStages; }
  REPRISE_DEVICE uint32_t parity() const { return count / kStages & 1; }
};

// A tile of one head.
struct Work {
  PrefillRun run;
  int32_t first_row = 0;  // in the run
  int32_t head = 0;
  int32_t kv_head = 0;
  int32_t blocks = 0;
};

// The i-th work of this block, false beyond the last. Blocks take them to and fro, so that who had
// the longest has the shortest next; heads of a tile are neighbours and share keys in the cache.
REPRISE_DEVICE bool Take(const PrefillArgs& args, int64_t i, Work* work) {
  const int64_t grid = GridX();
  const int64_t place = i % 2 == 0 ? BlockX() : grid - 1 - BlockX();
  const int64_t index = i * grid + place;
  if (index >= args.tile_count * args.q_heads) return false;
  const PrefillTile tile = args.tiles[index / args.q_heads];
  work->run = args.runs[tile.run];
  work->first_row = tile.first_row;
  work->head = static_cast<int32_t>(index % args.q_heads);
  work->kv_head = work->head / (args.q_heads / args.pool.kv_heads);
  work->blocks = VisibleBlocks(work->run, tile.first_row);
  return true;
}

// ---- the warp that copies ----

template <class L, int kKeyDim, int kValueDim>
struct Copier {
  const Parameters& p;
  Ring keys = {};
  Ring values = {};
  uint32_t raw_parity = 0;
  int32_t entry = 0;  // this lane's of 32 entries of the page table

  // Pages of the block, by all lanes; one beyond the pool for what the table does not have.
  REPRISE_DEVICE void Pages(const Work& work, int32_t block, int32_t (&page)[2]) {
    const int32_t count = (work.run.key_rows + kPageRows - 1) / kPageRows;
    const int32_t first = 2 * block;
    if (first % 32 == 0) {
      const int32_t mine = first + static_cast<int32_t>(Lane());
      entry = mine < count ? p.args.page_tables[work.run.first_page + mine]
                           : static_cast<int32_t>(p.args.pool.pages);
    }
    REPRISE_UNROLL
    for (int32_t i = 0; i < 2; ++i) {
      page[i] = static_cast<int32_t>(
          Shuffle(static_cast<uint32_t>(entry), static_cast<uint32_t>(first + i) % 32));
    }
  }

  template <int kDim>
  REPRISE_DEVICE void Load(uint8_t* to, const TensorMap& map, Mbarrier* full, int32_t kv_head,
                           const int32_t (&page)[2]) {
    ArriveExpecting(full, kDim / 64 * kColumnBytes);
    for (int32_t column = 0; column < kDim / 64; ++column) {
      for (int32_t i = 0; i < 2; ++i) {
        LoadTile(to + column * kColumnBytes + i * kPageBytes, map, full, column * 64,
                 kv_head * kPageRows, page[i], Reuse::kNormal);
      }
    }
  }

  REPRISE_DEVICE void LoadQueries(const Work& work, uint32_t parity) {
    Wait(L::QueriesEmpty(), parity ^ 1);
    if (Lane() != 0) return;
    ArriveExpecting(L::QueriesFull(), L::kQueryBytes);
    for (int32_t column = 0; column < kKeyDim / 64; ++column) {
      LoadTile(L::Queries() + column * kColumnBytes, p.queries, L::QueriesFull(),
               work.head * kKeyDim + column * 64, work.run.first_row + work.first_row,
               Reuse::kOnce);
    }
  }

  REPRISE_DEVICE void LoadKeys(const Work& work, const int32_t (&page)[2]) {
    Wait(L::KeysEmpty(keys.stage()), keys.parity() ^ 1);
    if (Lane() == 0) {
      Load<kKeyDim>(L::Keys(keys.stage()), p.kv.first, L::KeysFull(keys.stage()), work.kv_head,
                    page);
    }
    ++keys.count;
  }

  REPRISE_DEVICE void LoadValues(const Work& work, int32_t block, const int32_t (&page)[2]) {
    const int32_t rows = work.run.key_rows - block * kPromptBlock;
    const bool clean = rows < kPromptBlock && rows % kPageRows != 0;
    const uint32_t stage = values.stage();
    Wait(L::ValuesEmpty(stage), values.parity() ^ 1);
    if (Lane() == 0) {
      Load<kValueDim>(L::Values(stage), p.kv.second, clean ? L::Raw() : L::ValuesFull(stage),
                      work.kv_head, page);
    }
    ++values.count;
    if (!clean) return;
    Wait(L::Raw(), raw_parity);
    raw_parity ^= 1;
    Clean(L::Values(stage), rows);
    FenceAsync();
    SyncWarp();
    if (Lane() == 0) Arrive(L::ValuesFull(stage));
  }

  // Zeros in rows from `rows` on to the page's end.
  static REPRISE_DEVICE void Clean(uint8_t* values, int32_t rows) {
    const int32_t words = (kPageRows - rows % kPageRows) * 8;
    for (int32_t column = 0; column < kValueDim / 64; ++column) {
      uint8_t* from = values + column * kColumnBytes + rows * 128;
      for (auto i = static_cast<int32_t>(Lane()); i < words; i += 32) {
        Store16(from + i * 16, {{0, 0, 0, 0}});
      }
    }
  }

  REPRISE_DEVICE void Run() {
    Work work;
    uint32_t query_parity = 0;
    for (int64_t i = 0; Take(p.args, i, &work); ++i) {
      if (work.blocks == 0) continue;
      LoadQueries(work, query_parity);
      query_parity ^= 1;
      int32_t before[2] = {};
      for (int32_t block = 0; block < work.blocks; ++block) {
        int32_t page[2];
        Pages(work, block, page);
        LoadKeys(work, page);
        if (block > 0) LoadValues(work, block - 1, before);
        before[0] = page[0];
        before[1] = page[1];
      }
      LoadValues(work, work.blocks - 1, before);
    }
  }
};

}  // namespace reprise::cuda::prefill

#endif  // REPRISE_KERNELS_CUDA_PREFILL_COPIER_H_
