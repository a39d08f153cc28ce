// What the communicator uses of NCCL and of the CUDA runtime, and nothing else: implemented by the
// libraries (real_nccl.h) and by a stand-in of threads and queues (fake_nccl.h). A device belongs
// to the process and outlives its communicators; a communicator belongs to its link.
//
// Threads: NcclDevice any; an NcclComm one thread at a time.
//
// Invariants (of both implementations, as nccl.h and the CUDA runtime promise them):
// 1. No call waits for another rank. What needs one is under way until Settled and Idle say so.
// 2. What is queued on a communicator runs in order, one thing after the other.
// 3. After Abort has returned, what was running ends without any peer, having written anything or
//    nothing; Quiesce returns when it has ended. Until then its memory may be written and read.
#ifndef REPRISE_WORKER_PARALLEL_NCCL_NCCL_API_H_
#define REPRISE_WORKER_PARALLEL_NCCL_NCCL_API_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "common/status.h"

namespace reprise::parallel {

using NcclUniqueId = std::array<uint8_t, 128>;

// To or from a rank; device memory.
struct NcclSend {
  int to = 0;
  const void* data = nullptr;
  size_t bytes = 0;
};
struct NcclReceive {
  int from = 0;
  void* data = nullptr;
  size_t bytes = 0;
};

// A communicator and its stream. The destructor aborts what was not aborted.
class NcclComm {
 public:
  virtual ~NcclComm() = default;
  // ncclCommGetAsyncError: false while the last call is still being carried out, and nothing but
  // Abort may be called; an error when the communicator failed, whoever is the cause.
  virtual StatusOr<bool> Settled() = 0;
  // One fused group of ncclSend and ncclRecv.
  virtual Status Exchange(std::span<const NcclSend> sends,
                          std::span<const NcclReceive> receives) = 0;
  // cudaMemcpyAsync between any two kinds of memory.
  virtual Status QueueCopy(const void* from, void* to, size_t bytes) = 0;
  // cudaStreamQuery: whether all that was queued has ended.
  virtual StatusOr<bool> Idle() = 0;
  // ncclCommAbort. Once.
  virtual void Abort() = 0;
  // cudaStreamSynchronize, after Abort.
  virtual Status Quiesce() = 0;
};

// Blocks, and so processors, that a communicator may keep busy: the rest computes meanwhile.
inline constexpr int kNcclBlocksMax = 16;

class NcclDevice {
 public:
  virtual ~NcclDevice() = default;
  virtual StatusOr<NcclUniqueId> MakeUniqueId() = 0;
  // ncclCommInitRankConfig without blocking, of at most kNcclBlocksMax blocks: settled when all
  // ranks have come.
  virtual StatusOr<std::unique_ptr<NcclComm>> Join(const NcclUniqueId& id, int rank, int size) = 0;

  virtual StatusOr<void*> Allocate(size_t bytes) = 0;  // device memory, aligned to 256 bytes
  virtual void Free(void* memory) = 0;
  // False for host memory, pinned or not.
  virtual bool OnDevice(const void* memory) = 0;
  // Both return when it is done; not in the order of any communicator.
  virtual Status Copy(const void* from, void* to, size_t bytes) = 0;
  // terms[t] [n] on the device: terms[0] becomes the sum, by the tree and with the bits of
  // tree_sum.h; the others are lost.
  virtual Status TreeSum(std::span<float* const> terms, size_t n) = 0;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_NCCL_NCCL_API_H_
