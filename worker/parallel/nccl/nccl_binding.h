// NCCL and the CUDA runtime as plain C, so that host code needs neither's headers: each function
// is one call of theirs, as the comment says. Owner: the caller, of everything it is given.
// Threads: any; a communicator one at a time. All return a code: 0, that of NCCL (below 1000), or
// 1000 + that of CUDA.
#ifndef REPRISE_WORKER_PARALLEL_NCCL_NCCL_BINDING_H_
#define REPRISE_WORKER_PARALLEL_NCCL_NCCL_BINDING_H_

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum RepriseNcclCode {
  kRepriseNcclRemoteError = 6,
  kRepriseNcclInProgress = 7,
  kRepriseNcclMissing = 999,
  kRepriseCudaError = 1000,
  kRepriseCudaNotReady = 1600,
};

// Finds the library: before all that begins with reprise_nccl. kRepriseNcclMissing without it.
int reprise_nccl_load(void);
const char* reprise_nccl_text(int code);

int reprise_cuda_use(int device);  // cudaSetDevice, for the calling thread
int reprise_cuda_malloc(void** memory, size_t bytes);
int reprise_cuda_free(void* memory);
int reprise_cuda_on_device(const void* memory, int* on_device);  // cudaPointerGetAttributes
int reprise_cuda_stream_create(void** stream);                   // non-blocking
int reprise_cuda_stream_destroy(void* stream);
int reprise_cuda_stream_query(void* stream);
int reprise_cuda_stream_synchronize(void* stream);
int reprise_cuda_copy(void* to, const void* from, size_t bytes,
                      void* stream);  // async, default kind
// terms[t] [n] in device memory, at most 64: the sum, by the tree of tree_sum.h with denormals
// flushed, is left in terms[0]. Queued on the stream.
int reprise_cuda_tree_sum(float* const* terms, int count, size_t n, void* stream);

int reprise_nccl_unique_id(void* id);  // 128 bytes
// ncclCommInitRankConfig with blocking = 0 and so many CTAs at most; in progress is no error.
int reprise_nccl_init(void** comm, int size, const void* id, int rank, int blocks_max);
// ncclCommGetAsyncError: what it says, or what it fails with.
int reprise_nccl_async_error(void* comm);
int reprise_nccl_group_start(void);
int reprise_nccl_group_end(void);  // in progress is no error
int reprise_nccl_send(const void* data, size_t bytes, int peer, void* comm, void* stream);
int reprise_nccl_recv(void* data, size_t bytes, int peer, void* comm, void* stream);
int reprise_nccl_abort(void* comm);

#ifdef __cplusplus
}
#endif

#endif  // REPRISE_WORKER_PARALLEL_NCCL_NCCL_BINDING_H_
