// The project's own exp and log against libm in double. (That all instruction sets give the same
// bits is tested through the operations that use them.)
#define REPRISE_KERNEL_ISA testing_scalar

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/cpu/v16_scalar.h"
// The templates over V need it defined first.
#include "kernels/cpu/math_inl.h"

namespace reprise::kernels::testing_scalar {
namespace {

TEST(Exp, IsWithinTwoUlpFromMinus87To88) {
  const DenormalsOff denormals_off;
  double worst = 0;
  for (int64_t i = 0; i <= 1'000'000; ++i) {
    const float x = -87.0f + 175.0f * static_cast<float>(i) / 1e6f;
    const double want = std::exp(static_cast<double>(x));
    const double ulp = std::ldexp(1.0, std::ilogb(want) - 23);
    worst = std::max(worst, std::abs(static_cast<double>(Exp(x)) - want) / ulp);
  }
  EXPECT_LE(worst, 2.0);
  EXPECT_GT(worst, 0.4);  // the measure measures
}

// Keeps the compiler, which knows nothing of the flushing mode, from computing the result itself.
float RunTimeExp(float x) {
  volatile float hidden = x;
  return Exp(hidden);
}

TEST(Exp, SaturatesAtBothEnds) {
  const DenormalsOff denormals_off;
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(RunTimeExp(0.0f), 1.0f);
  EXPECT_EQ(RunTimeExp(-0.0f), 1.0f);
  EXPECT_EQ(RunTimeExp(-inf), 0.0f);
  EXPECT_EQ(RunTimeExp(-1e30f), 0.0f);
  EXPECT_EQ(RunTimeExp(-87.5f), 0.0f);
  EXPECT_EQ(RunTimeExp(89.0f), inf);
  EXPECT_EQ(RunTimeExp(1e30f), inf);
  EXPECT_EQ(RunTimeExp(inf), inf);
  EXPECT_TRUE(std::isnan(RunTimeExp(std::numeric_limits<float>::quiet_NaN())));
}

// What kernels on a card compute.
TEST(Exp, HasTheBitsOfItsPortableForm) {
  const DenormalsOff denormals_off;
  const auto same = [](uint32_t bits) {
    volatile float hidden = __builtin_bit_cast(float, bits);
    const float lane = Exp(hidden);
    const float one = PortableExp(hidden);
    return __builtin_bit_cast(uint32_t, lane) == __builtin_bit_cast(uint32_t, one) ||
           (lane != lane && one != one);
  };
  // All exponents, denormals, infinities and NaNs among them.
  for (uint64_t bits = 0; bits <= 0xFFFFFFFF; bits += 4099) {
    ASSERT_TRUE(same(static_cast<uint32_t>(bits))) << bits;
  }
  for (int i = -90'000; i <= 90'000; ++i) {
    ASSERT_TRUE(same(__builtin_bit_cast(uint32_t, static_cast<float>(i) * 1e-3f))) << i;
  }
}

TEST(Log, IsWithinAnUlpOfDouble) {
  for (int64_t i = 1; i <= 300'000; ++i) {
    const double x = std::exp(static_cast<double>(i) * 2e-4 - 20);
    const double want = std::log(x);
    ASSERT_NEAR(Log(x), want, std::abs(want) * 0x1p-51 + 0x1p-60) << x;
  }
  EXPECT_EQ(Log(1.0), 0.0);
}

}  // namespace
}  // namespace reprise::kernels::testing_scalar
