#include "kernels/fp8_row.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace reprise::kernels {
namespace {

// Of a tile with this top, there and back.
float Stored(float x, float top) {
  const float scale = Fp8Scale(top);
  return Fp8Value(Fp8Code(x, scale), scale);
}

TEST(Fp8Row, ValuesComeBackWithinFourBits) {
  for (const float top : {1e-20F, 0.37F, 1.0F, 448.0F, 3e4F, 1e30F}) {
    for (int i = -1000; i <= 1000; ++i) {
      const float x = top * static_cast<float>(i) / 1000;
      // Half a unit of four digits, or half of the smallest code; the scale's own rounding.
      const float bound = std::max(std::abs(x) * 0x1p-4F, top / kE4m3Max * 0x1p-10F) * 1.00001F;
      EXPECT_NEAR(Stored(x, top), x, bound) << top;
    }
    EXPECT_NEAR(Stored(top, top), top, top * 0x1p-22F) << "the largest keeps its value";
  }
}

TEST(Fp8Row, NothingButZerosHasScaleOne) {
  EXPECT_EQ(Fp8Scale(0), 1.0F);
  EXPECT_EQ(Fp8Scale(1e-38F), 1.0F);
  EXPECT_EQ(Stored(-0.0F, 0), 0.0F);
  EXPECT_TRUE(std::signbit(Stored(-0.0F, 0)));
  // The smallest tile that has a scale of its own has no denormal value.
  EXPECT_GE(Fp8Value(1, Fp8Scale(0x1p-100F)), std::numeric_limits<float>::min());
}

TEST(Fp8Row, NanStaysAloneAndInfinityDoesNot) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(Stored(nan, 3)));
  EXPECT_NEAR(Stored(3, 3), 3, 1e-6);
  EXPECT_TRUE(std::isnan(Stored(infinity, infinity)));
  EXPECT_TRUE(std::isnan(Stored(3, infinity)));
}

// A product of four and 24 digits has 28, which f32 rounds once.
TEST(Fp8Row, EveryCodeTimesAScaleIsRoundedAsDoubleSays) {
  for (const float scale : {1.0F, 0.37F / 448, 0x1.fffffep-5F, 0x1.000002p3F}) {
    for (int code = 0; code < 256; ++code) {
      const auto byte = static_cast<uint8_t>(code);
      const float found = Fp8Value(byte, scale);
      if (IsE4m3Nan(byte)) {
        EXPECT_TRUE(std::isnan(found));
        continue;
      }
      const double exact = static_cast<double>(kE4m3Values[byte]) * static_cast<double>(scale);
      EXPECT_EQ(found, static_cast<float>(exact)) << code;
    }
  }
}

}  // namespace
}  // namespace reprise::kernels
