// Functions over V16 written once and compiled per instruction set: exp, loads of any element
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
#include "kernels/portable_math.h"

namespace reprise::kernels::REPRISE_KERNEL_ISA {

inline constexpr float kInfinity = __builtin_huge_valf();

static inline int64_t MinOf(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t MaxOf(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t RoundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// PortableExp of every lane.
static inline V Exp(V x) {
  using namespace exp_constants;
  x = Min(V::Set1(kHigh), Max(V::Set1(kLow), x));  // constants first: NaN passes
  const V magic = V::Set1(kMagic);
  const V t = Fma(x, V::Set1(kLog2E), magic);
  const V n = Sub(t, magic);
  V r = Fma(n, V::Set1(kMinusLn2High), x);
  r = Fma(n, V::Set1(kMinusLn2Low), r);
  V p = V::Set1(kP0);
  p = Fma(p, r, V::Set1(kP1));
  p = Fma(p, r, V::Set1(kP2));
  p = Fma(p, r, V::Set1(kP3));
  p = Fma(p, r, V::Set1(kP4));
  p = Fma(p, r, V::Set1(kP5));
  p = Fma(p, Mul(r, r), r);
  return Mul(Add(p, V::Set1(1.0f)), Pow2FromMagic(t));
}
static inline float Exp(float x) { return First(Exp(V::Set1(x))); }

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
