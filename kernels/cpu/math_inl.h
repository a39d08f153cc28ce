// Functions over V16 written once and compiled per instruction set: exp, log, loads of any element
// type, the parallel loop. Included after one v16_*.h, with REPRISE_KERNEL_ISA naming the
// namespace.
//
// Nothing here may call an inline function of the standard library: a copy compiled for AVX-512
// could be the one the linker keeps for all.
#ifndef REPRISE_KERNELS_CPU_MATH_INL_H_
#define REPRISE_KERNELS_CPU_MATH_INL_H_

#include <cstring>

#include "common/half.h"
#include "kernels/cpu/denormals.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace reprise::kernels::REPRISE_KERNEL_ISA {

inline constexpr float kInfinity = __builtin_huge_valf();

static inline int64_t MinOf(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t MaxOf(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t RoundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// e^x within 2 ulp on [-87, 88]; above 88.38 infinity, below -87.34 zero, NaN stays NaN. Cody-Waite
// reduction by ln 2 and the polynomial of Cephes' expf.
static inline V Exp(V x) {
  x = Min(V::Set1(88.8f), Max(V::Set1(-88.0f), x));  // constants first: NaN passes
  const V magic = V::Set1(12582912.0f);
  const V t = Fma(x, V::Set1(1.44269504088896341f), magic);
  const V n = Sub(t, magic);
  V r = Fma(n, V::Set1(-0.693359375f), x);
  r = Fma(n, V::Set1(2.12194440e-4f), r);
  V p = V::Set1(1.9875691500e-4f);
  p = Fma(p, r, V::Set1(1.3981999507e-3f));
  p = Fma(p, r, V::Set1(8.3334519073e-3f));
  p = Fma(p, r, V::Set1(4.1665795894e-2f));
  p = Fma(p, r, V::Set1(1.6666665459e-1f));
  p = Fma(p, r, V::Set1(5.0000001201e-1f));
  p = Fma(p, Mul(r, r), r);
  return Mul(Add(p, V::Set1(1.0f)), Pow2FromMagic(t));
}
static inline float Exp(float x) { return First(Exp(V::Set1(x))); }

// Natural logarithm of a positive normal number: fdlibm's e_log.c, double, no FMA.
static inline double Log(double x) {
  uint64_t bits = __builtin_bit_cast(uint64_t, x);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  bits = (bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u;
  double m = __builtin_bit_cast(double, bits);
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
static inline float LogSumExp(float max, float sum) {
  if (!(sum > 0)) return sum == 0 ? -kInfinity : sum;  // empty, or NaN
  if (sum == kInfinity) return kInfinity;
  return static_cast<float>(static_cast<double>(max) + Log(static_cast<double>(sum)));
}

// Sixteen elements at `index` of an array of any type.
static inline V LoadAs(DType type, const void* p, int64_t index) {
  const char* at = static_cast<const char*>(p) + index * SizeOf(type);
  if (type == DType::kF32) return V::Load(reinterpret_cast<const float*>(at));
  return type == DType::kBF16 ? V::LoadBf16(at) : V::LoadF16(at);
}
// The first n of them, the rest zero.
static inline V LoadAsN(DType type, const void* p, int64_t index, int64_t n) {
  alignas(64) char buffer[64] = {};
  std::memcpy(buffer, static_cast<const char*>(p) + index * SizeOf(type),
              static_cast<size_t>(n * SizeOf(type)));
  return LoadAs(type, buffer, 0);
}
static inline void StoreAs(DType type, V v, void* p, int64_t index) {
  char* at = static_cast<char*>(p) + index * SizeOf(type);
  if (type == DType::kF32) return v.Store(reinterpret_cast<float*>(at));
  return type == DType::kBF16 ? v.StoreBf16(at) : v.StoreF16(at);
}
static inline void StoreAsN(DType type, V v, void* p, int64_t index, int64_t n) {
  alignas(64) char buffer[64];
  StoreAs(type, v, buffer, 0);
  std::memcpy(static_cast<char*>(p) + index * SizeOf(type), buffer,
              static_cast<size_t>(n * SizeOf(type)));
}

static inline void ConvertRow(const void* src, DType from, void* dst, DType to, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) StoreAs(to, LoadAs(from, src, i), dst, i);
  if (i < n) StoreAsN(to, LoadAsN(from, src, i, n - i), dst, i, n - i);
}

// Runs fn(0 .. tasks-1): in the caller when `work` (elements touched, roughly) is not worth waking
// anybody.
template <class F>
static void For(const Exec& exec, int64_t tasks, int64_t work, F&& fn) {
  constexpr int64_t kWorthWaking = 1 << 15;
  if (exec.pool != nullptr && work >= kWorthWaking) return exec.pool->ParallelFor(tasks, fn);
  for (int64_t i = 0; i < tasks; ++i) fn(i);
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_MATH_INL_H_
