// A block copies a tile of 64 KB and makes its part of the checksum from the registers that the
// bytes pass through (crc32c_device.h): one read, one write, no second look. Tiles end where the
// segment ends, so the first one is the ragged one, and zeros before a message are nothing to a
// CRC. A block adds its part to the segment's checksum by an exclusive or, whose order does not
// show.
//
// Unpacking reads twice, once to sum and once to copy, because nothing may be written before all of
// a segment is known to be right; the second time mostly from the second-level cache when a call
// has fewer bytes than that.
#include "kernels/cuda/crc32c_device.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/pack.h"

namespace reprise::cuda {
namespace {

using crc::kRowBytes;
using crc::kRows;
using crc::kThreads;
using crc::kTileBytes;

REPRISE_DEVICE bool Wide(const void* a, const void* b, int64_t bytes) {
  return ((reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) |
           static_cast<uintptr_t>(bytes)) &
          15) == 0;
}

// The 16 bytes at `offset` of a message, which may begin or end among them; copied to `to` unless
// that is null. map.At(offset) is where a byte comes from, and all of 16 when `wide`.
template <class Map>
REPRISE_DEVICE Words TakeBytes(const Map& map, int64_t offset, bool wide, uint8_t* to) {
  if (wide) {
    const Words words = LoadOnce16(map.At(offset));
    if (to != nullptr) Store16(to + offset, words);
    return words;
  }
  Words words = {};
  for (int i = 0; i < 16; ++i) {
    if (offset + i < 0) continue;
    const uint8_t byte = *map.At(offset + i);
    words.w[i / 4] |= static_cast<uint32_t>(byte) << (8 * (i % 4));
    if (to != nullptr) to[offset + i] = byte;
  }
  return words;
}

// Tile `tile` of `tiles` of a message of `bytes`: copied, and its part of the checksum added.
template <class Map>
REPRISE_DEVICE void TakeTile(const Map& map, int64_t bytes, int64_t tile, int64_t tiles, bool wide,
                             uint8_t* to, uint32_t seed_part, uint32_t* checksum) {
  crc::Memory& m = *reinterpret_cast<crc::Memory*>(Shared());
  crc::LoadTables(m);
  const uint32_t* lane = m.times_row + Lane();
  const int64_t begin = bytes - (tiles - tile) * kTileBytes;
  // Rows that lie wholly before the message are skipped; a multiple of kUnrolled is left.
  constexpr int kUnrolled = 4;
  const int empty = begin < 0 ? static_cast<int>(-begin / kRowBytes) / kUnrolled * kUnrolled : 0;
  Words column = {};
  for (int row = empty; row < kRows; row += kUnrolled) {
    Words words[kUnrolled];
    REPRISE_UNROLL
    for (int i = 0; i < kUnrolled; ++i) {
      const int64_t offset = begin + (row + i) * kRowBytes + static_cast<int64_t>(ThreadX()) * 16;
      words[i] = offset <= -16 ? Words{} : TakeBytes(map, offset, wide, to);
    }
    REPRISE_UNROLL
    for (int i = 0; i < kUnrolled; ++i) crc::TakeRow(lane, words[i], &column);
  }
  uint32_t part = crc::TilePart(m, column);
  if (ThreadX() != 0) return;
  part = crc::PastTiles(part, static_cast<uint32_t>(tiles - 1 - tile));
  AtomicXor(checksum, tile == 0 ? part ^ seed_part : part);
}

// What a seed makes of a checksum: `past` is x^(8 bytes).
REPRISE_DEVICE uint32_t SeedPart(uint32_t seed, uint32_t past) {
  return ThreadX() == 0 ? ~crc::Times(~seed, past) : 0;
}

struct Contiguous {
  const uint8_t* from;
  REPRISE_DEVICE const uint8_t* At(int64_t offset) const { return from + offset; }
};

struct TileGrid {
  int64_t tiles;
  uint32_t past;  // x^(8 bytes)
};

REPRISE_KERNEL(kThreads, 6) SumSegments(SegmentsArgs args, TileGrid grid, bool copies) {
  const int64_t s = BlockX() / grid.tiles;
  const SegmentCopy segment = args.segments[s];
  auto* to = copies ? static_cast<uint8_t*>(segment.to) : nullptr;
  const int64_t tile = BlockX() - s * grid.tiles;
  TakeTile(Contiguous{static_cast<const uint8_t*>(segment.from)}, args.bytes, tile, grid.tiles,
           Wide(segment.from, to, args.bytes), to,
           tile == 0 ? SeedPart(segment.seed, grid.past) : 0, args.checksums + s);
}

REPRISE_KERNEL(kThreads, 8) CopyVerified(SegmentsArgs args, TileGrid grid) {
  const int64_t s = BlockX() / grid.tiles;
  const int64_t tile = BlockX() - s * grid.tiles;
  const SegmentCopy segment = args.segments[s];
  const bool right = args.checksums[s] == segment.checksum;
  if (tile == 0 && ThreadX() == 0) args.ok[s] = right ? 1 : 0;
  if (!right) return;
  const auto* from = static_cast<const uint8_t*>(segment.from);
  auto* to = static_cast<uint8_t*>(segment.to);
  const bool wide = Wide(from, to, args.bytes);
  const int64_t end = (tile + 1) * kTileBytes < args.bytes ? (tile + 1) * kTileBytes : args.bytes;
#pragma unroll 4
  for (int64_t at = tile * kTileBytes + static_cast<int64_t>(ThreadX()) * 16; at < end;
       at += kRowBytes) {
    if (wide) {
      Store16(to + at, LoadOnce16(from + at));
      continue;
    }
    for (int64_t i = at; i < at + 16 && i < end; ++i) to[i] = from[i];
  }
}

// A tail's packed bytes in the pool.
struct TailRows {
  const uint8_t* page;  // of layer 0, the first row's
  int64_t layer_stride;
  int64_t second;  // part, from the page's begin
  uint32_t rows;
  uint32_t first_bytes;  // of a head's row
  uint32_t second_bytes;
  uint32_t heads;
  uint32_t first_row;

  REPRISE_DEVICE const uint8_t* At(int64_t offset) const {
    const uint32_t row_bytes = heads * (first_bytes + second_bytes);
    uint32_t at = static_cast<uint32_t>(offset);
    const uint32_t layer = at / (rows * row_bytes);
    at -= layer * rows * row_bytes;
    const uint32_t row = at / row_bytes;
    at -= row * row_bytes;
    const bool in_second = at >= heads * first_bytes;
    if (in_second) at -= heads * first_bytes;
    const uint32_t strip = in_second ? second_bytes : first_bytes;
    const uint32_t head = at / strip;
    return page + layer * layer_stride + (in_second ? second : 0) +
           static_cast<int64_t>(head * kPageRows + first_row + row) * strip + (at - head * strip);
  }
};

// x^(8 bytes) of tails of 0 to kPageRows rows.
struct TailPasts {
  uint32_t past[kPageRows + 1];
};

REPRISE_KERNEL(kThreads, 6) SumTails(TailsArgs args, int64_t tiles_max, TailPasts pasts) {
  const int64_t t = BlockX() / tiles_max;
  const int64_t tile = BlockX() - t * tiles_max;
  const TailCopy tail = args.tails[t];
  const KvPool& pool = args.pool;
  const TailRows rows = {
      static_cast<const uint8_t*>(pool.layer_base) + tail.page * pool.page_stride_bytes,
      args.layer_stride_bytes,
      int64_t{2} * pool.kv_heads * kPageRows * pool.first_dim,
      static_cast<uint32_t>(tail.rows),
      2 * static_cast<uint32_t>(pool.first_dim),
      2 * static_cast<uint32_t>(pool.second_dim),
      static_cast<uint32_t>(pool.kv_heads),
      static_cast<uint32_t>(tail.first_row)};
  const int64_t bytes =
      int64_t{2} * args.layers * tail.rows * pool.kv_heads * (pool.first_dim + pool.second_dim);
  const int64_t tiles = bytes > kTileBytes ? (bytes + kTileBytes - 1) / kTileBytes : 1;
  if (tile >= tiles) return;
  const bool wide = pool.first_dim % 8 == 0 && pool.second_dim % 8 == 0 &&
                    Wide(rows.page, tail.to, pool.page_stride_bytes | args.layer_stride_bytes);
  TakeTile(rows, bytes, tile, tiles, wide, static_cast<uint8_t*>(tail.to),
           tile == 0 ? SeedPart(tail.seed, pasts.past[tail.rows]) : 0, args.checksums + t);
}

int64_t TilesOf(int64_t bytes) {
  return bytes > kTileBytes ? (bytes + kTileBytes - 1) / kTileBytes : 1;
}
LaunchShape ShapeOf(int64_t blocks, size_t shared_bytes) {
  return {.blocks = {static_cast<uint32_t>(blocks), 1, 1},
          .threads = {kThreads, 1, 1},
          .shared_bytes = shared_bytes};
}

int Sum(const SegmentsArgs& args, bool copies, TileGrid* grid, Stream stream) {
  *grid = {TilesOf(args.bytes), crc32c::PowerOfX(8 * static_cast<uint64_t>(args.bytes))};
  if (args.bytes < 0 || args.count * grid->tiles > INT32_MAX) return kErrorInvalidValue;
  const size_t sums = static_cast<size_t>(args.count) * sizeof(uint32_t);
  if (const int e = Fill(args.checksums, 0, sums, stream); e != 0) return e;
  return Launch(ShapeOf(args.count * grid->tiles, sizeof(crc::Memory)), stream, SumSegments, args,
                *grid, copies);
}

}  // namespace

int PackSegments(const SegmentsArgs& args, Stream stream) {
  TileGrid grid = {};
  return args.count == 0 ? 0 : Sum(args, true, &grid, stream);
}

int UnpackSegments(const SegmentsArgs& args, Stream stream) {
  TileGrid grid = {};
  if (args.count == 0) return 0;
  if (const int e = Sum(args, false, &grid, stream); e != 0) return e;
  return Launch(ShapeOf(args.count * grid.tiles, 0), stream, CopyVerified, args, grid);
}

int PackTails(const TailsArgs& asked, Stream stream) {
  if (asked.count == 0) return 0;
  TailsArgs args = asked;
  if (args.pool.fp8) {
    // To be copied it has one part, of rows as wide.
    if (!args.pool.FitsFp8()) return kErrorInvalidValue;
    args.pool.first_dim = kernels::kFp8RowBytes / 2;
    args.pool.second_dim = 0;
  }
  const int64_t row_bytes =
      int64_t{2} * args.layers * args.pool.kv_heads * (args.pool.first_dim + args.pool.second_dim);
  const int64_t tiles = TilesOf(row_bytes * args.rows_max);
  if (args.rows_max < 0 || args.rows_max > kPageRows || row_bytes * args.rows_max > UINT32_MAX ||
      args.count * tiles > INT32_MAX) {
    return kErrorInvalidValue;
  }
  TailPasts pasts;
  for (int rows = 0; rows <= kPageRows; ++rows) {
    pasts.past[rows] = crc32c::PowerOfX(8 * static_cast<uint64_t>(row_bytes * rows));
  }
  const size_t sums = static_cast<size_t>(args.count) * sizeof(uint32_t);
  if (const int e = Fill(args.checksums, 0, sums, stream); e != 0) return e;
  return Launch(ShapeOf(args.count * tiles, sizeof(crc::Memory)), stream, SumTails, args, tiles,
                pasts);
}

}  // namespace reprise::cuda
