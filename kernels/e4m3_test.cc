#include "kernels/e4m3.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/half.h"

namespace reprise::kernels {
namespace {

TEST(E4m3, EveryCodeHasTheValueOfTheSpecification) {
  int nans = 0;
  for (int code = 0; code < 256; ++code) {
    const float found = kE4m3Values[static_cast<size_t>(code)];
    const int exponent = code >> 3 & 15;
    const int mantissa = code & 7;
    EXPECT_EQ(std::signbit(found), code >= 128) << code;
    if (exponent == 15 && mantissa == 7) {
      EXPECT_TRUE(std::isnan(found)) << code;
      EXPECT_TRUE(IsE4m3Nan(static_cast<uint8_t>(code)));
      ++nans;
      continue;
    }
    const double want =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    EXPECT_EQ(std::abs(static_cast<double>(found)), want) << code;
    EXPECT_FALSE(IsE4m3Nan(static_cast<uint8_t>(code)));
  }
  EXPECT_EQ(nans, 2);
  EXPECT_EQ(kE4m3Values[0x7E], kE4m3Max);
  EXPECT_EQ(kE4m3Values[0x01], 0x1p-9F);
}

// The code whose value is nearest, by search in double over the specification's values; of two the
// even one.
uint8_t Nearest(double x) {
  int best = 0;
  double least = HUGE_VAL;
  for (int code = 0; code < 0x7F; ++code) {
    const int exponent = code >> 3;
    const double value =
        exponent == 0 ? std::ldexp(code & 7, -9) : std::ldexp(8 + (code & 7), exponent - 10);
    const double distance = std::abs(std::abs(x) - value);
    if (distance > least || (distance == least && code % 2 != 0)) continue;
    least = distance;
    best = code;
  }
  return static_cast<uint8_t>(best | (std::signbit(x) ? 0x80 : 0));
}

TEST(E4m3, EveryBf16BecomesTheNearestCode) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float x = Bf16ToF32(static_cast<uint16_t>(bits));
    const uint8_t found = F32ToE4m3(x);
    if (std::isnan(x)) {
      ASSERT_EQ(found, 0x7F) << bits;
    } else {
      ASSERT_EQ(found, std::isinf(x) ? (x < 0 ? 0xFE : 0x7E) : Nearest(static_cast<double>(x)))
          << bits;
    }
  }
}

TEST(E4m3, F32IsRoundedToEvenAtEveryMiddle) {
  for (uint8_t code = 0; code < 0x7E; ++code) {
    // Exact: codes have four digits.
    const float middle = (E4m3ToF32(code) + E4m3ToF32(static_cast<uint8_t>(code + 1))) / 2;
    const auto even = static_cast<uint8_t>(code % 2 == 0 ? code : code + 1);
    for (const float sign : {1.0F, -1.0F}) {
      const int bit = sign < 0 ? 0x80 : 0;
      EXPECT_EQ(F32ToE4m3(sign * middle), even | bit) << middle;
      EXPECT_EQ(F32ToE4m3(sign * std::nextafter(middle, 0.0F)), code | bit) << middle;
      EXPECT_EQ(F32ToE4m3(sign * std::nextafter(middle, 1e9F)), (code + 1) | bit) << middle;
      EXPECT_EQ(F32ToE4m3(sign * E4m3ToF32(code)), code | bit);
    }
  }
  EXPECT_EQ(F32ToE4m3(std::numeric_limits<float>::max()), 0x7E);
  EXPECT_EQ(F32ToE4m3(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(F32ToE4m3(__builtin_bit_cast(float, 0x7F800001U)), 0x7F) << "NaN, however small";
}

}  // namespace
}  // namespace reprise::kernels
