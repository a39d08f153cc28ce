// REPRISE_PORTABLE: functions that code for a CPU of any instruction set and kernels on a card both
// call, with the few operations whose spelling differs between the two. Pure; any thread.
#ifndef REPRISE_KERNELS_PORTABLE_H_
#define REPRISE_KERNELS_PORTABLE_H_

#include <cstdint>

#include "common/inline.h"

#if defined(__CUDACC__)
#define REPRISE_PORTABLE __host__ __device__ __forceinline__
#else
#define REPRISE_PORTABLE REPRISE_INLINE
#endif

namespace reprise::kernels {

// One rounding.
REPRISE_PORTABLE float PortableFma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

REPRISE_PORTABLE uint32_t PortableBits(float x) { return __builtin_bit_cast(uint32_t, x); }
REPRISE_PORTABLE uint64_t PortableBits(double x) { return __builtin_bit_cast(uint64_t, x); }
REPRISE_PORTABLE float PortableFloat(uint32_t x) { return __builtin_bit_cast(float, x); }
REPRISE_PORTABLE double PortableDouble(uint64_t x) { return __builtin_bit_cast(double, x); }

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_PORTABLE_H_
