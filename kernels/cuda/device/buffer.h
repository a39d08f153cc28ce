// Memory on the device that is freed with its owner. Movable, one owner.
#ifndef REPRISE_KERNELS_CUDA_DEVICE_BUFFER_H_
#define REPRISE_KERNELS_CUDA_DEVICE_BUFFER_H_

#include <cstddef>
#include <utility>

#include "kernels/cuda/device/runtime.h"

namespace reprise::cuda {

class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { Release(); }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  // What it held is lost. 0 or a cudaError_t.
  int Reset(size_t bytes) {
    Release();
    if (bytes == 0) return 0;
    const int e = Allocate(&data_, bytes);
    if (e == 0) bytes_ = bytes;
    return e;
  }
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void Release() {
    if (data_ != nullptr) Free(data_);
    data_ = nullptr;
    bytes_ = 0;
  }
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DEVICE_BUFFER_H_
