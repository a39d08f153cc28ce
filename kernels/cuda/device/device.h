// The language that kernels are written in: CUDA C++ for nvcc, plain C++ over the emulator for a
// CPU compiler, the same source for both. Kernels use what is here and in the headers beside it
// (barrier.h, copy.h, matrix.h, warp.h), nothing of CUDA's own, and no launch syntax (launch.h).
//
// Floating point: no contraction, denormals flushed; Fma is one rounding wherever it is written.
#ifndef REPRISE_KERNELS_CUDA_DEVICE_DEVICE_H_
#define REPRISE_KERNELS_CUDA_DEVICE_DEVICE_H_

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>

#define REPRISE_DEVICE __device__ __forceinline__
#define REPRISE_HOST_DEVICE __host__ __device__ __forceinline__
// A kernel of blocks of at most `threads`, of which an SM has at least `blocks`.
#define REPRISE_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
// Kernel parameters that stay where they are: tensor maps must.
#define REPRISE_PARAMETER const __grid_constant__
#define REPRISE_UNROLL _Pragma("unroll")
// A table made by the compiler that kernels read.
#define REPRISE_TABLE __device__ constexpr
#else
#include <cmath>
#include <cstring>

#include "kernels/cuda/emulator/grid.h"

#define REPRISE_DEVICE inline
#define REPRISE_HOST_DEVICE inline
#define REPRISE_KERNEL(threads, blocks) void
#define REPRISE_PARAMETER const
#define REPRISE_UNROLL
#define REPRISE_TABLE inline constexpr
#endif

namespace reprise::cuda {

#if defined(__CUDACC__)

REPRISE_DEVICE uint32_t ThreadX() { return threadIdx.x; }
REPRISE_DEVICE uint32_t ThreadY() { return threadIdx.y; }
REPRISE_DEVICE uint32_t BlockX() { return blockIdx.x; }
REPRISE_DEVICE uint32_t BlockY() { return blockIdx.y; }
REPRISE_DEVICE uint32_t BlockZ() { return blockIdx.z; }
REPRISE_DEVICE uint32_t GridX() { return gridDim.x; }
REPRISE_DEVICE uint32_t BlockThreads() { return blockDim.x; }

// The block's dynamic shared memory, aligned to 1,024 bytes as swizzled tiles must be.
REPRISE_DEVICE uint8_t* Shared() {
  extern __shared__ __align__(1024) uint8_t reprise_shared[];
  return reprise_shared;
}
REPRISE_DEVICE uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

REPRISE_DEVICE float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
REPRISE_DEVICE float Sqrt(float x) { return __fsqrt_rn(x); }
REPRISE_DEVICE float Divide(float a, float b) { return __fdiv_rn(a, b); }
// 2^x with a relative error of 2^-22, 0 for -inf.
REPRISE_DEVICE float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// log2(x), error 2^-22 beside 1, -inf for 0.
REPRISE_DEVICE float Log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
REPRISE_DEVICE float Max(float a, float b) { return fmaxf(a, b); }
REPRISE_DEVICE float Infinity() { return __int_as_float(0x7F800000); }
REPRISE_DEVICE uint32_t BitsOf(float x) { return __float_as_uint(x); }
REPRISE_DEVICE float FloatOf(uint32_t bits) { return __uint_as_float(bits); }

#else

REPRISE_DEVICE uint32_t ThreadX() { return emulator::Here().index.x; }
REPRISE_DEVICE uint32_t ThreadY() { return emulator::Here().index.y; }
REPRISE_DEVICE uint32_t BlockX() { return emulator::Here().block->index().x; }
REPRISE_DEVICE uint32_t BlockY() { return emulator::Here().block->index().y; }
REPRISE_DEVICE uint32_t BlockZ() { return emulator::Here().block->index().z; }
REPRISE_DEVICE uint32_t GridX() { return emulator::GridDim().x; }
REPRISE_DEVICE uint32_t BlockThreads() { return emulator::Here().block->threads().x; }

REPRISE_DEVICE uint8_t* Shared() { return emulator::Here().block->shared().generic(); }
REPRISE_DEVICE uint32_t SharedAddress(const void* p) {
  return emulator::Here().block->shared().AddressOf(p);
}

REPRISE_DEVICE float Fma(float a, float b, float c) { return std::fma(a, b, c); }
REPRISE_DEVICE float Sqrt(float x) { return std::sqrt(x); }
REPRISE_DEVICE float Divide(float a, float b) { return a / b; }
REPRISE_DEVICE float Exp2(float x) { return std::exp2(x); }
REPRISE_DEVICE float Log2(float x) { return std::log2(x); }
// The number of two when one is NaN, as CUDA's.
REPRISE_DEVICE float Max(float a, float b) { return std::fmax(a, b); }
REPRISE_DEVICE float Infinity() { return HUGE_VALF; }
REPRISE_DEVICE uint32_t BitsOf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
REPRISE_DEVICE float FloatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

#endif

// ---- bf16 ----

struct Bf16 {
  uint16_t bits;
};

REPRISE_DEVICE float ToFloat(Bf16 x) { return FloatOf(static_cast<uint32_t>(x.bits) << 16); }
// Nearest even; NaN stays NaN.
REPRISE_DEVICE uint32_t PackBf16(float low, float high);
REPRISE_DEVICE Bf16 ToBf16(float x) { return {static_cast<uint16_t>(PackBf16(x, 0))}; }
REPRISE_DEVICE float LowOf(uint32_t pair) { return FloatOf(pair << 16); }
REPRISE_DEVICE float HighOf(uint32_t pair) { return FloatOf(pair & 0xFFFF0000U); }

#if defined(__CUDACC__)
REPRISE_DEVICE uint32_t PackBf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#else
REPRISE_DEVICE uint32_t PackBf16(float low, float high) {
  const auto round = [](float x) -> uint32_t {
    if (x != x) return 0x7FFF;
    const uint32_t bits = BitsOf(x);
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  };
  return round(low) | round(high) << 16;
}
#endif

// 16 bytes, moved at once.
struct alignas(16) Words {
  uint32_t w[4];
};
struct alignas(8) TwoWords {
  uint32_t w[2];
};
REPRISE_DEVICE Words Load16(const void* from) { return *static_cast<const Words*>(from); }
REPRISE_DEVICE void Store16(void* to, const Words& words) { *static_cast<Words*>(to) = words; }
#if defined(__CUDACC__)
// From memory that the kernel does not write, past the first-level cache.
REPRISE_DEVICE Words LoadOnce16(const void* from) {
  Words v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
               : "l"(from));
  return v;
}
// Keeps the compiler from moving loads and stores across.
REPRISE_DEVICE void CompilerFence() { asm volatile("" : : : "memory"); }
// The value, which the compiler takes for a new one: what is computed from it stays where it is.
REPRISE_DEVICE uint32_t Opaque(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}
template <class T>
REPRISE_DEVICE T* Opaque(T* pointer) {
  asm volatile("" : "+l"(pointer));
  return pointer;
}
// Returns what was there.
REPRISE_DEVICE uint32_t AtomicAdd(uint32_t* at, uint32_t value) { return atomicAdd(at, value); }
REPRISE_DEVICE void AtomicXor(uint32_t* at, uint32_t value) { atomicXor(at, value); }
REPRISE_DEVICE uint32_t PopCount(uint32_t bits) { return static_cast<uint32_t>(__popc(bits)); }
#else
REPRISE_DEVICE Words LoadOnce16(const void* from) { return Load16(from); }
REPRISE_DEVICE void CompilerFence() {}
REPRISE_DEVICE uint32_t Opaque(uint32_t value) { return value; }
template <class T>
REPRISE_DEVICE T* Opaque(T* pointer) {
  return pointer;
}
REPRISE_DEVICE uint32_t AtomicAdd(uint32_t* at, uint32_t value) {
  const uint32_t before = *at;
  *at += value;
  return before;
}
REPRISE_DEVICE void AtomicXor(uint32_t* at, uint32_t value) { *at ^= value; }
REPRISE_DEVICE uint32_t PopCount(uint32_t bits) {
  return static_cast<uint32_t>(__builtin_popcount(bits));
}
#endif

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DEVICE_DEVICE_H_
