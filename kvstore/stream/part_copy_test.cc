#include "kvstore/stream/part_copy.h"

#include <gtest/gtest.h>

#include "common/random.h"
#include "kvstore/block/checksum.h"

namespace reprise::kv {
namespace {

KvFormat Format() {
  KvFormat format;
  format.fields = {{"k", 4, 8}, {"v", 4, 5}};
  format.layers = 3;
  format.block_tokens = 4;
  return format;
}

std::vector<uint8_t> RandomBytes(size_t n) {
  SplitMix64 random(5);
  std::vector<uint8_t> bytes(n);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Next());
  return bytes;
}

BlockId Id() {
  BlockId id;
  id.bytes.fill(7);
  return id;
}

TEST(PartCopierTest, WhatIsGatheredScattersBackUnderTheSameSum) {
  const KvFormat format = Format();
  const KvPart whole = WholePart(format);
  const std::vector<uint8_t> segment = RandomBytes(format.segment_bytes());
  std::vector<uint8_t> copy(segment.size());
  uint32_t parts = 0;
  for (const Range& heads : {Range{0, 1}, Range{1, 4}}) {
    const PartView view(format, whole, {{0, 3}, heads});
    const PartCopier copier(view);
    std::vector<uint8_t> packed(view.segment_bytes());
    const uint32_t sum = copier.Gather(segment.data(), packed.data(), 99);
    EXPECT_EQ(sum, Crc32c(packed.data(), packed.size(), 99));
    const PartCopier::Taken taken = copier.Scatter(packed.data(), copy.data(), 99);
    EXPECT_EQ(taken.crc, sum);
    parts ^= taken.parts;
  }
  EXPECT_EQ(copy, segment);
  EXPECT_EQ(SegmentChecksumOfParts(Id(), 1, 64, parts, Crc32cShift(segment.size())),
            SegmentChecksum(Id(), 1, 64, segment.data(), segment.size()));
}

class HeadSumsTest : public testing::Test {
 protected:
  HeadSums::Segment Segment(uint32_t layer = 1) const {
    return {.id = Id(),
            .layer = layer,
            .first_position = 64,
            .data = bytes_.data(),
            .checksum = SegmentChecksum(Id(), layer, 64, bytes_.data(), bytes_.size())};
  }
  uint32_t Expected(const Range& heads, uint32_t layer = 1) const {
    const PartView view(format_, WholePart(format_), {{0, 3}, heads});
    std::vector<uint8_t> packed(view.segment_bytes());
    return PartCopier(view).Gather(bytes_.data(), packed.data(), SegmentSeed(Id(), layer, 64));
  }
  const KvFormat format_ = Format();
  std::vector<uint8_t> bytes_ = RandomBytes(format_.segment_bytes());
  HeadSums sums_{format_, 2};
};

TEST_F(HeadSumsTest, TheSumOfAnyHeadsFollowsFromThatOfAll) {
  for (uint32_t begin = 0; begin < 4; ++begin) {
    for (uint32_t end = begin + 1; end <= 4; ++end) {
      const auto sum = sums_.ChecksumOf(Segment(), {begin, end});
      ASSERT_TRUE(sum.ok()) << sum.status();
      EXPECT_EQ(*sum, Expected({begin, end}));
    }
  }
}

TEST_F(HeadSumsTest, BytesThatDoNotGiveTheKnownSumAreDataLoss) {
  const HeadSums::Segment segment = Segment();
  bytes_[40] ^= 1;
  EXPECT_EQ(sums_.ChecksumOf(segment, {3, 4}).status().code(), absl::StatusCode::kDataLoss)
      << "of whichever heads";
  bytes_[40] ^= 1;
  EXPECT_TRUE(sums_.ChecksumOf(segment, {3, 4}).ok());
}

TEST_F(HeadSumsTest, SumsOnceProvenStayThoseOfTheProvenBytes) {
  const HeadSums::Segment segment = Segment();
  const uint32_t expected = Expected({0, 1});
  ASSERT_TRUE(sums_.ChecksumOf(segment, {0, 1}).ok());
  bytes_[0] ^= 1;  // in the first head: whoever reads it finds out
  EXPECT_EQ(*sums_.ChecksumOf(segment, {0, 1}), expected);
}

TEST_F(HeadSumsTest, AnotherKnownSumIsProvenAnew) {
  ASSERT_TRUE(sums_.ChecksumOf(Segment(), {0, 1}).ok());
  bytes_[0] ^= 1;  // as when a row is appended to an open tail
  EXPECT_EQ(*sums_.ChecksumOf(Segment(), {0, 1}), Expected({0, 1}));
}

TEST_F(HeadSumsTest, ForgottenSegmentsAreProvenAnew) {
  const HeadSums::Segment first = Segment(0);
  for (const uint32_t layer : {0u, 1u, 2u}) {
    ASSERT_TRUE(sums_.ChecksumOf(Segment(layer), {0, 1}).ok());
  }
  bytes_[0] ^= 1;
  EXPECT_FALSE(sums_.ChecksumOf(first, {0, 1}).ok());
}

}  // namespace
}  // namespace reprise::kv
