// V16 for AVX-512 F, BW, VL, DQ and BF16: sixteen f32 lanes in one register. Included by one
// translation unit.
#ifndef REPRISE_KERNELS_CPU_V16_AVX512_H_
#define REPRISE_KERNELS_CPU_V16_AVX512_H_

#include <immintrin.h>

#include <cstdint>

namespace reprise::kernels::REPRISE_KERNEL_ISA {

// Register budget of the tiles (see linear_inl.h, attention_inl.h): 24 of 32 registers accumulate.
inline constexpr int kTileM = 3;
inline constexpr int kSubRows = 8;
inline constexpr int kPvQueries = 6;
inline constexpr int kPvColumns = 4;

struct V {
  __m512 v;
  static V Set1(float x) { return {_mm512_set1_ps(x)}; }
  static V Zero() { return {_mm512_setzero_ps()}; }
  static V Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static V LoadN(const float* p, int64_t n) {
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)};
  }
  static V LoadBf16(const void* p) {
    const __m256i h = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
  }
  static V LoadF16(const void* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
  }
  void Store(float* p) const { _mm512_storeu_ps(p, v); }
  void StoreN(float* p, int64_t n) const {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
  }
  void StoreBf16(void* p) const {
    _mm256_storeu_si256(static_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
  }
  void StoreF16(void* p) const {
    _mm256_storeu_si256(static_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

static inline V Add(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline V Sub(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline V Mul(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline V Div(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline V Max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline V Min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline V Fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

static inline V Pow2FromMagic(V t) {
  const __m512i n = _mm512_add_epi32(_mm512_castps_si512(t.v), _mm512_set1_epi32(127 - 0x4B400000));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(n, 23))};
}

static inline bool AnyGreater(V a, V b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ) != 0; }

static inline __m256 Low(V v) { return _mm512_castps512_ps256(v.v); }
static inline __m256 High(V v) { return _mm512_extractf32x8_ps(v.v, 1); }

static inline float ReduceAdd(V v) {
  const __m256 s8 = _mm256_add_ps(Low(v), High(v));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
static inline float ReduceMax(V v) {
  const __m256 s8 = _mm256_max_ps(Low(v), High(v));
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}
static inline float First(V v) { return _mm512_cvtss_f32(v.v); }

// The lane tree of many vectors at once: each step joins two of them and halves their lanes.
static inline __m512 Join8(__m512 a, __m512 b) {  // i with i + 8
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
}
static inline __m512 Join4(__m512 a, __m512 b) {  // i with i + 4
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
}
static inline __m512 Join2(__m512 a, __m512 b) {  // i with i + 2
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
}
static inline __m512 Join1(__m512 a, __m512 b) {  // i with i + 1
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
}
static inline __m512 JoinColumn(const V* v) {  // vectors 0, 4, 8, 12
  return Join4(Join8(v[0].v, v[4].v), Join8(v[8].v, v[12].v));
}
static inline void ReduceAdd16(const V* v, float* out) {
  const __m512 c01 = Join2(JoinColumn(v), JoinColumn(v + 1));
  const __m512 c23 = Join2(JoinColumn(v + 2), JoinColumn(v + 3));
  _mm512_storeu_ps(out, Join1(c01, c23));
}
static inline void ReduceAdd8(const V* v, float* out) {
  // Four vectors of two inputs' eight lanes each, then as above with half the inputs.
  const __m512 s04 = Join8(v[0].v, v[4].v);
  const __m512 s15 = Join8(v[1].v, v[5].v);
  const __m512 s26 = Join8(v[2].v, v[6].v);
  const __m512 s37 = Join8(v[3].v, v[7].v);
  const __m512 c01 = Join2(Join4(s04, s04), Join4(s15, s15));
  const __m512 c23 = Join2(Join4(s26, s26), Join4(s37, s37));
  _mm256_storeu_ps(out, _mm512_castps512_ps256(Join1(c01, c23)));
}

// One 64-byte line of packed weights or activations.
struct LineF32 {
  V v;
  static LineF32 Load(const void* p) { return {V::Load(static_cast<const float*>(p))}; }
};
static inline V DotStep(V acc, const LineF32& w, const LineF32& x) { return Fma(w.v, x.v, acc); }

struct LineBf16 {
  __m512bh v;
  static LineBf16 Load(const void* p) { return {(__m512bh)_mm512_loadu_si512(p)}; }
};
static inline V DotStep(V acc, const LineBf16& w, const LineBf16& x) {
  return {_mm512_dpbf16_ps(acc.v, w.v, x.v)};
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_V16_AVX512_H_
