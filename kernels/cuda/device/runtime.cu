#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/cuda/device/runtime.h"
#include "kernels/cuda/device/tensor_map.h"

namespace reprise::cuda {
namespace {

cudaStream_t Of(Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t OfEvent(Event event) { return static_cast<cudaEvent_t>(event); }

CUtensorMapSwizzle SwizzleOf(uint32_t bytes) {
  switch (bytes) {
    case 32: return CU_TENSOR_MAP_SWIZZLE_32B;
    case 64: return CU_TENSOR_MAP_SWIZZLE_64B;
    case 128: return CU_TENSOR_MAP_SWIZZLE_128B;
    default: return CU_TENSOR_MAP_SWIZZLE_NONE;
  }
}

}  // namespace

int FindDevice(DeviceInfo* info) {
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device); e != cudaSuccess) return e;
  cudaDeviceProp p;
  if (const cudaError_t e = cudaGetDeviceProperties(&p, device); e != cudaSuccess) return e;
  size_t free = 0;
  size_t all = 0;
  if (const cudaError_t e = cudaMemGetInfo(&free, &all); e != cudaSuccess) return e;
  *info = {p.name,
           p.major,
           p.minor,
           p.multiProcessorCount,
           static_cast<int64_t>(all),
           static_cast<int64_t>(free),
           static_cast<int64_t>(p.sharedMemPerBlockOptin),
           false};
  return cudaSuccess;
}

std::string ErrorText(int error) {
  const auto e = static_cast<cudaError_t>(error);
  return std::string(cudaGetErrorName(e)) + ": " + cudaGetErrorString(e);
}

int Allocate(void** memory, size_t bytes) { return cudaMalloc(memory, bytes); }
int Free(void* memory) { return cudaFree(memory); }
int AllocatePinned(void** memory, size_t bytes) { return cudaMallocHost(memory, bytes); }
int FreePinned(void* memory) { return cudaFreeHost(memory); }

int CopyIn(void* device, const void* host, size_t bytes, Stream stream) {
  return cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, Of(stream));
}
int CopyOut(void* host, const void* device, size_t bytes, Stream stream) {
  return cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, Of(stream));
}
int CopyWithin(void* to, const void* from, size_t bytes, Stream stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, Of(stream));
}
int Fill(void* device, uint8_t value, size_t bytes, Stream stream) {
  return cudaMemsetAsync(device, value, bytes, Of(stream));
}

int MakeStream(Stream* stream, bool urgent) {
  int low = 0;
  int high = 0;
  if (const cudaError_t e = cudaDeviceGetStreamPriorityRange(&low, &high); e != cudaSuccess) {
    return e;
  }
  cudaStream_t made = nullptr;
  const cudaError_t e =
      cudaStreamCreateWithPriority(&made, cudaStreamNonBlocking, urgent ? high : low);
  *stream = made;
  return e;
}
int DestroyStream(Stream stream) { return cudaStreamDestroy(Of(stream)); }
int Synchronize(Stream stream) { return cudaStreamSynchronize(Of(stream)); }

int MakeEvent(Event* event, bool timed) {
  cudaEvent_t made = nullptr;
  const cudaError_t e =
      cudaEventCreateWithFlags(&made, timed ? cudaEventDefault : cudaEventDisableTiming);
  *event = made;
  return e;
}
int DestroyEvent(Event event) { return cudaEventDestroy(OfEvent(event)); }
int Record(Event event, Stream stream) { return cudaEventRecord(OfEvent(event), Of(stream)); }
int WaitFor(Stream stream, Event event) {
  return cudaStreamWaitEvent(Of(stream), OfEvent(event), 0);
}
int AwaitEvent(Event event) { return cudaEventSynchronize(OfEvent(event)); }
int Elapsed(float* ms, Event from, Event to) {
  return cudaEventElapsedTime(ms, OfEvent(from), OfEvent(to));
}

int BeginCapture(Stream stream) {
  return cudaStreamBeginCapture(Of(stream), cudaStreamCaptureModeThreadLocal);
}
int EndCapture(Stream stream, Graph* graph) {
  cudaGraph_t captured = nullptr;
  if (const cudaError_t e = cudaStreamEndCapture(Of(stream), &captured); e != cudaSuccess) return e;
  cudaGraphExec_t made = nullptr;
  const cudaError_t e = cudaGraphInstantiate(&made, captured, 0);
  cudaGraphDestroy(captured);
  *graph = made;
  return e;
}
int LaunchGraph(Graph graph, Stream stream) {
  return cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), Of(stream));
}
int DestroyGraph(Graph graph) { return cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

// The driver's function is looked up at run time: the runtime is linked, the driver is not.
int MakeTensorMap(const TensorSpec& spec, TensorMap* map) {
  static_assert(sizeof(CUtensorMap) == sizeof(TensorMap));
  static_assert(alignof(CUtensorMap) <= alignof(TensorMap));
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                           cudaEnableDefault, &result);
    return e == cudaSuccess && result == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(found)
               : nullptr;
  }();
  if (encode == nullptr) return cudaErrorSymbolNotFound;
  cuuint64_t dims[kTensorRankMax];
  cuuint64_t strides[kTensorRankMax];
  cuuint32_t box[kTensorRankMax];
  cuuint32_t steps[kTensorRankMax];
  for (int d = 0; d < spec.rank; ++d) {
    dims[d] = spec.dims[d];
    if (d > 0) strides[d - 1] = spec.stride_bytes[d];
    box[d] = spec.box[d];
    steps[d] = 1;
  }
  const CUresult r = encode(reinterpret_cast<CUtensorMap*>(map->bytes), CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(spec.rank),
                            const_cast<void*>(spec.base), dims, strides, box, steps,
                            CU_TENSOR_MAP_INTERLEAVE_NONE, SwizzleOf(spec.swizzle_bytes),
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace reprise::cuda
