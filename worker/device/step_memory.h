// Memory that the launches of a step are about: scratch on the device, and host memory that the
// device writes. It grows, and then it moves; steps that are captured are told by one counter,
// which a buffer cannot be made without. Owned by the DeviceModel; one thread.
#ifndef REPRISE_WORKER_DEVICE_STEP_MEMORY_H_
#define REPRISE_WORKER_DEVICE_STEP_MEMORY_H_

#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "kernels/cuda/device/buffer.h"
#include "worker/device/device_status.h"

namespace reprise::worker {

// How often memory of repeated steps has moved: equal counts, equal addresses.
struct StepMoves {
  uint64_t count = 0;
  bool capturing = false;  // a step is, whose addresses stay in its graph
};

// Device memory by what it holds.
class DeviceScratch {
 public:
  explicit DeviceScratch(StepMoves* moves) : moves_(moves) {}

  // At least `count` elements; what it held is lost when it grows.
  template <class T>
  StatusOr<T*> Get(int64_t count) {
    const auto bytes = static_cast<size_t>(count) * sizeof(T);
    if (memory_.bytes() < bytes) RETURN_IF_ERROR(Grow(bytes));
    return memory_.as<T>();
  }
  size_t bytes() const { return memory_.bytes(); }

 private:
  Status Grow(size_t bytes) {
    ++moves_->count;
    return DeviceStatus(memory_.Reset(bytes), "scratch");
  }
  StepMoves* const moves_;
  cuda::Buffer memory_;
};

// The same for what only prompts need, whose size follows from the keys: it may move without any
// captured step beginning again, and a step that is captured is refused it.
class PromptScratch {
 public:
  explicit PromptScratch(const StepMoves* moves) : moves_(moves) {}

  template <class T>
  StatusOr<T*> Get(int64_t count) {
    if (moves_->capturing) return absl::InternalError("a captured step asks for prompts' memory");
    const auto bytes = static_cast<size_t>(count) * sizeof(T);
    if (memory_.bytes() < bytes) RETURN_IF_ERROR(DeviceStatus(memory_.Reset(bytes), "scratch"));
    return memory_.as<T>();
  }

 private:
  const StepMoves* const moves_;
  cuda::Buffer memory_;
};

// Host memory that the device writes.
class PinnedMemory {
 public:
  explicit PinnedMemory(StepMoves* moves) : moves_(moves) {}
  ~PinnedMemory() { cuda::FreePinned(data_); }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  // What it held is lost when it grows.
  Status Reserve(size_t bytes) {
    if (bytes_ >= bytes) return absl::OkStatus();
    ++moves_->count;
    bytes_ = 0;
    RETURN_IF_ERROR(DeviceStatus(cuda::FreePinned(data_), "host memory"));
    data_ = nullptr;
    RETURN_IF_ERROR(DeviceStatus(cuda::AllocatePinned(&data_, bytes), "host memory"));
    bytes_ = bytes;
    return absl::OkStatus();
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  StepMoves* const moves_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_STEP_MEMORY_H_
