#include "worker/parallel/context/host_context_compute.h"

#include <bit>
#include <cstring>
#include <utility>

namespace reprise::parallel {
namespace {

constexpr size_t kAlignment = 64;

kernels::ConstF32 Floats(const ByteRows& rows) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(float));
  return {reinterpret_cast<const float*>(rows.data), rows.rows, rows.row_bytes / kBytes,
          rows.stride_bytes / kBytes};
}

}  // namespace

// Sizes are few: powers of two.
StatusOr<uint8_t*> HostContextCompute::Take(size_t bytes, Use) {
  const size_t size = std::bit_ceil(std::max(bytes, kAlignment));
  std::vector<Block>& free = free_[size];
  Block block;
  if (!free.empty()) {
    block = std::move(free.back());
    free.pop_back();
  } else {
    // Not cleared: large ones are not there until they are used.
    block.memory.reset(new std::byte[size + kAlignment]);
    void* at = block.memory.get();
    size_t space = size + kAlignment;
    block.data = static_cast<uint8_t*>(std::align(kAlignment, size, at, space));
    block.bytes = size;
  }
  uint8_t* const data = block.data;
  taken_.emplace(data, std::move(block));
  return data;
}

void HostContextCompute::Give(uint8_t* memory) {
  auto block = taken_.extract(memory);
  free_[block.mapped().bytes].push_back(std::move(block.mapped()));
}

Status HostContextCompute::CopyPages(const LayerPages& from, std::span<const int32_t> pages,
                                     int64_t page_bytes, uint8_t* to) {
  for (const int32_t page : pages) {
    std::memcpy(to, from.base + page * from.stride_bytes, static_cast<size_t>(page_bytes));
    to += page_bytes;
  }
  return absl::OkStatus();
}

Status HostContextCompute::CopyRows(const ByteRows& from, uint8_t* to) {
  for (int64_t r = 0; r < from.rows; ++r) {
    std::memcpy(to + r * from.row_bytes, from.row(r), static_cast<size_t>(from.row_bytes));
  }
  return absl::OkStatus();
}

Status HostContextCompute::Copy(const void* from, void* to, size_t bytes) {
  std::memcpy(to, from, bytes);
  return absl::OkStatus();
}

Status HostContextCompute::Attend(const LayerPages& keys, std::span<const NodeItem> items) {
  kernels::PagedKv kv = kv_;
  kv.base = reinterpret_cast<std::byte*>(const_cast<uint8_t*>(keys.base));
  kv.page_stride_bytes = keys.stride_bytes;
  kv.layer = 0;
  std::vector<kernels::KeySegment> segments;
  segments.reserve(items.size());
  std::vector<kernels::AttentionItem> attended;
  for (const NodeItem& item : items) {
    segments.push_back({item.pages, item.keys, item.key_position, kernels::MaskKind::kCausal});
    const kernels::Partials to = View(item.to);
    attended.push_back({Floats(item.q), item.first_position, &segments.back(), 1, to.out, to.lse});
  }
  attender_->Attend(kv, attended);
  return absl::OkStatus();
}

Status HostContextCompute::Merge(const Partial& left, const Partial& right) {
  const kernels::Partials into = View(left);
  ops_.merge_partials({heads_, value_dim_, into, View(right), into});
  return absl::OkStatus();
}

Status HostContextCompute::Finish(const Partial& from, const ByteRows& to) {
  const auto cols = static_cast<size_t>(heads_ * value_dim_);
  for (int64_t r = 0; r < from.rows; ++r) {
    std::memcpy(to.row(r), from.out + static_cast<size_t>(r) * cols, cols * sizeof(float));
  }
  return absl::OkStatus();
}

}  // namespace reprise::parallel
