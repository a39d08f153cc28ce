// The sampling pieces and the counter-based generator.
#include <algorithm>

#include "kernels/ref/ref.h"
#include "kernels/test_util.h"

namespace reprise::kernels {
namespace {

using namespace testing;

// Logits with many ties: multiples of 1/4.
std::vector<float> Coarse(int64_t n, uint32_t stream) {
  std::vector<float> v = Uniform(n, stream, 12);
  for (float& x : v) x = std::floor(x * 4) / 4;
  return v;
}

TEST(Argmax, TakesTheLowestIdOfTheLargest) {
  for (Isa isa : Isas()) {
    const auto argmax = [&](const std::vector<float>& v) {
      return Select(isa).argmax(v.data(), static_cast<int64_t>(v.size()));
    };
    for (int64_t n : {1, 15, 16, 17, 100, 1000}) {
      const std::vector<float> v = Coarse(n, static_cast<uint32_t>(n));
      EXPECT_EQ(argmax(v), std::max_element(v.begin(), v.end()) - v.begin()) << n;
    }
    EXPECT_EQ(argmax({kNaN, -kInf, kNaN}), 1);
    EXPECT_EQ(argmax({kNaN, 1, kNaN, 2, kNaN}), 3);
    EXPECT_EQ(argmax({-kInf, -kInf}), 0);
    EXPECT_EQ(argmax({0.0f, -0.0f, 0.0f}), 0);
    EXPECT_EQ(argmax({kNaN, kNaN}), -1);
    EXPECT_EQ(argmax({}), -1);
    std::vector<float> late(40, kNaN);
    late[33] = -kInf;
    EXPECT_EQ(argmax(late), 33);
  }
}

TEST(TopK, IsTheSortedPrefix) {
  for (int64_t n : {1, 16, 100, 3001}) {
    std::vector<float> v = Coarse(n, 3);
    if (n > 50) v[7] = v[40] = kNaN;
    std::vector<Candidate> sorted;
    for (int64_t i = 0; i < n; ++i) {
      if (!std::isnan(v[i])) sorted.push_back({v[i], static_cast<int32_t>(i)});
    }
    std::sort(sorted.begin(), sorted.end(), [](const Candidate& a, const Candidate& b) {
      return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    });
    for (int64_t k : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{50}, n}) {
      for (Isa isa : Isas()) {
        std::vector<Candidate> got(static_cast<size_t>(k));
        const int64_t count = Select(isa).top_k(v.data(), n, k, got.data());
        ASSERT_EQ(count, std::min<int64_t>(k, static_cast<int64_t>(sorted.size())));
        for (int64_t i = 0; i < count; ++i) {
          ASSERT_EQ(got[i].id, sorted[i].id) << "n " << n << " k " << k << " place " << i;
          ASSERT_EQ(got[i].logit, sorted[i].logit);
        }
      }
    }
  }
}

TEST(SoftmaxStats, AgreesWithDouble) {
  for (int64_t n : {1, 5, 16, 500, 32'000}) {
    const std::vector<float> v = Uniform(n, 9, 20);
    const double want = ref::LogSumExp(ToDouble(v));
    const SoftmaxStats first = Select(Isa::kScalar).softmax_stats(v.data(), n);
    for (Isa isa : Isas()) {
      const SoftmaxStats s = Select(isa).softmax_stats(v.data(), n);
      EXPECT_EQ(s.max, *std::max_element(v.begin(), v.end()));
      // Each exp errs by 2 ulp and the rounding of its argument (below 40, so 40 half ulps); a lane
      // adds n / 16 terms; the result, below 32, is rounded once.
      EXPECT_NEAR(s.lse, want, 0x1p-24 * (4 + 40 + static_cast<double>(n) / 16 + 4 + 32));
      EXPECT_TRUE(SameBits({s.max, s.sum, s.lse}, {first.max, first.sum, first.lse}))
          << IsaName(isa);
    }
  }
}

TEST(SoftmaxStats, NanAndEmptyRowsAreMinusInfinity) {
  for (Isa isa : Isas()) {
    const std::vector<float> nan = {kNaN, -kInf, kNaN};
    EXPECT_EQ(Select(isa).softmax_stats(nan.data(), 3).lse, -kInf);
    EXPECT_EQ(Select(isa).softmax_stats(nan.data(), 0).lse, -kInf);
    const std::vector<float> one = {kNaN, 3, -kInf};
    EXPECT_EQ(Select(isa).softmax_stats(one.data(), 3).lse, 3.0f);
  }
}

TEST(SoftmaxSorted, CumulatesInOrder) {
  std::vector<Candidate> c = {{5, 3}, {4.5f, 1}, {4.5f, 2}, {-100, 0}};
  for (Isa isa : Isas()) {
    std::vector<double> cumulative(4, -1);
    const double total = Select(isa).softmax_sorted(c.data(), 4, cumulative.data());
    EXPECT_EQ(cumulative[0], 1.0);
    EXPECT_NEAR(cumulative[1], 1 + std::exp(-0.5), 1e-7);
    EXPECT_NEAR(cumulative[2], 1 + 2 * std::exp(-0.5), 2e-7);
    EXPECT_EQ(cumulative[3], total);
    EXPECT_EQ(cumulative[3], cumulative[2]);  // exp(-105) is below the smallest float
  }
}

TEST(Logits, TemperatureAndPenalties) {
  for (Isa isa : Isas()) {
    std::vector<float> v = Uniform(37, 4, 5);
    const std::vector<float> before = v;
    Select(isa).apply_temperature(v.data(), 37, 0.7f);
    for (size_t i = 0; i < v.size(); ++i) EXPECT_EQ(v[i], before[i] / 0.7f);

    std::vector<float> logits = {2, -2, 1, 0, 4};
    const TokenCount counts[] = {{0, 1, 0}, {1, 0, 3}, {4, 2, 1}, {2, 0, 0}};
    Select(isa).apply_penalties(logits.data(), counts, 4, {2.0f, 0.5f, 0.25f});
    EXPECT_EQ(logits, (std::vector<float>{1, -4 - 1.25f, 1, 0, 2 - 0.75f}));
  }
}

TEST(Philox, GivesTheKnownAnswersOfRandom123) {
  using Block = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformDependsOnEveryArgumentAndStaysBelowOne) {
  const double u = UniformAt(1, 2, 3);
  EXPECT_NE(u, UniformAt(2, 2, 3));
  EXPECT_NE(u, UniformAt(1, 3, 3));
  EXPECT_NE(u, UniformAt(1, 2, 4));
  EXPECT_NE(u, UniformAt(uint64_t{1} << 40 | 1, 2, 3));
  EXPECT_NE(u, UniformAt(1, 2, uint64_t{1} << 40 | 3));
  double sum = 0;
  for (uint64_t i = 0; i < 100'000; ++i) {
    const double x = UniformAt(42, 0, i);
    ASSERT_TRUE(x >= 0 && x < 1);
    sum += x;
  }
  EXPECT_NEAR(sum / 100'000, 0.5, 0.005);  // five standard deviations: 5 * 0.2887 / sqrt(100,000)
}

}  // namespace
}  // namespace reprise::kernels
