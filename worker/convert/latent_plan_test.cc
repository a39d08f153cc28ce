#include "worker/convert/latent_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <string>

#include "common/random.h"

namespace reprise::convert {
namespace {

using testing::HasSubstr;

worker::ModelConfig Config(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  worker::ModelConfig c;
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.head_dim = head_dim;
  return c;
}

LatentShape Fit(const LatentSizes& sizes) {
  const auto shape = FitLatent(Config(8, 4, 16), sizes);
  EXPECT_TRUE(shape.ok()) << shape.status();
  return *shape;
}

std::string Refusal(const LatentSizes& sizes, const worker::ModelConfig& config) {
  const auto shape = FitLatent(config, sizes);
  return shape.ok() ? "accepted" : std::string(shape.status().message());
}

double Uniform(SplitMix64& random) {
  return static_cast<double>(random.Below(1 << 30)) / (1 << 29) - 1;
}

// Columns are tokens.
Matrix RandomTokens(int64_t rows, int64_t tokens, uint64_t seed) {
  SplitMix64 random(seed);
  Matrix m(rows, tokens);
  for (double& x : m.values()) x = Uniform(random);
  return m;
}

Matrix MomentsOf(const Matrix& z) { return Product(z, Transposed(z)); }

double LargestDifference(const Matrix& a, const Matrix& b) {
  double largest = 0;
  for (size_t i = 0; i < a.values().size(); ++i) {
    largest = std::max(largest, std::abs(a.values()[i] - b.values()[i]));
  }
  return largest;
}

TEST(LatentPlan, ShapesFollowFromTheSizes) {
  const LatentShape full = Fit({});
  EXPECT_EQ(full.rope_dims, 64);
  EXPECT_EQ(full.rope_heads(), 4);
  EXPECT_EQ(full.rank, 64);
  EXPECT_FALSE(full.needs_moments());
  const LatentShape small = Fit({.rope_dims = 8, .rank = 20});
  EXPECT_EQ(small.stride(), 2);
  EXPECT_EQ(small.fold, 2);
  EXPECT_EQ(small.rank_max(), 120);
  EXPECT_EQ(Fit({.rope_dims = 32}).rope_heads(), 2);
}

TEST(LatentPlan, RefusesSizesByNameLimitAndValue) {
  const worker::ModelConfig c = Config(8, 4, 16);
  EXPECT_THAT(Refusal({.rope_dims = 65}, c),
              HasSubstr("rope dims is 65, the range for this model"));
  EXPECT_THAT(Refusal({.rope_dims = -2}, c), HasSubstr("rope dims is -2"));
  EXPECT_THAT(Refusal({.rope_dims = 6}, c), HasSubstr("rope dims are 6, neither an even divisor"));
  EXPECT_THAT(Refusal({.rope_dims = 24}, c), HasSubstr("nor a multiple"));
  EXPECT_THAT(Refusal({.rope_dims = 16, .rank = 113}, c),
              HasSubstr("rank is 113, the range for this model is 1 to 112"));
  EXPECT_THAT(Refusal({.rank = -1}, c), HasSubstr("rank is -1"));
  EXPECT_THAT(Refusal({.rope_dims = 8, .fold = 3}, c), HasSubstr("fold is 3, not a multiple of 2"));
  EXPECT_THAT(Refusal({.rope_dims = 8, .fold = 6}, c), HasSubstr("that divides 8 pairs"));
  EXPECT_THAT(Refusal({}, Config(32, 8, 128)), HasSubstr("rope dims are 1024, the limit is 256"));
  EXPECT_THAT(Refusal({.rope_dims = 128}, Config(32, 8, 128)),
              HasSubstr("rank is 1920, the limit is 1024"));
}

TEST(LatentPlan, NothingLeftOutChangesNothing) {
  const LatentShape shape = Fit({});
  const auto plan = PlanLatent(shape, Matrix());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->down_values, Identity(64));
  EXPECT_EQ(plan->up_values, Identity(64));
  EXPECT_EQ(plan->down_keys, Matrix(64, 64));
  // Pair i of head h is pair 8 h + i of the rotated key, its halves neighbours.
  for (int64_t head = 0; head < 4; ++head) {
    for (int64_t i = 0; i < 8; ++i) {
      const int64_t row = 2 * (8 * head + i);
      EXPECT_EQ(plan->rotated.at(row, 16 * head + i), 1);
      EXPECT_EQ(plan->rotated.at(row + 1, 16 * head + i + 8), 1);
    }
  }
  EXPECT_EQ(Product(Transposed(plan->rotated), plan->rotated), Identity(64));
}

// At the rank of everything a token's keys and values come back: what is rotated and what stands
// still are all of k.
TEST(LatentPlan, AtFullRankKeysAndValuesComeBack) {
  const Matrix z = RandomTokens(128, 500, 1);
  for (const LatentSizes& sizes :
       {LatentSizes{.rope_dims = 16}, LatentSizes{.rope_dims = 8, .fold = 4},
        LatentSizes{.rope_dims = 32}, LatentSizes{.rope_dims = 2}}) {
    const auto plan = PlanLatent(Fit(sizes), MomentsOf(z));
    ASSERT_TRUE(plan.ok()) << plan.status();
    const Matrix k = RowsOf(z, 0, 64);
    const Matrix v = RowsOf(z, 64, 64);
    Matrix latent = Product(plan->down_keys, k);
    AddScaled(latent, 1, Product(plan->down_values, v));
    Matrix back = Product(plan->up_keys, latent);
    AddScaled(back, 1, Product(Transposed(plan->rotated), Product(plan->rotated, k)));
    EXPECT_LT(LargestDifference(back, k), 1e-12);
    EXPECT_LT(LargestDifference(Product(plan->up_values, latent), v), 1e-12);
  }
}

// Scores with every head's keys turned are those of the rotated key, where all of it is kept and
// where the heads' keys are one number turned by fixed angles, so that one component is all.
TEST(LatentPlan, OneRotatedHeadIsEnoughForKeysThatMoveTogether) {
  const LatentShape shape = Fit({.rope_dims = 16});
  SplitMix64 random(2);
  Matrix z(128, 300);
  for (int64_t pair = 0; pair < 8; ++pair) {
    for (int64_t t = 0; t < z.cols(); ++t) {
      const std::complex<double> number(Uniform(random), Uniform(random));
      for (int64_t head = 0; head < 4; ++head) {
        const auto angle = static_cast<double>(3 * pair + 5 * head);
        const std::complex<double> key = number * std::polar(1 + static_cast<double>(head), angle);
        z.at(16 * head + pair, t) = key.real();
        z.at(16 * head + pair + 8, t) = key.imag();
      }
    }
  }
  for (int64_t i = 64; i < 128; ++i) {
    for (int64_t t = 0; t < z.cols(); ++t) z.at(i, t) = Uniform(random);
  }
  const auto plan = PlanLatent(shape, MomentsOf(z));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const Matrix k = RowsOf(z, 0, 64);
  EXPECT_LT(LargestDifference(Product(Transposed(plan->rotated), Product(plan->rotated, k)), k),
            1e-12);
  EXPECT_LT(LargestDifference(Product(plan->down_keys, k), Matrix(112, 300)), 1e-12);
}

// Any component turns as its pairs do: the transformation of turned keys is the turned
// transformation.
TEST(LatentPlan, MixingHeadsCommutesWithRotation) {
  const LatentShape shape = Fit({.rope_dims = 16});
  const auto plan = PlanLatent(shape, MomentsOf(RandomTokens(128, 400, 3)));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const Matrix k = RandomTokens(64, 1, 4);
  Matrix turned(64, 1);
  const auto turn = [](double x, double y, double angle, double* to_x, double* to_y) {
    const auto z = std::complex<double>(x, y) * std::polar(1.0, angle);
    *to_x = z.real();
    *to_y = z.imag();
  };
  for (int64_t head = 0; head < 4; ++head) {
    for (int64_t i = 0; i < 8; ++i) {
      const int64_t at = 16 * head + i;
      turn(k.at(at, 0), k.at(at + 8, 0), static_cast<double>(i + 1), &turned.at(at, 0),
           &turned.at(at + 8, 0));
    }
  }
  const Matrix after = Product(plan->rotated, turned);
  const Matrix before = Product(plan->rotated, k);
  Matrix want(16, 1);
  for (int64_t i = 0; i < 8; ++i) {
    turn(before.at(2 * i, 0), before.at(2 * i + 1, 0), static_cast<double>(i + 1),
         &want.at(2 * i, 0), &want.at(2 * i + 1, 0));
  }
  EXPECT_LT(LargestDifference(after, want), 1e-12);
}

TEST(LatentPlan, ASmallerRankKeepsWhatIsStrong) {
  // Values of three directions, keys of none but what is rotated.
  Matrix z(128, 300);
  const Matrix three = RandomTokens(3, 300, 5);
  const Matrix mix = RandomTokens(64, 3, 6);
  const Matrix values = Product(mix, three);
  for (int64_t i = 0; i < 64; ++i) std::copy_n(values.row(i), 300, z.row(64 + i));
  for (const int64_t rank : {2, 3}) {
    const auto plan = PlanLatent(Fit({.rope_dims = 16, .rank = rank}), MomentsOf(z));
    ASSERT_TRUE(plan.ok()) << plan.status();
    const double lost =
        LargestDifference(Product(plan->up_values, Product(plan->down_values, values)), values);
    if (rank == 3) {
      EXPECT_LT(lost, 1e-12);
    } else {
      EXPECT_GT(lost, 0.1);
    }
  }
}

}  // namespace
}  // namespace reprise::convert
