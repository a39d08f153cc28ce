#include "kernels/e4m3.h"

#include <gtest/gtest.h>

#include <cmath>

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

}  // namespace
}  // namespace reprise::kernels
