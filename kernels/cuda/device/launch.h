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
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

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
#endif

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DEVICE_LAUNCH_H_
