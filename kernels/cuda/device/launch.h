// Starts a kernel: Launch(shape, stream, Kernel, arguments...). Returns 0 when it is queued.
#ifndef REPRISE_KERNELS_CUDA_DEVICE_LAUNCH_H_
#define REPRISE_KERNELS_CUDA_DEVICE_LAUNCH_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/runtime.h"
#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include <functional>

#include "kernels/cuda/emulator/queue.h"
#endif

namespace reprise::cuda {

struct LaunchShape {
  uint32_t blocks[3] = {1, 1, 1};
  uint32_t threads[3] = {1, 1, 1};
  size_t shared_bytes = 0;
  // The kernel may begin while the one before it in the stream ends; it waits itself where it needs
  // what that one wrote (WaitForPrevious).
  bool overlaps_previous = false;
};

#if defined(__CUDACC__)

template <class... Parameters, class... Arguments>
int Launch(const LaunchShape& shape, Stream stream, void (*kernel)(Parameters...),
           const Arguments&... arguments) {
  constexpr size_t kUnasked = size_t{48} << 10;
  if (shape.shared_bytes > kUnasked) {
    const cudaError_t e = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               static_cast<int>(shape.shared_bytes));
    if (e != cudaSuccess) return e;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(shape.blocks[0], shape.blocks[1], shape.blocks[2]);
  config.blockDim = dim3(shape.threads[0], shape.threads[1], shape.threads[2]);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = shape.overlaps_previous ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void WaitForPrevious() {
  asm volatile("griddepcontrol.wait;" : : : "memory");
}
__device__ __forceinline__ void LetNextBegin() {
  asm volatile("griddepcontrol.launch_dependents;" : : : "memory");
}
#else
__device__ __forceinline__ void WaitForPrevious() {}
__device__ __forceinline__ void LetNextBegin() {}
#endif

#else

template <class... Parameters, class... Arguments>
int Launch(const LaunchShape& shape, Stream stream, void (*kernel)(Parameters...),
           const Arguments&... arguments) {
  return emulator::Enqueue(stream,
                           {{shape.blocks[0], shape.blocks[1], shape.blocks[2]},
                            {shape.threads[0], shape.threads[1], shape.threads[2]},
                            shape.shared_bytes},
                           [kernel, arguments...] { kernel(arguments...); });
}
inline void WaitForPrevious() {}
inline void LetNextBegin() {}

#endif

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DEVICE_LAUNCH_H_
