// What the bytes of a replica cost by themselves: rows packed with their checksum, copied once from
// process to process, verified and unpacked, by the product's own passes and on memory like its
// own. Nothing else is counted: no thread is woken, no message sent. One thread at a time.
#ifndef REPRISE_BENCH_REPLICATION_FLOOR_H_
#define REPRISE_BENCH_REPLICATION_FLOOR_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/clock.h"
#include "common/mapped_memory.h"
#include "common/status.h"
#include "kvstore/stream/staging_pool.h"
#include "kvstore/stream/tail_pack.h"

namespace reprise::bench {

// Microseconds of processor time a token.
struct FloorCost {
  double pack_us = 0;    // strided rows to packed ones, with their checksum
  double carry_us = 0;   // from one process's memory to another's, by the kernel
  double unpack_us = 0;  // back to strided ones, verified

  double all_us() const { return pack_us + carry_us + unpack_us; }
};

class ReplicationFloor {
 public:
  // An append has one row of each of `sequences`, whose pages are as far apart as in a pool.
  static StatusOr<ReplicationFloor> Create(const kv::KvFormat& format, uint32_t sequences);

  // All rows of a block, one append after the other.
  Status PassBlock();
  // One append.
  Status Pass();
  // The medians of all appends so far, at least one.
  FloorCost cost() const;

 private:
  ReplicationFloor(const kv::KvFormat& format, uint32_t sequences);
  std::span<uint8_t> Page(const MappedMemory& pool, uint32_t sequence) const;

  kv::KvFormat format_;
  uint32_t sequences_;
  size_t row_bytes_;  // packed
  kv::TailUnpacker unpacker_;
  MappedMemory from_;
  MappedMemory to_;
  kv::StagingPool::Buffer packed_;
  kv::StagingPool::Buffer carried_;
  uint32_t row_ = 0;  // of the next append
  std::vector<double> pack_us_;
  std::vector<double> carry_us_;
  std::vector<double> unpack_us_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_REPLICATION_FLOOR_H_
