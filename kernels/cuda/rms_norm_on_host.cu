#include <cuda_runtime.h>

#include "kernels/cuda/rms_norm_on_host.h"

namespace {

struct DeviceMemory {
  ~DeviceMemory() { cudaFree(p); }
  void* p = nullptr;
};

}  // namespace

extern "C" int reprise_cuda_rms_norm_on_host(const RepriseCudaRmsNorm* host) {
  const size_t bytes = static_cast<size_t>(host->rows * host->cols) * (host->is_bf16 != 0 ? 2 : 4);
  const size_t weight_bytes = static_cast<size_t>(host->cols) * sizeof(float);
  DeviceMemory x;
  DeviceMemory weight;
  if (const int e = cudaMalloc(&x.p, bytes); e != cudaSuccess) return e;
  if (const int e = cudaMalloc(&weight.p, weight_bytes); e != cudaSuccess) return e;
  if (const int e = cudaMemcpy(x.p, host->x, bytes, cudaMemcpyHostToDevice); e != cudaSuccess)
    return e;
  if (const int e = cudaMemcpy(weight.p, host->weight, weight_bytes, cudaMemcpyHostToDevice);
      e != cudaSuccess) {
    return e;
  }
  RepriseCudaRmsNorm device = *host;
  device.x = x.p;
  device.y = x.p;
  device.weight = static_cast<const float*>(weight.p);
  if (const int e = reprise_cuda_rms_norm(&device, nullptr); e != cudaSuccess) return e;
  return cudaMemcpy(host->y, x.p, bytes, cudaMemcpyDeviceToHost);
}
