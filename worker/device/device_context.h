// Context attention on a device: what is asked for is queued on the model's stream, copies on one
// of their own, memory is the device's. Owned by the ContextParallel that uses it; the stream
// outlives it. One thread.
#ifndef REPRISE_WORKER_DEVICE_DEVICE_CONTEXT_H_
#define REPRISE_WORKER_DEVICE_DEVICE_CONTEXT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "common/status.h"
#include "kernels/cuda/device/buffer.h"
#include "worker/device/context_arrays.h"
#include "worker/parallel/context/context_compute.h"

namespace reprise::worker {

class DeviceContextCompute final : public parallel::ContextCompute {
 public:
  static StatusOr<std::unique_ptr<DeviceContextCompute>> Make(cuda::Stream stream);
  ~DeviceContextCompute() override;
  DeviceContextCompute(const DeviceContextCompute&) = delete;
  DeviceContextCompute& operator=(const DeviceContextCompute&) = delete;

  // Attends by kernels queued on the stream: out f32, lse in base 2. Arrays are there until the
  // stream is done with them.
  using Attention =
      std::function<Status(const parallel::LayerPages& keys,
                           std::span<const parallel::NodeItem> items, ContextArrays* arrays)>;
  // For the calls that follow, once the stream is done with those before; calls of the same
  // `arrays`, 0 or 1, send equal arrays once.
  void SetCall(int64_t heads, int64_t value_dim, size_t arrays, Attention attention);

  StatusOr<uint8_t*> Take(size_t bytes, Use use) override;
  void Give(uint8_t* memory) override;
  Status CopyPages(const parallel::LayerPages& from, std::span<const int32_t> pages,
                   int64_t page_bytes, uint8_t* to) override;
  Status CopyRows(const parallel::ByteRows& from, uint8_t* to) override;
  Status Copy(const void* from, void* to, size_t bytes) override;
  Status AwaitCopies() override;
  Status Attend(const parallel::LayerPages& keys,
                std::span<const parallel::NodeItem> items) override;
  Status Merge(const parallel::Partial& left, const parallel::Partial& right) override;
  // Rows of bf16.
  Status Finish(const parallel::Partial& from, const parallel::ByteRows& to) override;
  StatusOr<MarkId> Mark() override;
  Status Await(MarkId mark) override;

 private:
  // More are never waited for at a time; an older mark is waited for with a newer one.
  static constexpr size_t kEvents = 8;

  explicit DeviceContextCompute(cuda::Stream stream) : stream_(stream) {}

  // Given back after so many marks: free once a later one was awaited.
  struct Given {
    MarkId marks = 0;
    cuda::Buffer memory;
  };

  const cuda::Stream stream_;
  cuda::Stream copies_ = nullptr;
  std::array<cuda::Event, kEvents> events_ = {};
  MarkId marks_ = 0;
  MarkId awaited_ = 0;
  int64_t heads_ = 0;
  int64_t value_dim_ = 0;
  Attention attention_;
  std::array<ContextArrays, 2> arrays_;
  ContextArrays* current_ = nullptr;
  ContextArrays copied_;
  cuda::Buffer joined_lse_;  // [rows, heads], of a merge
  std::map<uint8_t*, cuda::Buffer> taken_;
  std::map<size_t, std::vector<cuda::Buffer>> free_;  // by size
  std::map<size_t, std::vector<Given>> given_;        // by size
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_DEVICE_CONTEXT_H_
