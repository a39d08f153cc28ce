// CRC-32C on the device. A checksum is a sum over GF(2), so threads take the words of a tile side
// by side, each folds those of its column by Horner's rule, and the columns are added at the end,
// each times the power of x that its place has.
//
// The one multiplication of the inner loop, by the power of x that a row of the tile spans, is six
// look-ups in tables of 5 and 6 bits, which every lane has for itself in its own bank of shared
// memory: no conflicts, 1.5 look-ups a byte, 32 KB. By count an SM can look up for 21 bytes a cycle
// and issue all instructions for some 14, where its share of an H200's memory, read and written, is
// 10: the checksum hides behind the copy.
#ifndef REPRISE_KERNELS_CUDA_CRC32C_DEVICE_H_
#define REPRISE_KERNELS_CUDA_CRC32C_DEVICE_H_

#include "common/crc32c_polynomial.h"
#include "kernels/cuda/device/barrier.h"
#include "kernels/cuda/device/warp.h"

namespace reprise::cuda::crc {

inline constexpr uint32_t kThreads = 128;
inline constexpr int kRowBytes = kThreads * 16;
inline constexpr int kRows = 32;
inline constexpr int64_t kTileBytes = int64_t{kRowBytes} * kRows;
inline constexpr int kWarps = kThreads / 32;

// Digits of a word: first bit, bits, and where their products stand in the table.
inline constexpr int kDigits = 6;
inline constexpr int kDigitBits[kDigits] = {6, 6, 5, 5, 5, 5};
inline constexpr int kEntries = 2 * 64 + 4 * 32;
inline constexpr int kTilePowers = 32;

struct Tables {
  uint32_t times_row[kEntries];        // digit * x^(8 kRowBytes)
  uint32_t place[kThreads];            // x^32 from the end of the thread's 16 bytes of a row
  uint32_t tiles_behind[kTilePowers];  // x^(8 kTileBytes 2^i)
};
constexpr Tables MakeTables() {
  Tables t{};
  const uint32_t row = crc32c::PowerOfX(8 * kRowBytes);
  int entry = 0;
  for (int d = 0, bit = 0; d < kDigits; bit += kDigitBits[d++]) {
    for (uint32_t digit = 0; digit < 1U << kDigitBits[d]; ++digit) {
      t.times_row[entry++] = crc32c::Multiply(digit << bit, row);
    }
  }
  uint32_t place = crc32c::PowerOfX(32);
  for (int i = static_cast<int>(kThreads) - 1; i >= 0; --i) {
    t.place[i] = place;
    place = crc32c::Multiply(place, crc32c::PowerOfX(128));
  }
  uint32_t tile = crc32c::PowerOfX(8 * kTileBytes);
  for (int i = 0; i < kTilePowers; ++i) {
    t.tiles_behind[i] = tile;
    tile = crc32c::Multiply(tile, tile);
  }
  return t;
}
REPRISE_TABLE Tables kTables = MakeTables();
inline constexpr uint32_t kX32 = crc32c::PowerOfX(32);

// In shared memory.
struct Memory {
  uint32_t times_row[kEntries * 32];  // [entry, lane]
  uint32_t parts[kWarps][4];
};

REPRISE_DEVICE void LoadTables(Memory& m) {
  for (uint32_t i = ThreadX(); i < kEntries * 32; i += kThreads) {
    m.times_row[i] = kTables.times_row[i / 32];
  }
  SyncBlock();
}

// a * x^(8 kRowBytes); `lane` is the table from this lane's bank on.
REPRISE_DEVICE uint32_t TimesRow(const uint32_t* lane, uint32_t a) {
  return lane[(a & 63) * 32] ^ lane[(64 + (a >> 6 & 63)) * 32] ^ lane[(128 + (a >> 12 & 31)) * 32] ^
         lane[(160 + (a >> 17 & 31)) * 32] ^ lane[(192 + (a >> 22 & 31)) * 32] ^
         lane[(224 + (a >> 27)) * 32];
}
// The next row of a thread's column.
REPRISE_DEVICE void TakeRow(const uint32_t* lane, const Words& words, Words* column) {
  REPRISE_UNROLL
  for (int j = 0; j < 4; ++j) column->w[j] = TimesRow(lane, column->w[j]) ^ words.w[j];
}

REPRISE_DEVICE uint32_t TimesX(uint32_t a) {
  return (a >> 1) ^ (crc32c::kPolynomial & (0U - (a & 1)));
}
REPRISE_DEVICE uint32_t Times(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (int i = 0; i < 32; ++i, a <<= 1, b = TimesX(b)) {
    product ^= b & (0U - (a >> 31));
  }
  return product;
}

// The part of a tile from the columns of all threads, in thread 0.
REPRISE_DEVICE uint32_t TilePart(Memory& m, Words column) {
  uint32_t power = kTables.place[ThreadX()];
  Words sums = {};
  REPRISE_UNROLL
  for (int i = 0; i < 32; ++i) {
    REPRISE_UNROLL
    for (int j = 0; j < 4; ++j) {
      sums.w[j] ^= power & (0U - (column.w[j] >> 31));
      column.w[j] <<= 1;
    }
    power = TimesX(power);
  }
  REPRISE_UNROLL
  for (int j = 0; j < 4; ++j) {
    for (uint32_t step = 16; step >= 1; step /= 2) sums.w[j] ^= ShuffleXor(sums.w[j], step);
    if (Lane() == 0) m.parts[Warp()][j] = sums.w[j];
  }
  SyncBlock();
  uint32_t part = 0;
  if (ThreadX() == 0) {
    for (int j = 0; j < 4; ++j) {
      part = Times(part, kX32);
      for (int w = 0; w < kWarps; ++w) part ^= m.parts[w][j];
    }
  }
  return part;
}

// A tile's part as seen from behind `tiles` more.
REPRISE_DEVICE uint32_t PastTiles(uint32_t part, uint32_t tiles) {
  for (int i = 0; i < kTilePowers; ++i) {
    if ((tiles >> i & 1) != 0) part = Times(part, kTables.tiles_behind[i]);
  }
  return part;
}

}  // namespace reprise::cuda::crc

#endif  // REPRISE_KERNELS_CUDA_CRC32C_DEVICE_H_
