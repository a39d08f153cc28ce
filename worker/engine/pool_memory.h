// The KV pool's bytes: one page-aligned anonymous mapping, zero until used. Move-only; one owner.
#ifndef REPRISE_WORKER_ENGINE_POOL_MEMORY_H_
#define REPRISE_WORKER_ENGINE_POOL_MEMORY_H_

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "common/status.h"

namespace reprise::worker {

class PoolMemory {
 public:
  // RESOURCE_EXHAUSTED when the system has no room.
  static StatusOr<PoolMemory> Map(size_t bytes) {
    void* const at =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot map ", bytes, " bytes for the KV pool: ", std::strerror(errno)));
    }
    return PoolMemory(static_cast<uint8_t*>(at), bytes);
  }
  PoolMemory() = default;
  PoolMemory(PoolMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PoolMemory& operator=(PoolMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~PoolMemory() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  PoolMemory(uint8_t* data, size_t bytes) : data_(data), bytes_(bytes) {}
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_POOL_MEMORY_H_
