// Codes of eight bits on the device. PTX ISA 8.7, section 9.7.9.21 (cvt); compute capability 8.9.
#ifndef REPRISE_KERNELS_CUDA_DEVICE_FP8_H_
#define REPRISE_KERNELS_CUDA_DEVICE_FP8_H_

#include "kernels/cuda/device/device.h"
#if !defined(__CUDACC__)
#include "kernels/e4m3.h"
#endif

namespace reprise::cuda {

// The values of four e4m3 codes, the lowest byte's first; exact. Two instructions convert, four
// more take the halves apart.
#if defined(__CUDACC__)
#if __CUDA_ARCH__ >= 890 || !defined(__CUDA_ARCH__)
REPRISE_DEVICE void WidenE4m3(uint32_t codes, float (&values)[4]) {
  asm("{\n.reg .b16 low, high, a, b, c, d;\n.reg .b32 first, second;\n"
      "mov.b32 {low, high}, %4;\n"
      "cvt.rn.f16x2.e4m3x2 first, low;\n"
      "cvt.rn.f16x2.e4m3x2 second, high;\n"
      "mov.b32 {a, b}, first;\n"
      "mov.b32 {c, d}, second;\n"
      "cvt.f32.f16 %0, a;\n"
      "cvt.f32.f16 %1, b;\n"
      "cvt.f32.f16 %2, c;\n"
      "cvt.f32.f16 %3, d;\n}"
      : "=f"(values[0]), "=f"(values[1]), "=f"(values[2]), "=f"(values[3])
      : "r"(codes));
}
#endif
#else
REPRISE_DEVICE void WidenE4m3(uint32_t codes, float (&values)[4]) {
  for (int i = 0; i < 4; ++i) {
    values[i] = kernels::E4m3ToF32(static_cast<uint8_t>(codes >> (8 * i)));
  }
}
#endif

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DEVICE_FP8_H_
