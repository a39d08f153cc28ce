#include "worker/device/segment_packer.h"

namespace reprise::worker {

Status SegmentPacker::Prepare(uint8_t* pool, std::span<const int32_t> pages, cuda::Stream stream) {
  pages_.assign(pages.begin(), pages.end());
  if (pages_.empty()) return absl::OkStatus();
  const auto count = static_cast<int64_t>(pages_.size());
  ASSIGN_OR_RETURN(uint8_t* const packed, packed_.Get<uint8_t>(count * segment_bytes_));
  const auto all = static_cast<size_t>(layers_ * count);
  RETURN_IF_ERROR(host_segments_.Reserve(all * static_cast<size_t>(segment_bytes_)));
  RETURN_IF_ERROR(host_sums_.Reserve(all * sizeof(uint32_t)));
  std::vector<cuda::SegmentCopy> copies;
  copies.reserve(all);
  for (int64_t layer = 0; layer < layers_; ++layer) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t page = pages_[static_cast<size_t>(i)];
      // With this seed a checksum is the complement of its part.
      copies.push_back({.from = pool + (page * layers_ + layer) * segment_bytes_,
                        .to = packed + i * segment_bytes_,
                        .seed = ~uint32_t{0}});
    }
  }
  upload_.Clear();
  copies_ = upload_.Put(copies);
  return upload_.Send(stream);
}

Status SegmentPacker::Send(int64_t layer, cuda::Stream stream) {
  if (pages_.empty()) return absl::OkStatus();
  const auto count = static_cast<int64_t>(pages_.size());
  ASSIGN_OR_RETURN(const uint8_t* const packed, packed_.Get<uint8_t>(count * segment_bytes_));
  ASSIGN_OR_RETURN(uint32_t* const sums, sums_.Get<uint32_t>(count));
  RETURN_IF_ERROR(DeviceStatus(cuda::PackSegments({.segments = upload_.At(copies_) + layer * count,
                                                   .count = count,
                                                   .bytes = segment_bytes_,
                                                   .checksums = sums},
                                                  stream),
                               "packing segments"));
  const int64_t bytes = count * segment_bytes_;
  RETURN_IF_ERROR(DeviceStatus(cuda::CopyOut(host_segments_.as<uint8_t>() + layer * bytes, packed,
                                             static_cast<size_t>(bytes), stream),
                               "copying segments"));
  return DeviceStatus(cuda::CopyOut(host_sums_.as<uint32_t>() + layer * count, sums,
                                    static_cast<size_t>(count) * sizeof(uint32_t), stream),
                      "copying sums");
}

const uint8_t* SegmentPacker::segment(int64_t layer, size_t i) const {
  const auto place = static_cast<int64_t>(static_cast<size_t>(layer) * pages_.size() + i);
  return host_segments_.as<uint8_t>() + place * segment_bytes_;
}

uint32_t SegmentPacker::part(int64_t layer, size_t i) const {
  return ~host_sums_.as<uint32_t>()[static_cast<size_t>(layer) * pages_.size() + i];
}

}  // namespace reprise::worker
