#include "worker/device/device_context.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "kernels/cuda/merge_parts.h"
#include "kernels/cuda/rows.h"
#include "worker/device/device_status.h"

namespace reprise::worker {

using parallel::ByteRows;
using parallel::LayerPages;
using parallel::NodeItem;
using parallel::Partial;

StatusOr<std::unique_ptr<DeviceContextCompute>> DeviceContextCompute::Make(cuda::Stream stream) {
  std::unique_ptr<DeviceContextCompute> compute(new DeviceContextCompute(stream));
  RETURN_IF_ERROR(DeviceStatus(cuda::MakeStream(&compute->copies_, true), "making a stream"));
  for (cuda::Event& event : compute->events_) {
    RETURN_IF_ERROR(DeviceStatus(cuda::MakeEvent(&event, false), "making an event"));
  }
  return compute;
}

DeviceContextCompute::~DeviceContextCompute() {
  // What is under way reads and writes memory that goes now.
  cuda::Synchronize(stream_);
  if (copies_ != nullptr) {
    cuda::Synchronize(copies_);
    cuda::DestroyStream(copies_);
  }
  for (const cuda::Event event : events_) {
    if (event != nullptr) cuda::DestroyEvent(event);
  }
}

void DeviceContextCompute::SetCall(int64_t heads, int64_t value_dim, size_t arrays,
                                   Attention attention) {
  heads_ = heads;
  value_dim_ = value_dim;
  current_ = &arrays_[arrays];
  current_->Begin();
  attention_ = std::move(attention);
}

// Sizes are few: powers of two.
StatusOr<uint8_t*> DeviceContextCompute::Take(size_t bytes, Use use) {
  const size_t size = std::bit_ceil(std::max<size_t>(bytes, 256));
  cuda::Buffer memory;
  std::vector<cuda::Buffer>& free = free_[size];
  std::vector<Given>& given = given_[size];
  if (use == Use::kResults && !given.empty()) {
    // What still uses it is queued before what will.
    memory = std::move(given.back().memory);
    given.pop_back();
  } else if (!free.empty()) {
    memory = std::move(free.back());
    free.pop_back();
  } else {
    RETURN_IF_ERROR(DeviceStatus(memory.Reset(size), "context attention's memory"));
  }
  auto* const data = memory.as<uint8_t>();
  taken_.emplace(data, std::move(memory));
  return data;
}

void DeviceContextCompute::Give(uint8_t* memory) {
  auto taken = taken_.extract(memory);
  const size_t size = taken.mapped().bytes();
  given_[size].push_back({marks_, std::move(taken.mapped())});
}

Status DeviceContextCompute::CopyPages(const LayerPages& from, std::span<const int32_t> pages,
                                       int64_t page_bytes, uint8_t* to) {
  if (pages.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int32_t* const rows, copied_.Put(pages, copies_));
  return DeviceStatus(cuda::CopyRows({.x = from.base,
                                      .x_stride_bytes = from.stride_bytes,
                                      .y = to,
                                      .y_stride_bytes = page_bytes,
                                      .from = rows,
                                      .rows = static_cast<int64_t>(pages.size()),
                                      .row_bytes = page_bytes},
                                     copies_),
                      "packing pages");
}

Status DeviceContextCompute::CopyRows(const ByteRows& from, uint8_t* to) {
  return DeviceStatus(cuda::CopyRows({.x = from.data,
                                      .x_stride_bytes = from.stride_bytes,
                                      .y = to,
                                      .y_stride_bytes = from.row_bytes,
                                      .rows = from.rows,
                                      .row_bytes = from.row_bytes},
                                     copies_),
                      "packing rows");
}

Status DeviceContextCompute::Copy(const void* from, void* to, size_t bytes) {
  return DeviceStatus(cuda::CopyWithin(to, from, bytes, copies_), "copying partial results");
}

Status DeviceContextCompute::AwaitCopies() {
  copied_.Begin();
  return DeviceStatus(cuda::Synchronize(copies_), "copies");
}

Status DeviceContextCompute::Attend(const LayerPages& keys, std::span<const NodeItem> items) {
  return attention_(keys, items, current_);
}

Status DeviceContextCompute::Merge(const Partial& left, const Partial& right) {
  const size_t lse_bytes = static_cast<size_t>(left.rows * heads_) * sizeof(float);
  if (joined_lse_.bytes() < lse_bytes) {
    RETURN_IF_ERROR(DeviceStatus(joined_lse_.Reset(2 * lse_bytes), "scratch"));
  }
  const int64_t cols = heads_ * value_dim_;
  cuda::MergePartsArgs args;
  args.parts[0] = {left.out, left.lse};
  args.parts[1] = {right.out, right.lse};
  args.count = 2;
  args.rows = left.rows;
  args.heads = static_cast<int>(heads_);
  args.dim = static_cast<int>(value_dim_);
  args.out_stride = cols;
  args.lse_stride = heads_;
  args.out = {left.out, cols, false};
  args.lse2 = joined_lse_.as<float>();
  RETURN_IF_ERROR(DeviceStatus(cuda::MergeParts(args, stream_), "joining partial results"));
  return DeviceStatus(cuda::CopyWithin(left.lse, joined_lse_.data(), lse_bytes, stream_),
                      "joining partial results");
}

Status DeviceContextCompute::Finish(const Partial& from, const ByteRows& to) {
  const int64_t cols = heads_ * value_dim_;
  return DeviceStatus(cuda::Convert({.x = {from.out, cols, false},
                                     .y = {to.data, to.stride_bytes / 2, true},
                                     .rows = from.rows,
                                     .cols = cols},
                                    stream_),
                      "attended rows");
}

StatusOr<DeviceContextCompute::MarkId> DeviceContextCompute::Mark() {
  ++marks_;
  RETURN_IF_ERROR(DeviceStatus(cuda::Record(events_[marks_ % kEvents], stream_), "a mark"));
  return marks_;
}

Status DeviceContextCompute::Await(MarkId mark) {
  if (mark <= awaited_) return absl::OkStatus();
  RETURN_IF_ERROR(DeviceStatus(cuda::AwaitEvent(events_[mark % kEvents]), "attention"));
  awaited_ = mark;
  for (auto& [size, given] : given_) {
    const auto quiet = std::partition(given.begin(), given.end(),
                                      [&](const Given& g) { return g.marks >= awaited_; });
    for (auto it = quiet; it != given.end(); ++it) free_[size].push_back(std::move(it->memory));
    given.erase(quiet, given.end());
  }
  return absl::OkStatus();
}

}  // namespace reprise::worker
