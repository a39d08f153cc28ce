// A latent row of the KV cache in fp8, the 656 bytes of FlashMLA: 512 e4m3 codes, in four tiles of
// 128 with an f32 scale each, the scales behind them, then 64 rotated values in bf16.
//
//   byte 0                512               528              656
//        | 4 x 128 codes  | 4 scales (f32)  | 64 bf16        |
//
// A value is code * scale in f32, rounded to bf16 once more wherever it is read. Pure, on a CPU and
// on a card with the same bits; any thread.
//
// Preconditions: nothing is contracted.
#ifndef REPRISE_KERNELS_FP8_ROW_H_
#define REPRISE_KERNELS_FP8_ROW_H_

#include "kernels/e4m3.h"

namespace reprise::kernels {

inline constexpr int kFp8LatentDim = 512;
inline constexpr int kFp8RotatedDim = 64;
inline constexpr int kFp8Tile = 128;  // values with one scale
inline constexpr int kFp8Tiles = kFp8LatentDim / kFp8Tile;
inline constexpr int kFp8ScalesAt = kFp8LatentDim;  // bytes from the row's start
inline constexpr int kFp8RotatedAt = kFp8ScalesAt + 4 * kFp8Tiles;
inline constexpr int kFp8RowBytes = kFp8RotatedAt + 2 * kFp8RotatedDim;
static_assert(kFp8RowBytes == 656);

// Of a tile whose largest magnitude, NaN aside, is `top`. 1 where all is zero or as good as: no
// scale, and no value but zero, is denormal. An infinity makes the whole tile NaN.
REPRISE_PORTABLE float Fp8Scale(float top) { return top < 0x1p-100F ? 1.0F : top / kE4m3Max; }
REPRISE_PORTABLE uint8_t Fp8Code(float x, float scale) { return F32ToE4m3(x / scale); }
REPRISE_PORTABLE float Fp8Value(uint8_t code, float scale) { return E4m3ToF32(code) * scale; }

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_FP8_ROW_H_
