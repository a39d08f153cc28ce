// Scalar conversions between f32, bf16 and f16 with the bits the vector instructions of the kernels
// give (vcvtneps2bf16, vcvtps2ph, vcvtph2ps). Pure integer code; any thread.
#ifndef REPRISE_COMMON_HALF_H_
#define REPRISE_COMMON_HALF_H_

#include <cstdint>

#include "common/inline.h"

namespace reprise {

REPRISE_INLINE float Bf16ToF32(uint16_t h) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(h) << 16);
}

// Nearest even; NaN made quiet; denormals become zero of the same sign.
REPRISE_INLINE uint16_t F32ToBf16(float f) {
  const uint32_t x = __builtin_bit_cast(uint32_t, f);
  if ((x & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((x >> 16) | 0x40u);
  if ((x & 0x7F800000u) == 0) return static_cast<uint16_t>((x >> 16) & 0x8000u);
  return static_cast<uint16_t>((x + 0x7FFFu + ((x >> 16) & 1u)) >> 16);
}

// Exact; f16 denormals become normal f32 numbers.
REPRISE_INLINE float F16ToF32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  uint32_t exponent = (h >> 10) & 0x1Fu;
  uint32_t mantissa = h & 0x3FFu;
  uint32_t bits;
  if (exponent == 31) {
    bits = 0x7F800000u | mantissa << 13 | (mantissa != 0 ? 0x400000u : 0u);
  } else if (exponent != 0) {
    bits = (exponent + 112) << 23 | mantissa << 13;
  } else if (mantissa == 0) {
    bits = 0;
  } else {
    exponent = 113;
    while ((mantissa & 0x400u) == 0) {
      mantissa <<= 1;
      --exponent;
    }
    bits = exponent << 23 | (mantissa & 0x3FFu) << 13;
  }
  return __builtin_bit_cast(float, sign | bits);
}

// Nearest even, gradual underflow kept, overflow to infinity, NaN made quiet.
REPRISE_INLINE uint16_t F32ToF16(float f) {
  const uint32_t x = __builtin_bit_cast(uint32_t, f);
  const uint32_t sign = (x >> 16) & 0x8000u;
  const uint32_t magnitude = x & 0x7FFFFFFFu;
  uint32_t half;
  if (magnitude > 0x7F800000u) {
    half = 0x7E00u | ((magnitude >> 13) & 0x1FFu);
  } else if (magnitude >= 0x477FF000u) {  // 65520, the midpoint above the largest f16
    half = 0x7C00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14
    const uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
    half = (rounded - 0x38000000u) >> 13;
  } else if (magnitude < 0x33000000u) {  // below 2^-25
    half = 0;
  } else {
    const uint32_t shift = 126 - (magnitude >> 23);  // 14 .. 24
    const uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
    const uint32_t low = mantissa & ((1u << shift) - 1);
    const uint32_t tie = 1u << (shift - 1);
    half = mantissa >> shift;
    if (low > tie || (low == tie && (half & 1u) != 0)) ++half;
  }
  return static_cast<uint16_t>(sign | half);
}

}  // namespace reprise

#endif  // REPRISE_COMMON_HALF_H_
