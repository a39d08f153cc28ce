// Buffers for rows on their way, received or packed: sizes rounded up to powers of two, and given
// back ones kept for the next use, so that a steady stream of payloads touches no fresh pages and
// the larger ones lie on huge pages (mapped_memory.h). Owned by who takes; one thread, or behind
// its owner's lock. At most `idle_bytes_max` are kept unused.
#ifndef REPRISE_KVSTORE_STREAM_STAGING_POOL_H_
#define REPRISE_KVSTORE_STREAM_STAGING_POOL_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/mapped_memory.h"
#include "common/status.h"

namespace reprise::kv {

class StagingPool {
 public:
  using Buffer = MappedMemory;  // at least as long as asked for

  explicit StagingPool(size_t idle_bytes_max) : idle_bytes_max_(idle_bytes_max) {}

  // RESOURCE_EXHAUSTED when the system has no room.
  StatusOr<Buffer> Take(size_t bytes) {
    const size_t rounded = std::bit_ceil(bytes);
    std::vector<Buffer>& idle = idle_[rounded];
    if (idle.empty()) return MappedMemory::Map(rounded, "rows on their way");
    Buffer buffer = std::move(idle.back());
    idle.pop_back();
    idle_bytes_ -= rounded;
    return buffer;
  }
  void Give(Buffer buffer) {
    const size_t bytes = buffer.bytes();
    if (idle_bytes_ + bytes > idle_bytes_max_) return;
    idle_bytes_ += bytes;
    idle_[bytes].push_back(std::move(buffer));
  }
  size_t idle_bytes() const { return idle_bytes_; }

 private:
  const size_t idle_bytes_max_;
  size_t idle_bytes_ = 0;
  std::unordered_map<size_t, std::vector<Buffer>> idle_;  // by rounded size
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_STAGING_POOL_H_
