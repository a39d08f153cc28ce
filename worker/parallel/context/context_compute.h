// Where context attention computes, and its operands lie: the CPU (host_context_compute.h) or a
// device (worker/device/device_context.h). Owns the memory it gives. One thread.
//
// Invariants:
// 1. Attend, Merge and Finish are done in the order in which they are asked for, but perhaps later:
//    Await returns when all asked for before a Mark is done. Copies are done beside them; copies
//    asked for are done when AwaitCopies returns.
// 2. A query's partial result over keys is a function of the query and of those keys up to its own
//    position: the same bits on every rank, alone or among other items.
// 3. After an error nothing it was asked for is of use.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_CONTEXT_COMPUTE_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_CONTEXT_COMPUTE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/status.h"

namespace reprise::parallel {

// Rows as the model's graph has them, queries or what they attended.
struct ByteRows {
  uint8_t* data = nullptr;
  int64_t rows = 0;
  int64_t row_bytes = 0;
  int64_t stride_bytes = 0;  // from row to row
  uint8_t* row(int64_t r) const { return data + r * stride_bytes; }
};

// Keys and values, or latents, of one layer: page p begins at base + p * stride_bytes.
struct LayerPages {
  const uint8_t* base = nullptr;
  int64_t stride_bytes = 0;
};

// What rows have attended of some keys, in f32.
struct Partial {
  int64_t rows = 0;
  float* out = nullptr;  // [rows, heads * value_dim]
  float* lse = nullptr;  // [rows, heads], in whatever base the compute joins by
};

// Query rows at positions first_position, ... and keys, of which those up to a row's position are
// seen.
struct NodeItem {
  ByteRows q;
  int64_t first_position = 0;
  const int32_t* pages = nullptr;  // in host memory, valid for the call
  int64_t keys = 0;
  int64_t key_position = 0;  // of the first page's first row
  Partial to;
};

class ContextCompute {
 public:
  virtual ~ContextCompute() = default;

  enum class Use : uint8_t {
    kResults,  // written by Attend and Merge only
    kMoved,    // written by copies and by other ranks as well
  };
  // At least so many bytes, aligned to 64, until they are given back. RESOURCE_EXHAUSTED.
  virtual StatusOr<uint8_t*> Take(size_t bytes, Use use) = 0;
  // What was asked for and not awaited may still use it.
  virtual void Give(uint8_t* memory) = 0;

  // Packs pages, one after the other.
  virtual Status CopyPages(const LayerPages& from, std::span<const int32_t> pages,
                           int64_t page_bytes, uint8_t* to) = 0;
  // Packs rows.
  virtual Status CopyRows(const ByteRows& from, uint8_t* to) = 0;
  virtual Status Copy(const void* from, void* to, size_t bytes) = 0;
  virtual Status AwaitCopies() = 0;

  // Items over the same keys follow each other.
  virtual Status Attend(const LayerPages& keys, std::span<const NodeItem> items) = 0;
  // left = left joined with right.
  virtual Status Merge(const Partial& left, const Partial& right) = 0;
  // The rows' results, as the graph has them.
  virtual Status Finish(const Partial& from, const ByteRows& to) = 0;

  using MarkId = uint64_t;
  virtual StatusOr<MarkId> Mark() = 0;
  virtual Status Await(MarkId mark) = 0;
  Status AwaitAll() {
    ASSIGN_OR_RETURN(const MarkId mark, Mark());
    return Await(mark);
  }
};

// Memory that is kept from call to call and grows.
class ContextBuffer {
 public:
  // What it held is lost when it grows. The compute outlives its use.
  Status Reserve(ContextCompute& compute, size_t bytes) {
    if (bytes <= bytes_) return absl::OkStatus();
    if (data_ != nullptr) compute.Give(data_);
    data_ = nullptr;
    bytes_ = 0;
    ASSIGN_OR_RETURN(data_, compute.Take(bytes, ContextCompute::Use::kMoved));
    bytes_ = bytes;
    return absl::OkStatus();
  }
  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_CONTEXT_COMPUTE_H_
