#include "kvstore/stream/pack.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/crc32c.h"
#include "kvstore/stream/pack_test_blocks.h"

namespace reprise::kv {
namespace {

TEST(PackTest, PacksRowsFieldByFieldAndHeadByHead) {
  const KvFormat format = GqaFormat();
  const std::vector<uint8_t> segment = Numbered(format.segment_bytes());
  const RowRange range{.first_row = 5, .rows = 2};
  std::vector<uint8_t> packed(2 * format.row_bytes());
  const auto crc = Gather(format, segment, range, packed);
  ASSERT_TRUE(crc.ok()) << crc.status();
  EXPECT_EQ(*crc, Crc32c(packed.data(), packed.size()));
  size_t at = 0;
  for (size_t row = 5; row < 7; ++row) {
    for (size_t field = 0; field < 2; ++field) {
      for (size_t head = 0; head < 3; ++head) {
        for (size_t byte = 0; byte < 16; ++byte, ++at) {
          ASSERT_EQ(packed[at], segment[((field * 3 + head) * 16 + row) * 16 + byte]);
        }
      }
    }
  }
}

TEST(PackTest, ScatterUndoesGatherAndLeavesOtherRowsAlone) {
  for (const KvFormat& format : {GqaFormat(), MlaFormat()}) {
    const std::vector<uint8_t> segment = Numbered(format.segment_bytes());
    std::vector<uint8_t> rebuilt(segment.size(), 0);
    for (uint32_t row = 0; row < format.block_tokens; ++row) {
      std::vector<uint8_t> packed(format.row_bytes());
      const auto sent = Gather(format, segment, {row, 1}, packed, 99);
      const auto received = Scatter(format, packed, {row, 1}, rebuilt, 99);
      ASSERT_TRUE(sent.ok() && received.ok());
      EXPECT_EQ(*sent, *received);
      EXPECT_EQ(rebuilt == segment, row + 1 == format.block_tokens) << row;
    }
  }
}

TEST(PackTest, RefusesWhatDoesNotFit) {
  const KvFormat format = GqaFormat();
  std::vector<uint8_t> segment(format.segment_bytes());
  std::vector<uint8_t> packed(2 * format.row_bytes());
  EXPECT_FALSE(Gather(format, segment, {15, 2}, packed).ok());
  EXPECT_FALSE(Gather(format, segment, {UINT32_MAX, 2}, packed).ok());
  EXPECT_FALSE(Gather(format, segment, {0, 1}, packed).ok());
  segment.pop_back();
  EXPECT_FALSE(Scatter(format, packed, {0, 2}, segment).ok());
}

}  // namespace
}  // namespace reprise::kv
