#include "common/crc32c.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "common/random.h"

namespace reprise {
namespace {

// One bit at a time, straight from the definition.
uint32_t BitByBit(const uint8_t* data, size_t n, uint32_t seed) {
  uint32_t crc = ~seed;
  for (size_t i = 0; i < n; ++i) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
  }
  return ~crc;
}

// Of a polynomial modulo the CRC's, reflected.
uint32_t BitByBitTimesX(uint32_t power, int n) {
  for (; n > 0; --n) power = (power >> 1) ^ ((power & 1) != 0 ? 0x82f63b78u : 0);
  return power;
}

std::vector<uint8_t> RandomBytes(SplitMix64& random, size_t n) {
  std::vector<uint8_t> bytes(n);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Next());
  return bytes;
}

class Crc32cTest : public testing::TestWithParam<Crc32cImplementation> {};

// RFC 3720, B.4, and the check value of the catalogue of CRC algorithms.
TEST_P(Crc32cTest, GivesThePublishedValues) {
  const auto crc = [](const std::vector<uint8_t>& bytes) {
    return GetParam().crc(bytes.data(), bytes.size(), 0);
  };
  std::vector<uint8_t> ascending(32);
  std::vector<uint8_t> descending(32);
  for (int i = 0; i < 32; ++i) {
    ascending[i] = static_cast<uint8_t>(i);
    descending[i] = static_cast<uint8_t>(31 - i);
  }
  const std::vector<uint8_t> read_pdu = {
      0x01, 0xc0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0,
      0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0,    0};
  EXPECT_EQ(crc(std::vector<uint8_t>(32, 0)), 0x8a9136aau);
  EXPECT_EQ(crc(std::vector<uint8_t>(32, 0xff)), 0x62a8ab43u);
  EXPECT_EQ(crc(ascending), 0x46dd794eu);
  EXPECT_EQ(crc(descending), 0x113fdb5cu);
  EXPECT_EQ(crc(read_pdu), 0xd9963a56u);
  EXPECT_EQ(GetParam().crc("123456789", 9, 0), 0xe3069283u);
  EXPECT_EQ(GetParam().crc(nullptr, 0, 0), 0u);
  EXPECT_EQ(GetParam().crc(nullptr, 0, 77), 77u);
}

// Every length around the vector, stream and round sizes, at every alignment of 64.
TEST_P(Crc32cTest, AgreesWithTheDefinitionAtEveryLengthAndAlignment) {
  SplitMix64 random(1);
  const std::vector<uint8_t> bytes = RandomBytes(random, 8192);
  for (size_t n = 0; n < 1100; ++n) {
    const size_t offset = n % 64;
    const auto seed = static_cast<uint32_t>(random.Next());
    ASSERT_EQ(GetParam().crc(&bytes[offset], n, seed), BitByBit(&bytes[offset], n, seed)) << n;
  }
  for (const size_t around : {3072u, 6144u, 4096u}) {
    for (size_t n = around - 70; n < around + 70; ++n) {
      ASSERT_EQ(GetParam().crc(&bytes[n % 64], n, 9), BitByBit(&bytes[n % 64], n, 9)) << n;
    }
  }
}

TEST_P(Crc32cTest, ExtendsOverAnySplit) {
  SplitMix64 random(2);
  const std::vector<uint8_t> bytes = RandomBytes(random, 20'000);
  const uint32_t whole = GetParam().crc(bytes.data(), bytes.size(), 0);
  for (int round = 0; round < 300; ++round) {
    uint32_t crc = 0;
    size_t at = 0;
    while (at < bytes.size()) {
      const size_t n = std::min<size_t>(1 + random.Below(9000), bytes.size() - at);
      crc = GetParam().crc(&bytes[at], n, crc);
      at += n;
    }
    ASSERT_EQ(crc, whole) << "round " << round;
  }
}

TEST_P(Crc32cTest, CopiesExactlyTheRangeAndChecksumsIt) {
  SplitMix64 random(3);
  const std::vector<uint8_t> src = RandomBytes(random, 10'000);
  for (int round = 0; round < 500; ++round) {
    const size_t n = round < 300 ? round : random.Below(9000);
    const size_t from = random.Below(64);
    const size_t to = 1 + random.Below(64);
    std::vector<uint8_t> dst(to + n + 1, 0xa5);
    const auto seed = static_cast<uint32_t>(random.Next());
    ASSERT_EQ(GetParam().copy(&dst[to], &src[from], n, seed), BitByBit(&src[from], n, seed)) << n;
    ASSERT_EQ(std::memcmp(&dst[to], &src[from], n), 0) << n;
    ASSERT_EQ(dst[to - 1], 0xa5) << n;
    ASSERT_EQ(dst[to + n], 0xa5) << n;
  }
}

TEST_P(Crc32cTest, SeesEverySingleFlippedBit) {
  SplitMix64 random(4);
  std::vector<uint8_t> bytes = RandomBytes(random, 700);
  const uint32_t original = GetParam().crc(bytes.data(), bytes.size(), 0);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    ASSERT_NE(GetParam().crc(bytes.data(), bytes.size(), 0), original) << "bit " << bit;
    bytes[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
  }
}

TEST_P(Crc32cTest, ShiftsByAnyPower) {
  constexpr uint32_t kOne = 0x80000000;
  EXPECT_EQ(GetParam().shift(kOne, kOne), BitByBitTimesX(kOne, 33));
  SplitMix64 random(6);
  for (int round = 0; round < 200; ++round) {
    const auto part = static_cast<uint32_t>(random.Next());
    const int n = static_cast<int>(random.Below(300));
    EXPECT_EQ(GetParam().shift(part, BitByBitTimesX(kOne, n)), BitByBitTimesX(part, n + 33)) << n;
    EXPECT_EQ(GetParam().shift(BitByBitTimesX(kOne, n), part), BitByBitTimesX(part, n + 33)) << n;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Crc32cTest, testing::ValuesIn(Crc32cImplementations()),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::erase(name, '.');
                           return name;
                         });

TEST(Crc32c, TheDispatchedOnesAgreeWithTheTable) {
  ASSERT_STREQ(Crc32cImplementations().back().name, "table");
  SplitMix64 random(5);
  const std::vector<uint8_t> bytes = RandomBytes(random, 100'000);
  std::vector<uint8_t> copy(bytes.size());
  const uint32_t expected = Crc32cImplementations().back().crc(bytes.data(), bytes.size(), 3);
  EXPECT_EQ(Crc32c(bytes.data(), bytes.size(), 3), expected);
  EXPECT_EQ(Crc32cCopy(copy.data(), bytes.data(), bytes.size(), 3), expected);
  EXPECT_EQ(copy, bytes);
}

TEST(Crc32c, ChecksumsOfTwoPartsCombine) {
  SplitMix64 random(7);
  const std::vector<uint8_t> bytes = RandomBytes(random, 5'000);
  for (size_t at : {0, 1, 7, 8, 63, 64, 1024, 4999, 5000}) {
    EXPECT_EQ(Crc32cCombine(Crc32c(bytes.data(), at, 5), Crc32c(&bytes[at], bytes.size() - at),
                            bytes.size() - at),
              Crc32c(bytes.data(), bytes.size(), 5))
        << at;
  }
}

// Pieces of all lengths in a random order, some of zeros that nobody sums.
TEST(Crc32c, AChecksumIsTheSumOfItsPartsInAnyOrder) {
  SplitMix64 random(8);
  for (int round = 0; round < 100; ++round) {
    std::vector<uint8_t> whole;
    std::vector<std::pair<size_t, size_t>> pieces;  // where, bytes
    for (int i = 0; i < 20; ++i) {
      std::vector<uint8_t> piece = RandomBytes(random, random.Below(300));
      if (random.Chance(0.3)) {
        piece.assign(piece.size(), 0);
      } else {
        pieces.insert(pieces.begin() + static_cast<std::ptrdiff_t>(random.Below(pieces.size() + 1)),
                      {whole.size(), piece.size()});
      }
      whole.insert(whole.end(), piece.begin(), piece.end());
    }
    std::vector<uint8_t> copy(whole.size(), 0);
    uint32_t parts = 0;
    for (const auto& [at, n] : pieces) {
      const uint32_t part = Crc32cPartCopy(copy.data() + at, whole.data() + at, n);
      EXPECT_EQ(part, Crc32cPart(whole.data() + at, n));
      parts ^= Crc32cShift(whole.size() - at - n)(part);
    }
    EXPECT_EQ(copy, whole);
    EXPECT_EQ(Crc32cOfParts(parts, Crc32cShift(whole.size()), 99),
              Crc32c(whole.data(), whole.size(), 99));
  }
}

}  // namespace
}  // namespace reprise
