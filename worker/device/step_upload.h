// What a step's kernels must know, gathered in host memory and copied to the device at once. Owned
// by the DeviceModel; one thread. Memory grows to the largest step and is reused.
#ifndef REPRISE_WORKER_DEVICE_STEP_UPLOAD_H_
#define REPRISE_WORKER_DEVICE_STEP_UPLOAD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "common/status.h"
#include "worker/device/device_status.h"
#include "worker/device/step_memory.h"

namespace reprise::worker {

// Where an array of a StepUpload lies.
template <class T>
struct Uploaded {
  size_t offset = 0;
};

class StepUpload {
 public:
  explicit StepUpload(StepMoves* moves) : device_(moves) {}

  void Clear() { host_.clear(); }

  // Room for `room` values, zeros behind those given; the same calls with the same rooms give the
  // same places.
  template <class T>
  Uploaded<T> Put(std::span<const T> values, size_t room = 0) {
    const size_t offset = (host_.size() + kAlignment - 1) / kAlignment * kAlignment;
    host_.resize(offset + std::max(values.size(), room) * sizeof(T));
    if (!values.empty()) std::memcpy(host_.data() + offset, values.data(), values.size_bytes());
    return {offset};
  }
  template <class T>
  Uploaded<T> Put(const std::vector<T>& values, size_t room = 0) {
    return Put(std::span<const T>(values), room);
  }

  // The host's copy stays as it is until the stream has read it.
  Status Send(cuda::Stream stream) {
    const size_t room = device_.bytes() < host_.size() ? 2 * host_.size() : host_.size();
    ASSIGN_OR_RETURN(base_, device_.Get<uint8_t>(static_cast<int64_t>(room)));
    return DeviceStatus(cuda::CopyIn(base_, host_.data(), host_.size(), stream),
                        "the step's arrays");
  }
  // On the device, after Send.
  template <class T>
  const T* At(const Uploaded<T>& array) const {
    return WritableAt(array);
  }
  template <class T>
  T* WritableAt(const Uploaded<T>& array) const {
    return reinterpret_cast<T*>(base_ + array.offset);
  }

 private:
  static constexpr size_t kAlignment = 256;
  std::vector<uint8_t> host_;
  DeviceScratch device_;
  uint8_t* base_ = nullptr;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_STEP_UPLOAD_H_
