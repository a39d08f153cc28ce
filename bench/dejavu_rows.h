// The KV rows a stage process holds, its own and those of its neighbours, and the source of its KV
// stream. A row's bytes follow from its place, so whoever has one can tell whether it is right.
// Owned by the stage; any thread.
//
// Invariants:
// 1. A row is written at most once and never changes after it is held.
// 2. Memory of a dropped sequence lives until no transfer reads or writes it.
#ifndef REPRISE_BENCH_DEJAVU_ROWS_H_
#define REPRISE_BENCH_DEJAVU_ROWS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "kvstore/stream/kv_stream.h"

namespace reprise::bench {

struct RowKey {
  uint32_t space = 0;
  uint32_t sequence = 0;
  auto operator<=>(const RowKey&) const = default;
};

kv::BlockId RowId(const RowKey& key, uint32_t row);
// A block is one row: a token step of all of a stage's layers, packed.
kv::KvFormat RowFormat(size_t row_bytes);
// `out` is a whole number of 8-byte words.
void FillRow(const RowKey& key, uint32_t row, std::span<uint8_t> out);
bool RowIsRight(const RowKey& key, uint32_t row, std::span<const uint8_t> bytes);

class DejavuRows : public kv::SegmentSource {
 public:
  // Memory of one sequence; pages are touched when written.
  class Buffer {
   public:
    Buffer(size_t rows, size_t row_bytes)
        : bytes_(std::make_unique_for_overwrite<uint8_t[]>(rows * row_bytes)),
          row_bytes_(row_bytes),
          state_(rows, State::kAbsent) {}
    std::span<uint8_t> row(uint32_t i) { return {bytes_.get() + i * row_bytes_, row_bytes_}; }

   private:
    friend class DejavuRows;
    enum class State : uint8_t { kAbsent, kOwn, kPulled };
    const std::unique_ptr<uint8_t[]> bytes_;
    const size_t row_bytes_;
    std::vector<State> state_;  // guarded by the owner's mutex
    uint32_t prefix_ = 0;       // rows held from the first on; guarded likewise
  };

  // Every sequence has room for `rows_max` rows.
  DejavuRows(uint32_t rows_max, size_t row_bytes) : rows_max_(rows_max), row_bytes_(row_bytes) {}

  uint32_t rows_max() const { return rows_max_; }
  std::shared_ptr<Buffer> Open(const RowKey& key);  // made on first use
  // Writes those of [first, first + count) that are absent; returns them.
  std::vector<uint32_t> Write(const RowKey& key, uint32_t first, uint32_t count);
  // A peer's row has landed in the buffer.
  void NotePulled(Buffer& buffer, uint32_t row);
  std::vector<uint32_t> Absent(const RowKey& key, uint32_t first, uint32_t count);
  uint32_t Prefix(const RowKey& key);  // rows held from the first on

  struct Dropped {
    uint32_t pulled = 0;
    uint32_t wrong = 0;
  };
  // Of all spaces; checks every row that came from a peer.
  Dropped Drop(uint32_t sequence);

  Block Find(const kv::BlockId& id) override;

 private:
  static void Hold(Buffer& buffer, uint32_t row, Buffer::State state);

  const uint32_t rows_max_;
  const size_t row_bytes_;
  Mutex mu_;
  std::map<RowKey, std::shared_ptr<Buffer>> buffers_ GUARDED_BY(mu_);
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_DEJAVU_ROWS_H_
