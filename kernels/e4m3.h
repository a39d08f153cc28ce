// FP8 E4M3 as checkpoints hold it (OCP 8-bit Floating Point Specification 1.0, section 5.2): a
// sign, four bits of exponent with bias 7, three of mantissa; no infinities, all ones is NaN.
// Constant; any thread.
#ifndef REPRISE_KERNELS_E4M3_H_
#define REPRISE_KERNELS_E4M3_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace reprise::kernels {

inline constexpr float kE4m3Max = 448;

constexpr bool IsE4m3Nan(uint8_t code) { return (code & 0x7F) == 0x7F; }

// Exact.
constexpr float E4m3ToF32(uint8_t code) {
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

inline constexpr std::array<float, 256> kE4m3Values = [] {
  std::array<float, 256> values{};
  for (size_t code = 0; code < values.size(); ++code) {
    values[code] = E4m3ToF32(static_cast<uint8_t>(code));
  }
  return values;
}();

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_E4M3_H_
