// Receive buffers of one event loop: sizes rounded up to powers of two, and given back ones kept
// for the next use, so that a steady stream of payloads touches no fresh pages. Owned by the loop;
// one thread. At most `idle_bytes_max` are kept unused.
#ifndef REPRISE_KVSTORE_STREAM_STAGING_POOL_H_
#define REPRISE_KVSTORE_STREAM_STAGING_POOL_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace reprise::kv {

class StagingPool {
 public:
  using Buffer = std::unique_ptr<uint8_t[]>;

  explicit StagingPool(size_t idle_bytes_max) : idle_bytes_max_(idle_bytes_max) {}

  Buffer Take(size_t bytes) {
    const size_t rounded = std::bit_ceil(bytes);
    std::vector<Buffer>& idle = idle_[rounded];
    if (idle.empty()) return std::make_unique_for_overwrite<uint8_t[]>(rounded);
    Buffer buffer = std::move(idle.back());
    idle.pop_back();
    idle_bytes_ -= rounded;
    return buffer;
  }
  // `bytes` as it was asked for.
  void Give(Buffer buffer, size_t bytes) {
    const size_t rounded = std::bit_ceil(bytes);
    if (idle_bytes_ + rounded > idle_bytes_max_) return;
    idle_bytes_ += rounded;
    idle_[rounded].push_back(std::move(buffer));
  }

 private:
  const size_t idle_bytes_max_;
  size_t idle_bytes_ = 0;
  std::unordered_map<size_t, std::vector<Buffer>> idle_;  // by rounded size
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_STAGING_POOL_H_
