// Rows of kernels/fp8_row.h for tests: random ones, and what double precision sees of them.
#ifndef REPRISE_KERNELS_CUDA_FP8_TEST_ROWS_H_
#define REPRISE_KERNELS_CUDA_FP8_TEST_ROWS_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>

#include "common/half.h"
#include "kernels/fp8_row.h"

namespace reprise::cuda::testing {

// Codes that are numbers, scales that keep values below 1 and differ by a factor of up to 2^6.
inline void FillFp8Row(std::mt19937& random, uint8_t* row) {
  std::uniform_int_distribution<int> code(0, 253);
  std::uniform_int_distribution<int> exponent(-6, 0);
  std::uniform_real_distribution<float> mantissa(0.5F, 1.0F);
  for (int i = 0; i < kernels::kFp8LatentDim; ++i) {
    const int c = code(random);
    row[i] = static_cast<uint8_t>(c < 127 ? c : c + 1);
  }
  for (int i = 0; i < kernels::kFp8Tiles; ++i) {
    const float scale = std::ldexp(mantissa(random), exponent(random)) / kernels::kE4m3Max;
    std::memcpy(row + kernels::kFp8ScalesAt + 4 * i, &scale, sizeof scale);
  }
  for (int i = 0; i < kernels::kFp8RotatedDim; ++i) {
    const uint16_t bits = F32ToBf16(2 * mantissa(random) - 1.5F);
    std::memcpy(row + kernels::kFp8RotatedAt + 2 * i, &bits, sizeof bits);
  }
}

// Element i of the row's 576.
inline float Fp8RowAt(const uint8_t* row, int i) {
  if (i >= kernels::kFp8LatentDim) {
    uint16_t bits;
    std::memcpy(&bits, row + kernels::kFp8RotatedAt + 2 * (i - kernels::kFp8LatentDim), 2);
    return Bf16ToF32(bits);
  }
  float scale;
  std::memcpy(&scale, row + kernels::kFp8ScalesAt + i / kernels::kFp8Tile * 4, sizeof scale);
  return Bf16ToF32(F32ToBf16(kernels::kE4m3Values[row[i]] * scale));
}

}  // namespace reprise::cuda::testing

#endif  // REPRISE_KERNELS_CUDA_FP8_TEST_ROWS_H_
