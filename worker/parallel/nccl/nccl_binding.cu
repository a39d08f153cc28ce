// The sum is its own kernel, not NCCL's: NCCL's order of addition depends on its rings, channels and
// protocol, ours on the number of ranks alone. A thread adds the terms of one element in registers,
// so the kernel reads every term once and is bound by memory.
//
// NCCL itself is loaded when it is first asked for, so that one binary serves machines without it.
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <nccl.h>

#include <cstring>

#include "worker/parallel/nccl/nccl_binding.h"

namespace {

constexpr int kTermsMax = 64;
constexpr int kLevels = 7;  // of runs of 1, 2, ... 64 terms
constexpr int kThreads = 256;

struct Terms {
  float* at[kTermsMax];
};

// Denormal operands and results become zeros of their sign, as with FTZ and DAZ on the CPU.
__device__ float AddFlushed(float a, float b) {
  float sum;
  asm("add.rn.ftz.f32 %0, %1, %2;" : "=f"(sum) : "f"(a), "f"(b));
  return sum;
}

// The tree as a binary counter: partial[l] is the sum of an aligned run of 2^l terms.
__global__ void __launch_bounds__(kThreads) TreeSumKernel(Terms terms, int count, size_t n) {
  const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  float partial[kLevels];
  for (int t = 0; t < count; ++t) {
    float carry = terms.at[t][i];
    bool carrying = true;
#pragma unroll
    for (int level = 0; level < kLevels; ++level) {
      if (!carrying) continue;
      if ((t >> level & 1) != 0) {
        carry = AddFlushed(partial[level], carry);
      } else {
        partial[level] = carry;
        carrying = false;
      }
    }
  }
  // Runs left over join from the last one back, as the tree leaves out what is absent.
  float sum = 0;
  bool any = false;
#pragma unroll
  for (int level = 0; level < kLevels; ++level) {
    if ((count >> level & 1) == 0) continue;
    sum = any ? AddFlushed(partial[level], sum) : partial[level];
    any = true;
  }
  terms.at[0][i] = sum;
}

struct Nccl {
  decltype(&ncclGetErrorString) error_string = nullptr;
  decltype(&ncclGetUniqueId) unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init = nullptr;
  decltype(&ncclCommGetAsyncError) async_error = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) recv = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
};

template <class Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// Null where the library is not, or lacks what is used.
const Nccl* Library() {
  static const Nccl* const library = []() -> const Nccl* {
    void* const opened = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) return nullptr;
    static Nccl nccl;
    const bool all = Find(opened, "ncclGetErrorString", &nccl.error_string) &&
                     Find(opened, "ncclGetUniqueId", &nccl.unique_id) &&
                     Find(opened, "ncclCommInitRankConfig", &nccl.init) &&
                     Find(opened, "ncclCommGetAsyncError", &nccl.async_error) &&
                     Find(opened, "ncclGroupStart", &nccl.group_start) &&
                     Find(opened, "ncclGroupEnd", &nccl.group_end) &&
                     Find(opened, "ncclSend", &nccl.send) && Find(opened, "ncclRecv", &nccl.recv) &&
                     Find(opened, "ncclCommAbort", &nccl.abort);
    return all ? &nccl : nullptr;
  }();
  return library;
}

int Cuda(cudaError_t error) {
  return error == cudaSuccess ? 0 : kRepriseCudaError + static_cast<int>(error);
}
// What is in progress is watched by reprise_nccl_async_error.
int Begun(ncclResult_t result) { return result == ncclInProgress ? 0 : result; }
cudaStream_t Stream(void* stream) { return static_cast<cudaStream_t>(stream); }
ncclComm_t Comm(void* comm) { return static_cast<ncclComm_t>(comm); }

}  // namespace

static_assert(kRepriseNcclInProgress == static_cast<int>(ncclInProgress));
static_assert(kRepriseNcclRemoteError == static_cast<int>(ncclRemoteError));
static_assert(kRepriseCudaNotReady == kRepriseCudaError + static_cast<int>(cudaErrorNotReady));

extern "C" {

int reprise_nccl_load(void) { return Library() != nullptr ? 0 : kRepriseNcclMissing; }

const char* reprise_nccl_text(int code) {
  if (code == kRepriseNcclMissing) return "there is no libnccl.so.2, or it is too old";
  return code >= kRepriseCudaError
             ? cudaGetErrorString(static_cast<cudaError_t>(code - kRepriseCudaError))
             : Library()->error_string(static_cast<ncclResult_t>(code));
}

int reprise_cuda_use(int device) { return Cuda(cudaSetDevice(device)); }
int reprise_cuda_malloc(void** memory, size_t bytes) { return Cuda(cudaMalloc(memory, bytes)); }
int reprise_cuda_free(void* memory) { return Cuda(cudaFree(memory)); }

int reprise_cuda_on_device(const void* memory, int* on_device) {
  cudaPointerAttributes attributes{};
  const cudaError_t error = cudaPointerGetAttributes(&attributes, memory);
  *on_device = error == cudaSuccess && (attributes.type == cudaMemoryTypeDevice ||
                                        attributes.type == cudaMemoryTypeManaged);
  return Cuda(error);
}

int reprise_cuda_stream_create(void** stream) {
  cudaStream_t created = nullptr;
  const cudaError_t error = cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking);
  *stream = created;
  return Cuda(error);
}
int reprise_cuda_stream_destroy(void* stream) { return Cuda(cudaStreamDestroy(Stream(stream))); }
int reprise_cuda_stream_query(void* stream) { return Cuda(cudaStreamQuery(Stream(stream))); }
int reprise_cuda_stream_synchronize(void* stream) {
  return Cuda(cudaStreamSynchronize(Stream(stream)));
}
int reprise_cuda_copy(void* to, const void* from, size_t bytes, void* stream) {
  return Cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, Stream(stream)));
}

int reprise_cuda_tree_sum(float* const* terms, int count, size_t n, void* stream) {
  if (count < 1 || count > kTermsMax) return Cuda(cudaErrorInvalidValue);
  if (n == 0) return 0;
  Terms all{};
  std::memcpy(all.at, terms, static_cast<size_t>(count) * sizeof(float*));
  const auto blocks = static_cast<unsigned>((n + kThreads - 1) / kThreads);
  TreeSumKernel<<<blocks, kThreads, 0, Stream(stream)>>>(all, count, n);
  return Cuda(cudaGetLastError());
}

int reprise_nccl_unique_id(void* id) {
  ncclUniqueId made;
  const ncclResult_t result = Library()->unique_id(&made);
  std::memcpy(id, &made, sizeof made);
  return result;
}

int reprise_nccl_init(void** comm, int size, const void* id, int rank, int blocks_max) {
  ncclUniqueId unique;
  std::memcpy(&unique, id, sizeof unique);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.maxCTAs = blocks_max;
  ncclComm_t made = nullptr;
  const ncclResult_t result = Library()->init(&made, size, unique, rank, &config);
  *comm = made;
  return Begun(result);
}

int reprise_nccl_async_error(void* comm) {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t result = Library()->async_error(Comm(comm), &state);
  return result == ncclSuccess ? state : result;
}

int reprise_nccl_group_start(void) { return Library()->group_start(); }
int reprise_nccl_group_end(void) { return Begun(Library()->group_end()); }
int reprise_nccl_send(const void* data, size_t bytes, int peer, void* comm, void* stream) {
  return Begun(Library()->send(data, bytes, ncclUint8, peer, Comm(comm), Stream(stream)));
}
int reprise_nccl_recv(void* data, size_t bytes, int peer, void* comm, void* stream) {
  return Begun(Library()->recv(data, bytes, ncclUint8, peer, Comm(comm), Stream(stream)));
}
int reprise_nccl_abort(void* comm) { return Library()->abort(Comm(comm)); }

}  // extern "C"
