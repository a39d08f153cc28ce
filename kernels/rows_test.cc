// Norm, rope, SwiGLU, embedding and conversions: against double, and the same bits on every
// instruction set.
#include "kernels/cpu/thread_pool.h"
#include "kernels/ref/ref.h"
#include "kernels/test_util.h"

namespace reprise::kernels {
namespace {

using namespace testing;

constexpr double kUlp = 0x1p-24;  // half an ulp of 1: the error of one rounding, relatively

TEST(RmsNorm, AgreesWithDoubleAndWithItself) {
  ThreadPool pool(2);
  for (int64_t cols : {1, 15, 16, 33, 64, 768, 1000}) {
    constexpr int64_t kRows = 50;
    const std::vector<float> x = Uniform(kRows * cols, 1, 3);
    const std::vector<float> weight = Uniform(cols, 2);
    const ref::Vec want = ref::RmsNorm(ToDouble(x), ToDouble(weight), 1e-5);
    std::vector<float> first;
    for (Isa isa : Isas()) {
      std::vector<float> y(x.size(), kNaN);
      Exec exec;
      exec.pool = &pool;
      Select(isa).rms_norm(exec, {x.data(), kRows, cols, cols}, weight.data(), 1e-5f,
                           {y.data(), kRows, cols, cols});
      for (size_t i = 0; i < y.size(); ++i) {
        // cols / 16 roundings of a lane and 4 of the tree count half under the root; 7 more follow.
        const double relative = kUlp * (static_cast<double>(cols) / 32 + 10);
        ASSERT_NEAR(y[i], want[i], std::abs(want[i]) * relative) << "cols " << cols;
      }
      if (first.empty()) first = y;
      EXPECT_TRUE(SameBits(y, first)) << IsaName(isa);
    }
  }
}

TEST(Rope, TableIsGoodToPositionTwoToTheTwenty) {
  const std::vector<double> inv_freq = {1.0, 0.8659643233600653, 0.1, 1e-4, 2.5e-7};
  std::vector<int64_t> positions = {0, 1, 2, 1023, (1 << 20) - 1, 1 << 20};
  for (uint64_t i = 0; i < 20'000; ++i) {
    positions.push_back(static_cast<int64_t>(UniformAt(1, 0, i) * 0x1p20));
  }
  const auto m = static_cast<int64_t>(positions.size());
  std::vector<float> cos(positions.size() * 5, kNaN);
  std::vector<float> sin(positions.size() * 5, kNaN);
  FillRopeTable(positions.data(), m, inv_freq.data(), 5, cos.data(), sin.data());
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < 5; ++i) {
      const double angle = static_cast<double>(positions[r]) * inv_freq[i];
      ASSERT_NEAR(cos[r * 5 + i], std::cos(angle), 1e-7) << angle;
      ASSERT_NEAR(sin[r * 5 + i], std::sin(angle), 1e-7) << angle;
    }
  }
}

TEST(Rope, RotatesHalvesAndLeavesTheRest) {
  struct Case {
    int64_t heads, head_dim, half;
  };
  for (const Case& c : {Case{1, 8, 4}, Case{3, 64, 32}, Case{2, 80, 16}, Case{4, 96, 48}}) {
    const std::vector<int64_t> positions = {0, 5, 1000};
    std::vector<double> inv_freq;
    for (int64_t i = 0; i < c.half; ++i) {
      inv_freq.push_back(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(c.half)));
    }
    std::vector<float> cos(3 * c.half);
    std::vector<float> sin(3 * c.half);
    FillRopeTable(positions.data(), 3, inv_freq.data(), c.half, cos.data(), sin.data());
    const int64_t width = c.heads * c.head_dim;
    const std::vector<float> x = Uniform(3 * width, 1);
    const ref::Vec want = ref::Rope(ToDouble(x), positions, inv_freq, c.heads, c.head_dim);
    std::vector<float> first;
    for (Isa isa : Isas()) {
      std::vector<float> y = x;
      Select(isa).rope_apply({}, {cos.data(), sin.data(), c.half}, c.head_dim,
                             {y.data(), 3, width, width});
      // The table errs by 1e-7 and three roundings follow, on numbers of at most 2.
      for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], want[i], 2e-7 + 6 * kUlp);
      if (first.empty()) first = y;
      EXPECT_TRUE(SameBits(y, first)) << IsaName(isa);
    }
  }
}

TEST(Swiglu, AgreesWithDoubleAndMayRunInPlace) {
  constexpr int64_t kCols = 1003;
  std::vector<float> gate = Uniform(2 * kCols, 1, 30);
  gate[0] = -kInf;  // silu(-inf) is -inf * 0
  gate[1] = kInf;
  gate[2] = -200;
  gate[3] = 0;
  const std::vector<float> up = Uniform(2 * kCols, 2);
  const ref::Vec want = ref::Swiglu(ToDouble(gate), ToDouble(up));
  std::vector<float> first;
  for (Isa isa : Isas()) {
    std::vector<float> y = gate;
    const F32 view{y.data(), 2, kCols, kCols};
    Select(isa).swiglu({}, view, {up.data(), 2, kCols, kCols}, view);
    EXPECT_TRUE(std::isnan(y[0]));
    EXPECT_EQ(std::abs(y[1]), kInf);
    for (size_t i = 2; i < y.size(); ++i) {
      // exp errs by 2 ulp (4 halves), three roundings follow; far below the smallest normal number
      // it is 0.
      ASSERT_NEAR(y[i], want[i], std::abs(want[i]) * 8 * kUlp + 1e-36) << gate[i];
    }
    if (first.empty()) first = y;
    EXPECT_TRUE(SameBits({y.begin() + 1, y.end()}, {first.begin() + 1, first.end()}))
        << IsaName(isa);
  }
}

TEST(Embed, GathersRowsOfEveryType) {
  constexpr int64_t kCols = 37;
  const std::vector<float> table = Uniform(11 * kCols, 1);
  const std::vector<int32_t> ids = {10, 0, 0, 7};
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Stored stored = StoreAs(dtype, table);
    std::vector<float> want;
    for (int32_t id : ids) {
      want.insert(want.end(), stored.values.begin() + id * kCols,
                  stored.values.begin() + (id + 1) * kCols);
    }
    for (Isa isa : Isas()) {
      std::vector<float> y(4 * kCols, kNaN);
      Select(isa).embed({}, {stored.bytes.data(), dtype, 11, kCols, kCols}, ids.data(),
                        {y.data(), 4, kCols, kCols});
      EXPECT_TRUE(SameBits(y, want)) << IsaName(isa);
    }
  }
}

TEST(Convert, EveryHalfWidensAsItsValueSays) {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  for (Isa isa : Isas()) {
    std::vector<float> f16(all.size());
    std::vector<float> bf16(all.size());
    Select(isa).convert(all.data(), DType::kF16, f16.data(), DType::kF32, 65536);
    Select(isa).convert(all.data(), DType::kBF16, bf16.data(), DType::kF32, 65536);
    for (uint32_t i = 0; i < 65536; ++i) {
      const int exponent = static_cast<int>(i >> 10 & 31);
      const double mantissa = i & 1023;
      double want =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      if (exponent == 31) want = mantissa == 0 ? kInf : kNaN;
      if ((i & 0x8000) != 0) want = -want;
      ASSERT_TRUE(f16[i] == want || (std::isnan(want) && std::isnan(f16[i]))) << i;
      ASSERT_EQ(std::signbit(f16[i]), (i & 0x8000) != 0) << i;
      ASSERT_EQ(__builtin_bit_cast(uint32_t, bf16[i]), i << 16);
    }
  }
}

// The nearest of the 16-bit numbers by search: what a conversion must give for finite x in range.
template <class Widen>
void ExpectNearestEven(float x, uint16_t got, Widen widen) {
  const double error = std::abs(static_cast<double>(widen(got)) - x);
  for (int step : {-1, 1}) {
    const auto other = static_cast<uint16_t>(got + step);
    const double value = widen(other);
    if (!std::isfinite(value) || std::signbit(value) != std::signbit(x)) continue;
    ASSERT_LE(error, std::abs(value - x)) << x;
    if (error == std::abs(value - x)) ASSERT_EQ(got & 1, 0) << x;
  }
}

TEST(Convert, NarrowingIsNearestEvenOnEveryInstructionSet) {
  std::vector<float> x = {0.0f,  -0.0f,     kInf,  -kInf,  kNaN,   -kNaN,
                          65504, 65519.99f, 65520, 1e-39f, -1e-39f};
  for (uint64_t i = 0; i < 60'001; ++i) {
    const auto bits = static_cast<uint32_t>(UniformAt(3, 0, i) * 4294967296.0);
    x.push_back(__builtin_bit_cast(float, bits));                                // anything
    x.push_back(__builtin_bit_cast(float, (bits & 0x80FFFFFFu) + 0x33000000u));  // small halves
    x.push_back(__builtin_bit_cast(float, (bits & 0xFFFF0000u) | 0x8000u));      // ties of bf16
    x.push_back(__builtin_bit_cast(float, (bits & 0x8FFFE000u) + 0x38001000u));  // ties of f16
  }
  for (Isa isa : Isas()) {
    const auto n = static_cast<int64_t>(x.size());
    std::vector<uint16_t> bf16(x.size());
    std::vector<uint16_t> f16(x.size());
    Select(isa).convert(x.data(), DType::kF32, bf16.data(), DType::kBF16, n);
    Select(isa).convert(x.data(), DType::kF32, f16.data(), DType::kF16, n);
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(bf16[i], F32ToBf16(x[i])) << IsaName(isa) << " " << x[i];
      ASSERT_EQ(f16[i], F32ToF16(x[i])) << IsaName(isa) << " " << x[i];
    }
  }
  for (float v : x) {
    if (std::isnan(v)) {
      ASSERT_TRUE(std::isnan(Bf16ToF32(F32ToBf16(v))) && std::isnan(F16ToF32(F32ToF16(v))));
      continue;
    }
    if (std::isfinite(v) && std::abs(v) < 65504) ExpectNearestEven(v, F32ToF16(v), F16ToF32);
    if (std::isfinite(v) && std::isnormal(v) && std::abs(v) < 3e38f) {
      ExpectNearestEven(v, F32ToBf16(v), Bf16ToF32);
    }
  }
  EXPECT_EQ(F16ToF32(F32ToF16(65519.99f)), 65504.0f);
  EXPECT_EQ(F16ToF32(F32ToF16(65520.0f)), kInf);
  EXPECT_EQ(F32ToBf16(-1e-39f), 0x8000);
}

}  // namespace
}  // namespace reprise::kernels
