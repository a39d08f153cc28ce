#include "worker/parallel/nccl/real_nccl.h"

#include <utility>

#include "worker/parallel/nccl/nccl_binding.h"

namespace reprise::parallel {
namespace {

Status Check(int code, const char* call) {
  if (code == 0) return absl::OkStatus();
  const std::string message = absl::StrCat(
      call, ": ", reprise_nccl_text(code), " (",
      code >= kRepriseCudaError ? "CUDA error " : "NCCL result ", code % kRepriseCudaError, ")");
  return code == kRepriseNcclRemoteError ? absl::UnavailableError(message)
                                         : absl::InternalError(message);
}

class RealComm final : public NcclComm {
 public:
  // Owns the stream; Begin makes the communicator.
  RealComm(int device, void* stream) : device_(device), stream_(stream) {}
  ~RealComm() override {
    if (comm_ != nullptr && !aborted_) {
      RealComm::Abort();
      RealComm::Quiesce().IgnoreError();
    }
    reprise_cuda_stream_destroy(stream_);
  }
  Status Begin(const NcclUniqueId& id, int rank, int size) {
    return Check(reprise_nccl_init(&comm_, size, id.data(), rank, kNcclBlocksMax),
                 "ncclCommInitRankConfig");
  }
  StatusOr<bool> Settled() override {
    const int state = reprise_nccl_async_error(comm_);
    if (state == kRepriseNcclInProgress) return false;
    RETURN_IF_ERROR(Check(state, "ncclCommGetAsyncError"));
    return true;
  }
  Status Exchange(std::span<const NcclSend> sends, std::span<const NcclReceive> receives) override {
    RETURN_IF_ERROR(Use());
    RETURN_IF_ERROR(Check(reprise_nccl_group_start(), "ncclGroupStart"));
    Status queued;
    for (const NcclSend& send : sends) {
      queued.Update(
          Check(reprise_nccl_send(send.data, send.bytes, send.to, comm_, stream_), "ncclSend"));
    }
    for (const NcclReceive& receive : receives) {
      queued.Update(
          Check(reprise_nccl_recv(receive.data, receive.bytes, receive.from, comm_, stream_),
                "ncclRecv"));
    }
    // A group that was begun is ended in any case: the thread's next one would be part of it.
    queued.Update(Check(reprise_nccl_group_end(), "ncclGroupEnd"));
    return queued;
  }
  Status QueueCopy(const void* from, void* to, size_t bytes) override {
    RETURN_IF_ERROR(Use());
    return Check(reprise_cuda_copy(to, from, bytes, stream_), "cudaMemcpyAsync");
  }
  StatusOr<bool> Idle() override {
    const int state = reprise_cuda_stream_query(stream_);
    if (state == kRepriseCudaNotReady) return false;
    RETURN_IF_ERROR(Check(state, "cudaStreamQuery"));
    return true;
  }
  void Abort() override {
    aborted_ = true;
    // An abort that fails leaves nothing to be done; Quiesce waits for the stream all the same.
    reprise_nccl_abort(comm_);
  }
  Status Quiesce() override {
    return Check(reprise_cuda_stream_synchronize(stream_), "cudaStreamSynchronize");
  }

 private:
  Status Use() { return Check(reprise_cuda_use(device_), "cudaSetDevice"); }

  const int device_;
  void* const stream_;
  void* comm_ = nullptr;
  bool aborted_ = false;
};

class RealDevice final : public NcclDevice {
 public:
  RealDevice(int device, void* stream) : device_(device), stream_(stream) {}
  ~RealDevice() override { reprise_cuda_stream_destroy(stream_); }

  StatusOr<NcclUniqueId> MakeUniqueId() override {
    NcclUniqueId id{};
    RETURN_IF_ERROR(Check(reprise_nccl_unique_id(id.data()), "ncclGetUniqueId"));
    return id;
  }
  StatusOr<std::unique_ptr<NcclComm>> Join(const NcclUniqueId& id, int rank, int size) override {
    RETURN_IF_ERROR(Use());
    void* stream = nullptr;
    RETURN_IF_ERROR(Check(reprise_cuda_stream_create(&stream), "cudaStreamCreateWithFlags"));
    auto comm = std::make_unique<RealComm>(device_, stream);
    RETURN_IF_ERROR(comm->Begin(id, rank, size));
    return comm;
  }
  StatusOr<void*> Allocate(size_t bytes) override {
    RETURN_IF_ERROR(Use());
    void* memory = nullptr;
    RETURN_IF_ERROR(Check(reprise_cuda_malloc(&memory, bytes), "cudaMalloc"));
    return memory;
  }
  void Free(void* memory) override { reprise_cuda_free(memory); }
  bool OnDevice(const void* memory) override {
    int on_device = 0;
    return memory != nullptr && reprise_cuda_on_device(memory, &on_device) == 0 && on_device != 0;
  }
  Status Copy(const void* from, void* to, size_t bytes) override {
    RETURN_IF_ERROR(Use());
    RETURN_IF_ERROR(Check(reprise_cuda_copy(to, from, bytes, stream_), "cudaMemcpyAsync"));
    return Check(reprise_cuda_stream_synchronize(stream_), "cudaStreamSynchronize");
  }
  Status TreeSum(std::span<float* const> terms, size_t n) override {
    RETURN_IF_ERROR(Use());
    RETURN_IF_ERROR(
        Check(reprise_cuda_tree_sum(terms.data(), static_cast<int>(terms.size()), n, stream_),
              "TreeSum"));
    return Check(reprise_cuda_stream_synchronize(stream_), "cudaStreamSynchronize");
  }

 private:
  Status Use() { return Check(reprise_cuda_use(device_), "cudaSetDevice"); }

  const int device_;
  void* const stream_;  // for Copy and TreeSum
};

}  // namespace

StatusOr<std::unique_ptr<NcclDevice>> OpenNcclDevice(int device) {
  void* stream = nullptr;
  if (const int e = reprise_nccl_load(); e != 0) {
    return absl::UnavailableError(reprise_nccl_text(e));
  }
  Status opened = Check(reprise_cuda_use(device), "cudaSetDevice");
  if (opened.ok()) opened = Check(reprise_cuda_stream_create(&stream), "cudaStreamCreateWithFlags");
  if (!opened.ok()) {
    return absl::UnavailableError(absl::StrCat("card ", device, ": ", opened.message()));
  }
  return std::make_unique<RealDevice>(device, stream);
}

}  // namespace reprise::parallel
