#include "common/random.h"

#include <gtest/gtest.h>

#include <set>

namespace reprise {
namespace {

// 10,000 draws of 64 bits repeat with probability 3e-12.
TEST(SystemRandom, DoesNotRepeat) {
  std::set<uint64_t> seen;
  std::set<std::array<uint8_t, 16>> seen16;
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_TRUE(seen.insert(RandomU64()).second);
    ASSERT_TRUE(seen16.insert(RandomBytes16()).second);
  }
}

// The first outputs for seed 1234567, as published with the reference implementation.
TEST(SplitMix64, GivesThePublishedSequence) {
  SplitMix64 random(1234567);
  EXPECT_EQ(random.Next(), 6457827717110365317u);
  EXPECT_EQ(random.Next(), 3203168211198807973u);
  EXPECT_EQ(random.Next(), 9817491932198370423u);
}

TEST(SplitMix64, StaysInBoundsAndReachesAll) {
  SplitMix64 random(1);
  std::set<uint64_t> seen;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t value = random.Below(7);
    ASSERT_LT(value, 7u);
    seen.insert(value);
    const double uniform = random.Uniform();
    ASSERT_GE(uniform, 0);
    ASSERT_LT(uniform, 1);
  }
  EXPECT_EQ(seen.size(), 7u);
  EXPECT_EQ(random.Below(0), 0u);
  EXPECT_EQ(random.Below(1), 0u);
  EXPECT_FALSE(random.Chance(0));
  EXPECT_TRUE(random.Chance(1));
}

TEST(SplitMix64, SplitsIntoDifferentSequences) {
  SplitMix64 parent(1);
  SplitMix64 child = parent.Split();
  EXPECT_NE(child.Next(), parent.Next());
}

}  // namespace
}  // namespace reprise
