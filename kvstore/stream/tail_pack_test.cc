#include "kvstore/stream/tail_pack.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "common/random.h"
#include "kvstore/block/checksum.h"
#include "kvstore/stream/pack_test_blocks.h"

namespace reprise::kv {
namespace {

const std::vector<KvFormat>& Formats() {
  static const auto& formats = *new std::vector<KvFormat>{GqaFormat(), MlaFormat()};
  return formats;
}

struct Packed {
  std::vector<uint8_t> bytes;
  uint32_t checksum = 0;
};

Packed Pack(const KvFormat& format, const std::vector<uint8_t>& block, const RowRange& range,
            uint32_t seed) {
  Packed packed{std::vector<uint8_t>(PackedBytes(format, range.rows)), 0};
  const auto checksum = PackTail(format, block, range, seed, packed.bytes);
  EXPECT_TRUE(checksum.ok()) << checksum.status();
  packed.checksum = *checksum;
  return packed;
}

// Rows of a block as one comparable value.
std::vector<uint8_t> Rows(const KvFormat& format, const std::vector<uint8_t>& block,
                          const RowRange& range) {
  return Pack(format, block, range, 0).bytes;
}

// A slot, zeros at first, with the parts of what it holds.
struct Slot {
  explicit Slot(const KvFormat& of)
      : format(of), unpacker(of), bytes(of.block_bytes(), 0), parts(of.layers * of.block_tokens) {}

  Status Take(const Packed& packed, const RowRange& range, uint32_t seed, uint32_t skip = 0) {
    std::vector<uint32_t> taken;
    const Status status = unpacker.Unpack({.packed = packed.bytes,
                                           .checksum = packed.checksum,
                                           .seed = seed,
                                           .rows = range.rows,
                                           .skip = skip},
                                          range.first_row + skip, bytes, &taken);
    const size_t rows = range.rows - skip;
    EXPECT_EQ(taken.size(), format.layers * rows);
    for (uint32_t layer = 0; layer < format.layers; ++layer) {
      for (size_t i = 0; i < rows; ++i) {
        parts[layer * format.block_tokens + range.first_row + skip + i] = taken[layer * rows + i];
      }
    }
    return status;
  }
  void ExpectPartsDescribeTheBytes() const {
    const BlockId id = ReplicaTailId("r", 0, 128);
    const Crc32cShift past(format.segment_bytes());
    for (uint32_t layer = 0; layer < format.layers; ++layer) {
      uint32_t sum = 0;
      for (uint32_t row = 0; row < format.block_tokens; ++row) {
        sum ^= parts[layer * format.block_tokens + row];
      }
      EXPECT_EQ(SegmentChecksumOfParts(id, layer, 128, sum, past),
                SegmentChecksum(id, layer, 128, &bytes[layer * format.segment_bytes()],
                                format.segment_bytes()))
          << "layer " << layer;
    }
  }

  const KvFormat format;
  const TailUnpacker unpacker;
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> parts;  // [layer][row]
};

TEST(TailPackTest, PackedRowsAreTheGatherOfEachLayerInTurn) {
  const KvFormat format = GqaFormat();
  const std::vector<uint8_t> block = Numbered(format.block_bytes());
  const Packed packed = Pack(format, block, {2, 3}, 77);
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
  for (const KvFormat& format : Formats()) {
    const std::vector<uint8_t> block = Numbered(format.block_bytes());
    Slot slot(format);
    for (uint32_t row = 0; row < format.block_tokens; ++row) {
      EXPECT_NE(slot.bytes, block);
      const Status status = slot.Take(Pack(format, block, {row, 1}, row), {row, 1}, row);
      ASSERT_TRUE(status.ok()) << status;
    }
    EXPECT_EQ(slot.bytes, block);
  }
}

TEST(TailPackTest, SkippedRowsAreVerifiedAndNotWritten) {
  const KvFormat format = GqaFormat();
  const std::vector<uint8_t> block = Numbered(format.block_bytes());
  for (uint32_t skip = 0; skip <= 4; ++skip) {
    Packed packed = Pack(format, block, {1, 4}, 5);
    Slot slot(format);
    ASSERT_TRUE(slot.Take(packed, {1, 4}, 5, skip).ok());
    for (uint32_t row = 0; row < format.block_tokens; ++row) {
      const bool written = row >= 1 + skip && row < 5;
      EXPECT_EQ(Rows(format, slot.bytes, {row, 1}) == Rows(format, block, {row, 1}), written)
          << "skip " << skip << " row " << row;
    }
    packed.bytes[0] ^= 1;  // in the first row, skipped or not
    EXPECT_EQ(slot.Take(packed, {1, 4}, 5, skip).code(), absl::StatusCode::kDataLoss);
  }
}

TEST(TailPackTest, DamagedRowsLeaveZerosAndTouchNoOtherRow) {
  const KvFormat format = GqaFormat();
  const std::vector<uint8_t> block = Numbered(format.block_bytes());
  const std::vector<uint8_t> zeros(PackedBytes(format, 2), 0);
  for (size_t at = 0; at < PackedBytes(format, 2); ++at) {
    Packed packed = Pack(format, block, {3, 2}, 5);
    packed.bytes[at] ^= 0x10;
    Slot slot(format);
    slot.bytes = block;
    EXPECT_EQ(slot.Take(packed, {3, 2}, 5).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(Rows(format, slot.bytes, {0, 3}), Rows(format, block, {0, 3}));
    EXPECT_EQ(Rows(format, slot.bytes, {3, 2}), zeros);
    EXPECT_EQ(Rows(format, slot.bytes, {5, 11}), Rows(format, block, {5, 11}));
  }
}

// Rows come in any pieces, again, damaged, and over what was there: from the parts alone follows
// the checksum of every segment at any time.
TEST(TailPackTest, ThePartsOfRowsGiveTheChecksumsOfTheirSegments) {
  for (const KvFormat& format : Formats()) {
    SplitMix64 random(format.layers);
    std::vector<uint8_t> block = Numbered(format.block_bytes());
    Slot slot(format);
    slot.ExpectPartsDescribeTheBytes();
    for (int round = 0; round < 100; ++round) {
      const auto first = static_cast<uint32_t>(random.Below(format.block_tokens));
      const auto rows = static_cast<uint32_t>(1 + random.Below(format.block_tokens - first));
      block[random.Below(block.size())] ^= 1;  // of another attempt
      Packed packed = Pack(format, block, {first, rows}, 9);
      if (random.Chance(0.2)) packed.bytes[random.Below(packed.bytes.size())] ^= 4;
      slot.Take(packed, {first, rows}, 9, static_cast<uint32_t>(random.Below(rows))).IgnoreError();
      slot.ExpectPartsDescribeTheBytes();
    }
  }
}

TEST(TailPackTest, WhateverSaysWhoseRowsTheyAreIsPartOfTheSeed) {
  const TailEntry entry{.request = {"request", {1, 1}},
                        .branch = 0,
                        .tenant_salt = "salt",
                        .prompt_end = 5,
                        .parent = ReplicaTailId("parent", 0, 0),
                        .first_position = 64,
                        .tokens = {1, 2, 3}};
  const std::vector<std::function<void(TailEntry&)>> changes = {
      [](TailEntry& e) { e.request.id = "request2"; },
      [](TailEntry& e) { e.branch = 1; },
      [](TailEntry& e) { e.tenant_salt = "salts"; },
      [](TailEntry& e) { e.prompt_end = 6; },
      [](TailEntry& e) { e.parent.bytes[15] ^= 1; },
      [](TailEntry& e) { e.first_position = 65; },
      [](TailEntry& e) { e.tokens[0] ^= 0x100; },
      [](TailEntry& e) { e.tokens[2] = 4; },
      [](TailEntry& e) { std::swap(e.tokens[0], e.tokens[1]); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    TailEntry other = entry;
    changes[i](other);
    EXPECT_NE(TailSeed(other), TailSeed(entry)) << "change " << i;
  }
  TailEntry later = entry;
  later.request.attempt = {1, 2};
  EXPECT_EQ(TailSeed(later), TailSeed(entry)) << "the rows are the same";
}

TEST(TailPackTest, RowsWithAnotherSeedNeverVerify) {
  const KvFormat format = GqaFormat();
  const Packed packed = Pack(format, Numbered(format.block_bytes()), {0, 1}, 40);
  Slot slot(format);
  EXPECT_EQ(slot.Take(packed, {0, 1}, 41).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(slot.Take(packed, {0, 1}, 40).ok());
}

TEST(TailPackTest, RefusesWhatDoesNotFit) {
  const KvFormat format = GqaFormat();
  std::vector<uint8_t> block(format.block_bytes());
  std::vector<uint8_t> packed(PackedBytes(format, 2));
  EXPECT_FALSE(PackTail(format, block, {15, 2}, 0, packed).ok());
  EXPECT_FALSE(PackTail(format, block, {0, 1}, 0, packed).ok());
  EXPECT_FALSE(PackTail(format, std::span(block).first(8), {0, 2}, 0, packed).ok());
  const TailUnpacker unpacker(format);
  std::vector<uint32_t> parts = {1};
  const auto refused = [&](const TailRows& rows, uint32_t first_row, std::span<uint8_t> into) {
    const Status status = unpacker.Unpack(rows, first_row, into, &parts);
    return absl::IsInvalidArgument(status) && parts.empty();
  };
  EXPECT_TRUE(refused({.packed = packed, .rows = 2}, 15, block));
  EXPECT_TRUE(refused({.packed = packed, .rows = 2}, UINT32_MAX, block));
  EXPECT_TRUE(refused({.packed = packed, .rows = 3}, 0, block));
  EXPECT_TRUE(refused({.packed = packed, .rows = 2, .skip = 3}, 0, block));
  EXPECT_TRUE(refused({.packed = packed, .rows = 2}, 0, std::span(block).first(8)));
}

}  // namespace
}  // namespace reprise::kv
