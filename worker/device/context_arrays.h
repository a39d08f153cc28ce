// Small arrays that a layer's calls need on the device, tables of pages, runs, tiles, and plans of
// decoding. The layers of a step make the same calls, so what one has sent the next finds there.
// Owned by the DeviceContextCompute; one thread.
#ifndef REPRISE_WORKER_DEVICE_CONTEXT_ARRAYS_H_
#define REPRISE_WORKER_DEVICE_CONTEXT_ARRAYS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <span>
#include <vector>

#include "common/status.h"
#include "kernels/cuda/decode_plan.h"
#include "kernels/cuda/device/buffer.h"
#include "worker/device/device_status.h"

namespace reprise::worker {

class ContextArrays {
 public:
  // Before the calls of a layer: what read the arrays of the one before is done.
  void Begin() { next_ = next_plan_ = 0; }

  // For what is queued on the stream after it, until the next Begin.
  template <class T>
  StatusOr<const T*> Put(std::span<const T> values, cuda::Stream stream) {
    if (next_ == arrays_.size()) arrays_.emplace_back();
    Array& array = arrays_[next_++];
    const auto* const from = reinterpret_cast<const uint8_t*>(values.data());
    if (!std::equal(array.host.begin(), array.host.end(), from, from + values.size_bytes())) {
      // The stream may read the host's copy later.
      array.host.assign(from, from + values.size_bytes());
      if (array.device.bytes() < array.host.size()) {
        RETURN_IF_ERROR(DeviceStatus(array.device.Reset(2 * array.host.size()), "scratch"));
      }
      RETURN_IF_ERROR(DeviceStatus(
          cuda::CopyIn(array.device.data(), array.host.data(), array.host.size(), stream),
          "arrays of a layer"));
    }
    return array.device.template as<T>();
  }
  template <class T>
  StatusOr<const T*> Put(const std::vector<T>& values, cuda::Stream stream) {
    return Put(std::span<const T>(values), stream);
  }

  // Of these rows, as the layer before made it if it made the same call.
  const cuda::DecodePlan& PlanFor(const std::vector<int32_t>& keys, int kv_heads, int workers) {
    if (next_plan_ == plans_.size()) plans_.emplace_back();
    Planned& planned = plans_[next_plan_++];
    if (planned.keys != keys || planned.plan.run_begin.empty()) {
      planned = {keys, cuda::PlanDecode(keys, kv_heads, workers)};
    }
    return planned.plan;
  }

 private:
  struct Planned {
    std::vector<int32_t> keys;
    cuda::DecodePlan plan;
  };
  struct Array {
    std::vector<uint8_t> host;  // as the device has it
    cuda::Buffer device;
  };
  std::deque<Array> arrays_;
  std::deque<Planned> plans_;
  size_t next_ = 0;
  size_t next_plan_ = 0;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_CONTEXT_ARRAYS_H_
