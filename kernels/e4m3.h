// FP8 E4M3 as checkpoints and fp8 KV rows hold it (OCP 8-bit Floating Point Specification 1.0,
// section 5.2): a sign, four bits of exponent with bias 7, three of mantissa; no infinities, all
// ones is NaN. Pure, on a CPU and on a card; any thread.
#ifndef REPRISE_KERNELS_E4M3_H_
#define REPRISE_KERNELS_E4M3_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/portable.h"

namespace reprise::kernels {

inline constexpr float kE4m3Max = 448;

REPRISE_PORTABLE constexpr bool IsE4m3Nan(uint8_t code) { return (code & 0x7F) == 0x7F; }

// Exact.
REPRISE_PORTABLE constexpr float E4m3ToF32(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80) << 24;
  const uint32_t exponent = (code >> 3) & 0xFu;
  const uint32_t mantissa = code & 7u;
  if (IsE4m3Nan(code)) return __builtin_bit_cast(float, sign | 0x7FC00000u);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-9F;
    return sign == 0 ? magnitude : -magnitude;
  }
  return __builtin_bit_cast(float, sign | (exponent + 120) << 23 | mantissa << 20);
}

// Nearest even; beyond kE4m3Max, infinity included, kE4m3Max; any NaN becomes 0x7F.
REPRISE_PORTABLE uint8_t F32ToE4m3(float x) {
  const uint32_t bits = PortableBits(x);
  const uint32_t sign = bits >> 24 & 0x80U;
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return 0x7F;
  uint32_t code;
  if (magnitude < 0x3C800000U) {
    // Below 2^-6 codes are multiples of 2^-9, as floats are beside 2^14.
    code = PortableBits(PortableFloat(magnitude) + 0x1p14F) - PortableBits(0x1p14F);
  } else {
    code = ((magnitude + 0x7FFFFU + (magnitude >> 20 & 1U)) >> 20) - (120U << 3);
    if (code > 0x7EU) code = 0x7E;
  }
  return static_cast<uint8_t>(sign | code);
}

inline constexpr std::array<float, 256> kE4m3Values = [] {
  std::array<float, 256> values{};
  for (size_t code = 0; code < values.size(); ++code) {
    values[code] = E4m3ToF32(static_cast<uint8_t>(code));
  }
  return values;
}();

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_E4M3_H_
