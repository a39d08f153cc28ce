// exp and log as every implementation of ops.h computes them, on a CPU and on a card: plain
// arithmetic in a fixed order, so that equal inputs give equal bits. The CPU's vectors
// (cpu/math_inl.h) take their constants from here, and a test holds them to these forms.
//
// Preconditions: denormals are flushed, nothing is contracted. Pure functions; any thread.
#ifndef REPRISE_KERNELS_PORTABLE_MATH_H_
#define REPRISE_KERNELS_PORTABLE_MATH_H_

#include <cstdint>

#include "kernels/portable.h"

namespace reprise::kernels {

// e^x within 2 ulp on [-87, 88]; above 88.38 infinity, below -87.34 zero, NaN stays NaN. Cody-Waite
// reduction by ln 2 and the polynomial of Cephes' expf.
namespace exp_constants {
inline constexpr float kHigh = 88.8F;
inline constexpr float kLow = -88.0F;
inline constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
inline constexpr float kLog2E = 1.44269504088896341F;
inline constexpr float kMinusLn2High = -0.693359375F;
inline constexpr float kMinusLn2Low = 2.12194440e-4F;
inline constexpr float kP0 = 1.9875691500e-4F;
inline constexpr float kP1 = 1.3981999507e-3F;
inline constexpr float kP2 = 8.3334519073e-3F;
inline constexpr float kP3 = 4.1665795894e-2F;
inline constexpr float kP4 = 1.6666665459e-1F;
inline constexpr float kP5 = 5.0000001201e-1F;
}  // namespace exp_constants

REPRISE_PORTABLE float PortableExp(float x) {
  using namespace exp_constants;
  x = kLow > x ? kLow : x;  // NaN passes both
  x = kHigh < x ? kHigh : x;
  const float t = PortableFma(x, kLog2E, kMagic);
  const float n = t - kMagic;
  float r = PortableFma(n, kMinusLn2High, x);
  r = PortableFma(n, kMinusLn2Low, r);
  float p = kP0;
  p = PortableFma(p, r, kP1);
  p = PortableFma(p, r, kP2);
  p = PortableFma(p, r, kP3);
  p = PortableFma(p, r, kP4);
  p = PortableFma(p, r, kP5);
  p = PortableFma(p, r * r, r);
  const uint32_t power = (PortableBits(t) - 0x4B400000U + 127U) << 23;  // 2^n; n = -127: 0
  return (p + 1.0F) * PortableFloat(power);
}

// Natural logarithm of a positive normal number: fdlibm's e_log.c, double, no FMA.
REPRISE_PORTABLE double Log(double x) {
  uint64_t bits = PortableBits(x);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  bits = (bits & 0xFFFFFFFFFFFFFU) | 0x3FF0000000000000U;
  double m = PortableDouble(bits);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double f = m - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s;
  const double w = z * z;
  const double odd = w * (3.999999999940941908e-01 +
                          w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
  const double even = z * (6.666666666666735130e-01 +
                           w * (2.857142874366239149e-01 +
                                w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
  const double half_square = 0.5 * f * f;
  const auto k = static_cast<double>(exponent);
  return k * 6.93147180369123816490e-01 -
         ((half_square - (s * (half_square + odd + even) + k * 1.90821492927058770002e-10)) - f);
}

// max + log(sum) of a softmax, sum >= 0.
REPRISE_PORTABLE float LogSumExp(float max, float sum) {
  constexpr float kInfinite = __builtin_huge_valf();
  if (!(sum > 0)) return sum == 0 ? -kInfinite : sum;  // empty, or NaN
  if (sum == kInfinite) return kInfinite;
  return static_cast<float>(static_cast<double>(max) + Log(static_cast<double>(sum)));
}

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_PORTABLE_MATH_H_
