#include "common/bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace reprise {
namespace {

using testing::HasSubstr;

template <typename Buffer>
Buffer Sample() {
  Buffer buffer;
  ByteWriter writer(buffer);
  writer.U8(0x11).U16(0x2233).U32(0x44556677).U64(0x8899aabbccddeeff).I32(-2).I64(-3);
  writer.F32(1.5f).PrefixedText("abc").Bytes(AsBytes("de"));
  return buffer;
}

TEST(Bytes, AreReadAsTheyWereWritten) {
  const auto buffer = Sample<std::string>();
  ByteReader reader(buffer);
  EXPECT_EQ(reader.U8("a"), 0x11);
  EXPECT_EQ(reader.U16("b"), 0x2233);
  EXPECT_EQ(reader.U32("c"), 0x44556677u);
  EXPECT_EQ(reader.U64("d"), 0x8899aabbccddeeffu);
  EXPECT_EQ(reader.I32("e"), -2);
  EXPECT_EQ(reader.I64("f"), -3);
  EXPECT_EQ(reader.F32("g"), 1.5f);
  EXPECT_EQ(reader.PrefixedText("h", 3), "abc");
  EXPECT_EQ(AsText(reader.Bytes("i", 2)), "de");
  EXPECT_TRUE(reader.Finish().ok());
}

TEST(Bytes, AreLittleEndianInBothBuffers) {
  std::string text;
  std::vector<uint8_t> vector;
  ByteWriter(text).U32(0x04030201);
  ByteWriter(vector).U32(0x04030201);
  EXPECT_EQ(text, "\x01\x02\x03\x04");
  EXPECT_EQ(vector, (std::vector<uint8_t>{1, 2, 3, 4}));
  const auto sample = Sample<std::vector<uint8_t>>();
  EXPECT_EQ(AsText(sample), Sample<std::string>());
}

TEST(ByteReader, RefusesEveryTruncation) {
  const auto buffer = Sample<std::string>();
  for (size_t n = 0; n < buffer.size(); ++n) {
    ByteReader reader(absl::string_view(buffer).substr(0, n));
    reader.U8("a");
    reader.U16("b");
    reader.U32("c");
    reader.U64("d");
    reader.I32("e");
    reader.I64("f");
    reader.F32("g");
    reader.PrefixedText("h", 3);
    reader.Bytes("i", 2);
    EXPECT_EQ(reader.Finish().code(), absl::StatusCode::kInvalidArgument) << n;
  }
}

TEST(ByteReader, KeepsItsFirstErrorAndReadsNothingAfter) {
  ByteReader reader(absl::string_view("\x01\x02\x03"));
  EXPECT_EQ(reader.U32("length"), 0u);
  EXPECT_EQ(std::string(reader.status().message()), "length at byte 0 needs 4 bytes, 3 remain");
  EXPECT_EQ(reader.U8("kind"), 0);
  EXPECT_EQ(reader.position(), 0u);
  reader.Fail("later");
  EXPECT_THAT(std::string(reader.Finish().message()), HasSubstr("length"));
}

TEST(ByteReader, RefusesLeftovers) {
  ByteReader reader(absl::string_view("abc"));
  reader.U8("a");
  EXPECT_EQ(std::string(reader.Finish().message()), "2 bytes left over after byte 1");
}

TEST(ByteReader, BoundsLengthsAndCounts) {
  std::string buffer;
  ByteWriter(buffer).PrefixedText("abcd");
  ByteReader too_long(buffer);
  EXPECT_TRUE(too_long.Prefixed("name", 3).empty());
  EXPECT_EQ(std::string(too_long.status().message()), "name has 4 bytes, the limit is 3");

  std::string counted;
  ByteWriter(counted).U32(3).U16(1).U16(2).U16(3);
  EXPECT_EQ(ByteReader(counted).Count("ids", 3, 2), 3u);
  ByteReader over(counted);
  EXPECT_EQ(over.Count("ids", 2, 2), 0u);
  EXPECT_EQ(std::string(over.status().message()), "ids counts 3, the limit is 2");
  ByteReader absent(counted);
  EXPECT_EQ(absent.Count("ids", 3, 4), 0u);
  EXPECT_FALSE(absent.ok());
  // A product beyond 64 bits must not wrap to something small.
  ByteReader wrapping(counted);
  EXPECT_EQ(wrapping.Count("ids", 3, SIZE_MAX / 2), 0u);
  EXPECT_FALSE(wrapping.ok());
  ByteReader huge(counted);
  EXPECT_TRUE(huge.Bytes("data", UINT64_MAX).empty());
  EXPECT_FALSE(huge.ok());
}

TEST(CheckedArithmetic, SeesOverflow) {
  EXPECT_EQ(CheckedAdd<uint64_t>(UINT64_MAX - 1, 1), UINT64_MAX);
  EXPECT_EQ(CheckedAdd<uint64_t>(UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(CheckedMul<uint64_t>(uint64_t{1} << 32, (uint64_t{1} << 32) - 1), 0xffffffff00000000u);
  EXPECT_EQ(CheckedMul<uint64_t>(uint64_t{1} << 32, uint64_t{1} << 32), std::nullopt);
  EXPECT_EQ(CheckedMul<size_t>(0, SIZE_MAX), 0u);
}

}  // namespace
}  // namespace reprise
