// V16 for any x86-64: sixteen f32 lanes as an array, FMA through libm. The slow twin that shows
// what the vector versions compute. Included by one translation unit.
#ifndef REPRISE_KERNELS_CPU_V16_SCALAR_H_
#define REPRISE_KERNELS_CPU_V16_SCALAR_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/half.h"

namespace reprise::kernels::REPRISE_KERNEL_ISA {

// Register budget of the tiles (see linear_inl.h, attention_inl.h).
inline constexpr int kTileM = 2;
inline constexpr int kSubRows = 2;
inline constexpr int kPvQueries = 2;
inline constexpr int kPvColumns = 2;

struct V {
  float lane[16];
  static V Set1(float x) {
    V v;
    for (float& l : v.lane) l = x;
    return v;
  }
  static V Zero() { return Set1(0); }
  static V Load(const float* p) {
    V v;
    std::memcpy(v.lane, p, sizeof(v.lane));
    return v;
  }
  static V LoadN(const float* p, int64_t n) {
    V v = Zero();
    std::memcpy(v.lane, p, static_cast<size_t>(n) * 4);
    return v;
  }
  static V LoadBf16(const void* p) {
    uint16_t h[16];
    std::memcpy(h, p, sizeof(h));
    V v;
    for (int i = 0; i < 16; ++i) v.lane[i] = Bf16ToF32(h[i]);
    return v;
  }
  static V LoadF16(const void* p) {
    uint16_t h[16];
    std::memcpy(h, p, sizeof(h));
    V v;
    for (int i = 0; i < 16; ++i) v.lane[i] = F16ToF32(h[i]);
    return v;
  }
  void Store(float* p) const { std::memcpy(p, lane, sizeof(lane)); }
  void StoreN(float* p, int64_t n) const { std::memcpy(p, lane, static_cast<size_t>(n) * 4); }
  void StoreBf16(void* p) const {
    uint16_t h[16];
    for (int i = 0; i < 16; ++i) h[i] = F32ToBf16(lane[i]);
    std::memcpy(p, h, sizeof(h));
  }
  void StoreF16(void* p) const {
    uint16_t h[16];
    for (int i = 0; i < 16; ++i) h[i] = F32ToF16(lane[i]);
    std::memcpy(p, h, sizeof(h));
  }
};

template <class F>
static V Lanes(const V& a, const V& b, F f) {
  V r;
  for (int i = 0; i < 16; ++i) r.lane[i] = f(a.lane[i], b.lane[i]);
  return r;
}
static inline V Add(V a, V b) {
  return Lanes(a, b, [](float x, float y) { return x + y; });
}
static inline V Sub(V a, V b) {
  return Lanes(a, b, [](float x, float y) { return x - y; });
}
static inline V Mul(V a, V b) {
  return Lanes(a, b, [](float x, float y) { return x * y; });
}
static inline V Div(V a, V b) {
  return Lanes(a, b, [](float x, float y) { return x / y; });
}
// The second operand when either is NaN or both are zero, as the instruction has it.
static inline V Max(V a, V b) {
  return Lanes(a, b, [](float x, float y) { return x > y ? x : y; });
}
static inline V Min(V a, V b) {
  return Lanes(a, b, [](float x, float y) { return x < y ? x : y; });
}
static inline V Fma(V a, V b, V c) {
  V r;
  for (int i = 0; i < 16; ++i) r.lane[i] = std::fma(a.lane[i], b.lane[i], c.lane[i]);
  return r;
}

// 2^n for t = n + 1.5 * 2^23; n = -127 gives 0, n = 128 infinity.
static inline V Pow2FromMagic(V t) {
  V r;
  for (int i = 0; i < 16; ++i) {
    const uint32_t n = __builtin_bit_cast(uint32_t, t.lane[i]);
    r.lane[i] = __builtin_bit_cast(float, (n - 0x4B400000u + 127u) << 23);
  }
  return r;
}

static inline bool AnyGreater(V a, V b) {
  bool any = false;
  for (int i = 0; i < 16; ++i) any |= a.lane[i] > b.lane[i];
  return any;
}

static inline float ReduceAdd(V v) {
  for (int step = 8; step >= 1; step /= 2) {
    for (int i = 0; i < step; ++i) v.lane[i] = v.lane[i] + v.lane[i + step];
  }
  return v.lane[0];
}
static inline float ReduceMax(V v) {
  for (int step = 8; step >= 1; step /= 2) {
    for (int i = 0; i < step; ++i) {
      v.lane[i] = v.lane[i] > v.lane[i + step] ? v.lane[i] : v.lane[i + step];
    }
  }
  return v.lane[0];
}
static inline float First(V v) { return v.lane[0]; }

// out[i] = ReduceAdd(v[i]).
static inline void ReduceAdd16(const V* v, float* out) {
  for (int i = 0; i < 16; ++i) out[i] = ReduceAdd(v[i]);
}
static inline void ReduceAdd8(const V* v, float* out) {
  for (int i = 0; i < 8; ++i) out[i] = ReduceAdd(v[i]);
}

// One 64-byte line of packed weights or activations.
struct LineF32 {
  V v;
  static LineF32 Load(const void* p) { return {V::Load(static_cast<const float*>(p))}; }
};
static inline V DotStep(V acc, const LineF32& w, const LineF32& x) { return Fma(w.v, x.v, acc); }

struct LineBf16 {
  V even, odd;
  static LineBf16 Load(const void* p) {
    uint32_t pair[16];
    std::memcpy(pair, p, sizeof(pair));
    LineBf16 line;
    for (int i = 0; i < 16; ++i) {
      line.even.lane[i] = __builtin_bit_cast(float, pair[i] << 16);
      line.odd.lane[i] = __builtin_bit_cast(float, pair[i] & 0xFFFF0000u);
    }
    return line;
  }
};
static inline V DotStep(V acc, const LineBf16& w, const LineBf16& x) {
  return Fma(w.even, x.even, Fma(w.odd, x.odd, acc));
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_V16_SCALAR_H_
