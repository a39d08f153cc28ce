// Memory for packed rows that comes back for the next append once no transfer reads it any more.
// Shared with the rows it gave out, which outlive its owner. Any thread.
#ifndef REPRISE_KVSTORE_STREAM_ROWS_POOL_H_
#define REPRISE_KVSTORE_STREAM_ROWS_POOL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "common/mutex.h"
#include "common/status.h"
#include "kvstore/stream/staging_pool.h"
#include "kvstore/stream/tail.h"

namespace reprise::kv {

class RowsPool : public std::enable_shared_from_this<RowsPool> {
 public:
  class Rows final : public TailPayload {
   public:
    Rows(std::shared_ptr<RowsPool> pool, StagingPool::Buffer buffer, size_t bytes)
        : pool_(std::move(pool)), buffer_(std::move(buffer)), bytes_(bytes) {}
    ~Rows() override { pool_->Give(std::move(buffer_)); }
    std::span<const uint8_t> bytes() const override { return {buffer_.data(), bytes_}; }
    // What an earlier append left is in it.
    std::span<uint8_t> writable() { return {buffer_.data(), bytes_}; }

   private:
    const std::shared_ptr<RowsPool> pool_;
    StagingPool::Buffer buffer_;
    const size_t bytes_;
  };

  explicit RowsPool(size_t idle_bytes_max) : pool_(idle_bytes_max) {}

  // RESOURCE_EXHAUSTED when the system has no room.
  StatusOr<std::shared_ptr<Rows>> Take(size_t bytes) {
    MutexLock lock(mu_);
    ASSIGN_OR_RETURN(StagingPool::Buffer buffer, pool_.Take(bytes));
    return std::make_shared<Rows>(shared_from_this(), std::move(buffer), bytes);
  }
  size_t idle_bytes() const {
    MutexLock lock(mu_);
    return pool_.idle_bytes();
  }

 private:
  void Give(StagingPool::Buffer buffer) {
    MutexLock lock(mu_);
    pool_.Give(std::move(buffer));
  }

  mutable Mutex mu_;
  StagingPool pool_ GUARDED_BY(mu_);
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_ROWS_POOL_H_
