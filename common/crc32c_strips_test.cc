#include "common/crc32c_strips.h"

#include <gtest/gtest.h>

#include <string>

#include "common/random.h"

namespace reprise {
namespace {

std::vector<uint8_t> RandomBytes(SplitMix64& random, size_t n) {
  std::vector<uint8_t> bytes(n);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Next());
  return bytes;
}

// Whole vectors, pairs of them, several pairs, odd lengths; touching, and pages apart.
std::vector<Crc32cStrips> Shapes() {
  std::vector<Crc32cStrips> shapes;
  for (const size_t bytes : {1, 7, 16, 64, 127, 128, 129, 192, 256, 384, 1152}) {
    for (const size_t gap : {0, 1, 64, 4096}) {
      for (const size_t count : {0, 1, 2, 5, 24}) shapes.push_back({count, bytes, bytes + gap});
    }
  }
  return shapes;
}

size_t BytesPacked(const Crc32cStrips& strips) { return strips.count * strips.bytes; }
size_t BytesInPlace(const Crc32cStrips& strips) {
  return strips.count == 0 ? 0 : (strips.count - 1) * strips.stride + strips.bytes;
}

std::string Name(const Crc32cStrips& strips) {
  return std::to_string(strips.count) + " of " + std::to_string(strips.bytes) + " every " +
         std::to_string(strips.stride);
}

class Crc32cStripsTest : public testing::TestWithParam<Crc32cStripsImplementation> {};

TEST_P(Crc32cStripsTest, GathersStripsWithTheChecksumOfWhatItWrote) {
  SplitMix64 random(1);
  for (const Crc32cStrips& strips : Shapes()) {
    const std::vector<uint8_t> place = RandomBytes(random, BytesInPlace(strips));
    std::vector<uint8_t> expected;
    for (size_t i = 0; i < strips.count; ++i) {
      const uint8_t* const strip = place.data() + i * strips.stride;
      expected.insert(expected.end(), strip, strip + strips.bytes);
    }
    std::vector<uint8_t> packed(BytesPacked(strips) + 1, 0xa5);
    const auto seed = static_cast<uint32_t>(random.Next());
    EXPECT_EQ(GetParam().gather(packed.data(), place.data(), strips, seed, place.data()),
              Crc32c(expected.data(), expected.size(), seed))
        << Name(strips);
    EXPECT_EQ(packed.back(), 0xa5) << Name(strips);
    packed.pop_back();
    EXPECT_EQ(packed, expected) << Name(strips);
  }
}

TEST_P(Crc32cStripsTest, ScattersThemBackAndSumsThemBothWays) {
  SplitMix64 random(2);
  for (const Crc32cStrips& strips : Shapes()) {
    const std::vector<uint8_t> packed = RandomBytes(random, BytesPacked(strips));
    std::vector<uint8_t> expected(BytesInPlace(strips) + 1, 0xa5);
    std::vector<uint8_t> alone(BytesInPlace(strips), 0);  // with zeros between
    for (size_t i = 0; i < packed.size(); ++i) {
      const size_t at = i / strips.bytes * strips.stride + i % strips.bytes;
      expected[at] = alone[at] = packed[i];
    }
    std::vector<uint8_t> place(expected.size(), 0xa5);
    const auto seed = static_cast<uint32_t>(random.Next());
    // The public face gives the constants, so the dispatched one is compared as well.
    const Crc32cScatterer scatterer(strips);
    const Crc32cScattered sums =
        GetParam().scatter(place.data(), packed.data(), strips, PowersOf(strips), seed, nullptr);
    EXPECT_EQ(place, expected) << Name(strips);
    EXPECT_EQ(sums.crc, Crc32c(packed.data(), packed.size(), seed)) << Name(strips);
    EXPECT_EQ(sums.part, Crc32cPart(alone.data(), alone.size())) << Name(strips);
    const Crc32cScattered dispatched =
        scatterer.Scatter(place.data(), packed.data(), seed, place.data());
    EXPECT_EQ(dispatched.crc, sums.crc) << Name(strips);
    EXPECT_EQ(dispatched.part, sums.part) << Name(strips);
    EXPECT_EQ(place, expected) << Name(strips);
  }
}

TEST(Crc32cStrips, AnyAddressMayComeSoon) {
  const std::vector<uint8_t> place(1024, 3);
  std::vector<uint8_t> packed(512);
  const Crc32cStrips strips{.count = 4, .bytes = 128, .stride = 256};
  const void* const nowhere = reinterpret_cast<const void*>(uintptr_t{64});
  Approach(nowhere, strips);
  EXPECT_EQ(Crc32cGather(packed.data(), place.data(), strips, 5, nowhere),
            Crc32cGather(packed.data(), place.data(), strips, 5, nullptr));
}

INSTANTIATE_TEST_SUITE_P(All, Crc32cStripsTest, testing::ValuesIn(Crc32cStripsImplementations()),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::erase(name, '.');
                           return name;
                         });

}  // namespace
}  // namespace reprise
