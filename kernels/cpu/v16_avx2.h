// V16 for AVX2 + FMA + F16C: sixteen f32 lanes in two registers. Included by one translation unit.
#ifndef REPRISE_KERNELS_CPU_V16_AVX2_H_
#define REPRISE_KERNELS_CPU_V16_AVX2_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace reprise::kernels::REPRISE_KERNEL_ISA {

// Register budget of the tiles (see linear_inl.h, attention_inl.h).
inline constexpr int kTileM = 2;
inline constexpr int kSubRows = 2;
inline constexpr int kPvQueries = 2;
inline constexpr int kPvColumns = 2;

struct V {
  __m256 lo, hi;  // lanes 0-7, 8-15
  static V Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static V Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static V Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static V LoadN(const float* p, int64_t n) {
    alignas(32) float buffer[16] = {};
    std::memcpy(buffer, p, static_cast<size_t>(n) * 4);
    return Load(buffer);
  }
  static V LoadBf16(const void* p) {
    const __m256i h = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    const __m256i lo = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(h));
    const __m256i hi = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(h, 1));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
  }
  static V LoadF16(const void* p) {
    const auto* h = static_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
  }
  void Store(float* p) const {
    _mm256_storeu_ps(p, lo);
    _mm256_storeu_ps(p + 8, hi);
  }
  void StoreN(float* p, int64_t n) const {
    alignas(32) float buffer[16];
    Store(buffer);
    std::memcpy(p, buffer, static_cast<size_t>(n) * 4);
  }
  void StoreBf16(void* p) const {
    const __m256i packed = _mm256_packus_epi32(RoundBf16(lo), RoundBf16(hi));
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));
  }
  void StoreF16(void* p) const {
    auto* h = static_cast<__m128i*>(p);
    _mm_storeu_si128(h, _mm256_cvtps_ph(lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(h + 1, _mm256_cvtps_ph(hi, _MM_FROUND_TO_NEAREST_INT));
  }

 private:
  // The rule of F32ToBf16 (half.h), result in the low 16 bits of each lane.
  static __m256i RoundBf16(__m256 f) {
    const __m256i x = _mm256_castps_si256(f);
    const __m256i top = _mm256_srli_epi32(x, 16);
    const __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(x, bias), 16);
    const __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q));
    const __m256i exponent = _mm256_and_si256(x, _mm256_set1_epi32(0x7F800000));
    const __m256i tiny = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
    const __m256i sign = _mm256_and_si256(top, _mm256_set1_epi32(0x8000));
    return _mm256_blendv_epi8(_mm256_blendv_epi8(rounded, quiet, nan), sign, tiny);
  }
};

static inline V Add(V a, V b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
static inline V Sub(V a, V b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
static inline V Mul(V a, V b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
static inline V Div(V a, V b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
static inline V Max(V a, V b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
static inline V Min(V a, V b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
static inline V Fma(V a, V b, V c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

static inline __m256 Pow2FromMagic(__m256 t) {
  const __m256i n = _mm256_add_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(127 - 0x4B400000));
  return _mm256_castsi256_ps(_mm256_slli_epi32(n, 23));
}
static inline V Pow2FromMagic(V t) { return {Pow2FromMagic(t.lo), Pow2FromMagic(t.hi)}; }

static inline bool AnyGreater(V a, V b) {
  return (_mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ)) |
          _mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ))) != 0;
}

static inline float ReduceAdd(V v) {
  const __m256 s8 = _mm256_add_ps(v.lo, v.hi);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
static inline float ReduceMax(V v) {
  const __m256 s8 = _mm256_max_ps(v.lo, v.hi);
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}
static inline float First(V v) { return _mm_cvtss_f32(_mm256_castps256_ps128(v.lo)); }

// The lane tree of eight vectors at once: each step joins two of them and halves their lanes.
static inline __m256 JoinHalves(__m256 a, __m256 b) {  // i with i + 4
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
static inline __m256 JoinPairs(__m256 a, __m256 b) {  // i with i + 2
  return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xEE));
}
static inline __m256 JoinNeighbours(__m256 a, __m256 b) {  // i with i + 1
  return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD));
}
static inline void ReduceAdd8(const V* v, float* out) {
  __m256 s[8];
  for (int i = 0; i < 8; ++i) s[i] = _mm256_add_ps(v[i].lo, v[i].hi);
  const __m256 s01 = JoinPairs(JoinHalves(s[0], s[4]), JoinHalves(s[1], s[5]));
  const __m256 s23 = JoinPairs(JoinHalves(s[2], s[6]), JoinHalves(s[3], s[7]));
  _mm256_storeu_ps(out, JoinNeighbours(s01, s23));
}
static inline void ReduceAdd16(const V* v, float* out) {
  ReduceAdd8(v, out);
  ReduceAdd8(v + 8, out + 8);
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
    const auto* q = static_cast<const __m256i*>(p);
    const __m256i lo = _mm256_loadu_si256(q);
    const __m256i hi = _mm256_loadu_si256(q + 1);
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
    return {{_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
             _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))},
            {_mm256_castsi256_ps(_mm256_and_si256(lo, mask)),
             _mm256_castsi256_ps(_mm256_and_si256(hi, mask))}};
  }
};
static inline V DotStep(V acc, const LineBf16& w, const LineBf16& x) {
  return Fma(w.even, x.even, Fma(w.odd, x.odd, acc));
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_V16_AVX2_H_
