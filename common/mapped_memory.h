// Anonymous page-aligned memory, zero until used: KV pools, arenas and everything else of which
// small pieces far apart are touched. From 2 MiB on it lies on huge pages where the system has
// them, because a piece on a page of its own costs a page walk beside its cache miss. Move-only;
// one owner.
#ifndef REPRISE_COMMON_MAPPED_MEMORY_H_
#define REPRISE_COMMON_MAPPED_MEMORY_H_

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise {

class MappedMemory {
 public:
  // RESOURCE_EXHAUSTED when the system has no room; `what` names the memory in the error.
  static StatusOr<MappedMemory> Map(size_t bytes, absl::string_view what) {
    const size_t spare = bytes < kHugePageBytes ? 0 : kHugePageBytes;  // to begin on a huge page
    void* const at =
        mmap(nullptr, bytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot map ", bytes, " bytes for ", what, ": ", std::strerror(errno)));
    }
    MappedMemory memory(static_cast<uint8_t*>(at), bytes + spare);
    memory.bytes_ = bytes;
    if (spare > 0) {
      const auto address = reinterpret_cast<uintptr_t>(at);
      memory.data_ += (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
      madvise(memory.data_, bytes, MADV_HUGEPAGE);  // a hint
    }
    return memory;
  }
  MappedMemory() = default;
  MappedMemory(MappedMemory&& other) noexcept { Swap(other); }
  MappedMemory& operator=(MappedMemory&& other) noexcept {
    Swap(other);
    return *this;
  }
  ~MappedMemory() {
    if (mapping_ != nullptr) munmap(mapping_, mapped_bytes_);
  }

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kHugePageBytes = size_t{2} << 20;

  MappedMemory(uint8_t* mapping, size_t bytes)
      : mapping_(mapping), mapped_bytes_(bytes), data_(mapping) {}
  void Swap(MappedMemory& other) {
    std::swap(mapping_, other.mapping_);
    std::swap(mapped_bytes_, other.mapped_bytes_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  uint8_t* mapping_ = nullptr;
  size_t mapped_bytes_ = 0;
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace reprise

#endif  // REPRISE_COMMON_MAPPED_MEMORY_H_
