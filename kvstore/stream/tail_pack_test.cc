#include "kvstore/stream/tail_pack.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/crc32c.h"

namespace reprise::kv {
namespace {

KvFormat Format() {
  KvFormat format;
  format.fields = {{.name = "k", .heads = 2, .elements = 4, .position_bearing = true},
                   {.name = "v", .heads = 2, .elements = 4}};
  format.layers = 3;
  format.block_tokens = 8;
  format.codec = ElementCodec::kBF16;
  return format;
}

std::vector<uint8_t> Numbered(size_t n) {
  std::vector<uint8_t> bytes(n);
  uint32_t state = 1;
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>((state = state * 1664525u + 7) >> 24);
  return bytes;
}

struct Packed {
  std::vector<uint8_t> bytes;
  uint32_t checksum = 0;
};

Packed Pack(const std::vector<uint8_t>& block, uint32_t first_row, uint32_t rows, uint32_t seed) {
  Packed packed{std::vector<uint8_t>(PackedBytes(Format(), rows)), 0};
  const auto checksum = PackTail(Format(), block, {first_row, rows}, seed, packed.bytes);
  EXPECT_TRUE(checksum.ok()) << checksum.status();
  packed.checksum = *checksum;
  return packed;
}

TEST(TailPackTest, PackedRowsAreTheGatherOfEachLayerInTurn) {
  const KvFormat format = Format();
  const std::vector<uint8_t> block = Numbered(format.block_bytes());
  const Packed packed = Pack(block, 2, 3, 77);
  std::vector<uint8_t> expected;
  for (uint32_t layer = 0; layer < format.layers; ++layer) {
    std::vector<uint8_t> rows(3 * format.row_bytes());
    ASSERT_TRUE(
        Gather(format,
               std::span(block).subspan(layer * format.segment_bytes(), format.segment_bytes()),
               {2, 3}, rows)
            .ok());
    expected.insert(expected.end(), rows.begin(), rows.end());
  }
  EXPECT_EQ(packed.bytes, expected);
  EXPECT_EQ(packed.checksum, Crc32c(expected.data(), expected.size(), 77));
}

TEST(TailPackTest, UnpackingRowByRowRebuildsTheBlock) {
  const KvFormat format = Format();
  const std::vector<uint8_t> block = Numbered(format.block_bytes());
  std::vector<uint8_t> slot(format.block_bytes(), 0xee);
  for (uint32_t row = 0; row < format.block_tokens; ++row) {
    EXPECT_NE(slot, block);
    const uint32_t seed = TailSeed("request", 1, 64 + row);
    const Packed packed = Pack(block, row, 1, seed);
    const Status status = UnpackTail(
        format, {.packed = packed.bytes, .checksum = packed.checksum, .seed = seed, .rows = 1}, row,
        slot);
    ASSERT_TRUE(status.ok()) << status;
  }
  EXPECT_EQ(slot, block);
}

TEST(TailPackTest, SkippedRowsAreVerifiedAndNotWritten) {
  const KvFormat format = Format();
  const std::vector<uint8_t> block = Numbered(format.block_bytes());
  for (uint32_t skip = 0; skip <= 4; ++skip) {
    Packed packed = Pack(block, 1, 4, 5);
    std::vector<uint8_t> slot(format.block_bytes(), 0);
    const TailRows rows{
        .packed = packed.bytes, .checksum = packed.checksum, .seed = 5, .rows = 4, .skip = skip};
    ASSERT_TRUE(UnpackTail(format, rows, 1 + skip, slot).ok());
    for (uint32_t row = 0; row < format.block_tokens; ++row) {
      const bool written = row >= 1 + skip && row < 5;
      EXPECT_EQ(Pack(slot, row, 1, 0).bytes == Pack(block, row, 1, 0).bytes, written)
          << "skip " << skip << " row " << row;
    }
    packed.bytes[0] ^= 1;  // in the first row, skipped or not
    EXPECT_EQ(UnpackTail(format, rows, 1 + skip, slot).code(), absl::StatusCode::kDataLoss);
  }
}

TEST(TailPackTest, DamagedRowsTouchNoOtherRow) {
  const KvFormat format = Format();
  const std::vector<uint8_t> block = Numbered(format.block_bytes());
  for (size_t at = 0; at < PackedBytes(format, 2); ++at) {
    Packed packed = Pack(block, 3, 2, 5);
    packed.bytes[at] ^= 0x10;
    std::vector<uint8_t> slot = block;
    const TailRows rows{.packed = packed.bytes, .checksum = packed.checksum, .seed = 5, .rows = 2};
    EXPECT_EQ(UnpackTail(format, rows, 3, slot).code(), absl::StatusCode::kDataLoss);
    for (const uint32_t row : {0u, 1u, 2u, 5u, 6u, 7u}) {
      EXPECT_EQ(Pack(slot, row, 1, 0).bytes, Pack(block, row, 1, 0).bytes);
    }
  }
}

TEST(TailPackTest, RowsOfAnotherSequenceOrPlaceNeverVerify) {
  const KvFormat format = Format();
  const std::vector<uint8_t> block = Numbered(format.block_bytes());
  const Packed packed = Pack(block, 0, 1, TailSeed("request", 0, 64));
  std::vector<uint8_t> slot(format.block_bytes());
  for (const uint32_t seed :
       {TailSeed("request2", 0, 64), TailSeed("request", 1, 64), TailSeed("request", 0, 65)}) {
    const TailRows rows{
        .packed = packed.bytes, .checksum = packed.checksum, .seed = seed, .rows = 1};
    EXPECT_EQ(UnpackTail(format, rows, 0, slot).code(), absl::StatusCode::kDataLoss);
  }
}

TEST(TailPackTest, RefusesWhatDoesNotFit) {
  const KvFormat format = Format();
  std::vector<uint8_t> block(format.block_bytes());
  std::vector<uint8_t> packed(PackedBytes(format, 2));
  EXPECT_FALSE(PackTail(format, block, {7, 2}, 0, packed).ok());
  EXPECT_FALSE(PackTail(format, block, {0, 1}, 0, packed).ok());
  EXPECT_FALSE(PackTail(format, std::span(block).first(8), {0, 2}, 0, packed).ok());
  EXPECT_FALSE(UnpackTail(format, {.packed = packed, .rows = 2}, 7, block).ok());
  EXPECT_FALSE(UnpackTail(format, {.packed = packed, .rows = 3}, 0, block).ok());
  EXPECT_FALSE(UnpackTail(format, {.packed = packed, .rows = 2, .skip = 3}, 0, block).ok());
  EXPECT_FALSE(
      UnpackTail(format, {.packed = packed, .rows = 2}, 0, std::span(block).first(8)).ok());
}

}  // namespace
}  // namespace reprise::kv
