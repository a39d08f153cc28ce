#include "worker/model/rope_frequencies.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

namespace reprise::worker {
namespace {

TEST(RopeFrequencies, ArePowersOfTheta) {
  for (const double theta : {1.0, 10000.0, 500000.0, 1e12}) {
    for (const int64_t head_dim : {2, 8, 32, 64, 128, 256}) {
      ModelConfig c;
      c.rope_theta = theta;
      c.head_dim = head_dim;
      const std::vector<double> f = RopeInverseFrequencies(c);
      ASSERT_EQ(f.size(), static_cast<size_t>(head_dim / 2));
      for (size_t i = 0; i < f.size(); ++i) {
        const double want =
            std::pow(theta, -2 * static_cast<double>(i) / static_cast<double>(head_dim));
        EXPECT_NEAR(f[i] / want, 1, 1e-13) << theta << " " << head_dim << " " << i;
      }
    }
  }
}

TEST(RopeFrequencies, KeepTheirBits) {
  ModelConfig c;
  c.rope_theta = 500000;
  c.head_dim = 64;
  const std::vector<double> f = RopeInverseFrequencies(c);
  const auto bits = [&f](size_t i) { return std::bit_cast<uint64_t>(f[i]); };
  EXPECT_EQ(bits(0), 0x3ff0000000000000u);
  EXPECT_EQ(bits(1), 0x3fe53c38a9afaca0u);
  EXPECT_EQ(bits(16), 0x3f572ba43fff3720u);
  EXPECT_EQ(bits(31), 0x3ec948360a975f50u);
}

TEST(RopeFrequencies, FollowLlama3Scaling) {
  ModelConfig c;
  c.rope_theta = 500000;
  c.head_dim = 64;
  const std::vector<double> plain = RopeInverseFrequencies(c);
  c.rope_scaling = {RopeKind::kLlama3, 32, 1, 4, 8192};
  const std::vector<double> scaled = RopeInverseFrequencies(c);
  int kept = 0, blended = 0, stretched = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * 3.14159265358979323846 / plain[i];
    if (wavelength < 2048) {
      EXPECT_EQ(scaled[i], plain[i]);
      ++kept;
    } else if (wavelength > 8192) {
      EXPECT_EQ(scaled[i], plain[i] / 32);
      ++stretched;
    } else {
      EXPECT_LT(scaled[i], plain[i]);
      EXPECT_GT(scaled[i], plain[i] / 32);
      ++blended;
    }
  }
  EXPECT_GT(kept, 10);
  EXPECT_GT(blended, 1);
  EXPECT_GT(stretched, 10);
  c.rope_scaling = {RopeKind::kLinear, 4, 1, 4, 8192};
  EXPECT_EQ(RopeInverseFrequencies(c)[5], plain[5] / 4);
}

TEST(RopeFrequencies, SeveralHeadsSideBySideHaveThemEach) {
  ModelConfig one;
  one.head_dim = 16;
  ModelConfig three;
  three.latent = LatentAttention{.rope_dim = 48, .rope_heads = 3};
  std::vector<double> want;
  for (int i = 0; i < 3; ++i) {
    for (const double f : RopeInverseFrequencies(one)) want.push_back(f);
  }
  EXPECT_EQ(RopeInverseFrequencies(three), want);
}

}  // namespace
}  // namespace reprise::worker
