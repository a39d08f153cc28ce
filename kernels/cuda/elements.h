// Elements of rows on the device, f32 or bf16: one at a time or eight, by 16 bytes where they are
// aligned. Which of the two a row holds is known at run time; the branch is the same for a whole
// kernel.
//
// Rounding to bf16 is the CPU's: nearest even, denormals of f32 become zero, NaN stays NaN (its
// payload is the device's own).
#ifndef REPRISE_KERNELS_CUDA_ELEMENTS_H_
#define REPRISE_KERNELS_CUDA_ELEMENTS_H_

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/rows_view.h"

namespace reprise::cuda {

REPRISE_DEVICE float Widen(float x) { return x; }
REPRISE_DEVICE float Widen(Bf16 x) { return ToFloat(x); }

// A denormal number becomes zero of the same sign, as arithmetic makes it.
REPRISE_DEVICE float Flushed(float x) {
  const uint32_t bits = BitsOf(x);
  return (bits & 0x7F800000U) == 0 ? FloatOf(bits & 0x80000000U) : x;
}
REPRISE_DEVICE void Narrow(float x, float* y) { *y = x; }
REPRISE_DEVICE void Narrow(float x, Bf16* y) { *y = ToBf16(Flushed(x)); }

REPRISE_DEVICE bool Aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

struct Eight {
  float v[8];
};

REPRISE_DEVICE Eight LoadEight(const float* p) {
  const Words low = Load16(p);
  const Words high = Load16(p + 4);
  Eight x;
  REPRISE_UNROLL
  for (int i = 0; i < 4; ++i) {
    x.v[i] = FloatOf(low.w[i]);
    x.v[i + 4] = FloatOf(high.w[i]);
  }
  return x;
}
REPRISE_DEVICE Eight LoadEight(const Bf16* p) {
  const Words words = Load16(p);
  Eight x;
  REPRISE_UNROLL
  for (int i = 0; i < 4; ++i) {
    x.v[2 * i] = FloatOf(words.w[i] << 16);
    x.v[2 * i + 1] = FloatOf(words.w[i] & 0xFFFF0000U);
  }
  return x;
}
REPRISE_DEVICE void StoreEight(const Eight& x, float* p) {
  Store16(p, {{BitsOf(x.v[0]), BitsOf(x.v[1]), BitsOf(x.v[2]), BitsOf(x.v[3])}});
  Store16(p + 4, {{BitsOf(x.v[4]), BitsOf(x.v[5]), BitsOf(x.v[6]), BitsOf(x.v[7])}});
}
REPRISE_DEVICE void StoreEight(const Eight& x, Bf16* p) {
  Words words;
  REPRISE_UNROLL
  for (int i = 0; i < 4; ++i) {
    words.w[i] = PackBf16(Flushed(x.v[2 * i]), Flushed(x.v[2 * i + 1]));
  }
  Store16(p, words);
}

// The first n of eight; the others are zero, and are not stored.
template <class T>
REPRISE_DEVICE Eight LoadSome(const T* p, int64_t n) {
  if (n == 8 && Aligned16(p)) return LoadEight(p);
  Eight x;
  REPRISE_UNROLL
  for (int i = 0; i < 8; ++i) x.v[i] = i < n ? Widen(p[i]) : 0;
  return x;
}
template <class T>
REPRISE_DEVICE void StoreSome(const Eight& x, T* p, int64_t n) {
  if (n == 8 && Aligned16(p)) return StoreEight(x, p);
  REPRISE_UNROLL
  for (int i = 0; i < 8; ++i) {
    if (i < n) Narrow(x.v[i], p + i);
  }
}

// Four, where a thread can have no more: 16 bytes of f32, 8 of bf16.
struct Four {
  float v[4];
};
REPRISE_DEVICE Four LoadFour(const float* p) {
  const Words words = Load16(p);
  return {{FloatOf(words.w[0]), FloatOf(words.w[1]), FloatOf(words.w[2]), FloatOf(words.w[3])}};
}
REPRISE_DEVICE Four LoadFour(const Bf16* p) {
  const TwoWords words = *reinterpret_cast<const TwoWords*>(p);
  return {{FloatOf(words.w[0] << 16), FloatOf(words.w[0] & 0xFFFF0000U), FloatOf(words.w[1] << 16),
           FloatOf(words.w[1] & 0xFFFF0000U)}};
}
REPRISE_DEVICE void StoreFour(const Four& x, float* p) {
  Store16(p, {{BitsOf(x.v[0]), BitsOf(x.v[1]), BitsOf(x.v[2]), BitsOf(x.v[3])}});
}
REPRISE_DEVICE void StoreFour(const Four& x, Bf16* p) {
  *reinterpret_cast<TwoWords*>(p) = {
      {PackBf16(Flushed(x.v[0]), Flushed(x.v[1])), PackBf16(Flushed(x.v[2]), Flushed(x.v[3]))}};
}
template <class T>
REPRISE_DEVICE bool AlignedFour(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % (4 * sizeof(T)) == 0;
}
template <class T>
REPRISE_DEVICE Four LoadSomeOfFour(const T* p, int64_t n) {
  if (n == 4 && AlignedFour(p)) return LoadFour(p);
  Four x;
  REPRISE_UNROLL
  for (int i = 0; i < 4; ++i) x.v[i] = i < n ? Widen(p[i]) : 0;
  return x;
}
template <class T>
REPRISE_DEVICE void StoreSomeOfFour(const Four& x, T* p, int64_t n) {
  if (n == 4 && AlignedFour(p)) return StoreFour(x, p);
  REPRISE_UNROLL
  for (int i = 0; i < 4; ++i) {
    if (i < n) Narrow(x.v[i], p + i);
  }
}

// Of a row, from column `col` on.
REPRISE_DEVICE Eight LoadSome(const ConstRows& rows, int64_t row, int64_t col, int64_t n) {
  const int64_t at = row * rows.stride + col;
  return rows.bf16 ? LoadSome(static_cast<const Bf16*>(rows.data) + at, n)
                   : LoadSome(static_cast<const float*>(rows.data) + at, n);
}
REPRISE_DEVICE void StoreSome(const Eight& x, const Rows& rows, int64_t row, int64_t col,
                              int64_t n) {
  const int64_t at = row * rows.stride + col;
  if (rows.bf16) return StoreSome(x, static_cast<Bf16*>(rows.data) + at, n);
  StoreSome(x, static_cast<float*>(rows.data) + at, n);
}

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_ELEMENTS_H_
