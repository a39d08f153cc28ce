#include "kvstore/stream/pack.h"

#include "common/crc32c.h"

namespace reprise::kv {
namespace {

Status CheckSizes(const KvFormat& format, const RowRange& range, size_t segment_bytes,
                  size_t packed_bytes) {
  if (range.first_row > format.block_tokens || range.rows > format.block_tokens - range.first_row) {
    return absl::InvalidArgumentError(absl::StrCat("rows ", range.first_row, " + ", range.rows,
                                                   " of a block of ", format.block_tokens));
  }
  if (segment_bytes != format.segment_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a segment has ", format.segment_bytes(), " bytes, found ", segment_bytes));
  }
  if (packed_bytes != range.rows * format.row_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat(range.rows, " packed rows take ",
                                                   range.rows * format.row_bytes(),
                                                   " bytes, found ", packed_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<RowStrips> StripsOf(const KvFormat& format) {
  std::vector<RowStrips> fields;
  fields.reserve(format.fields.size());
  size_t at = 0;
  for (const RowField& field : format.fields) {
    const size_t bytes = field.elements * ElementBytes(format.codec);
    const Crc32cStrips strips{
        .count = field.heads, .bytes = bytes, .stride = format.block_tokens * bytes};
    if (!fields.empty() && fields.back().strips.bytes == bytes) {
      fields.back().strips.count += strips.count;
    } else {
      fields.push_back({at, strips});
    }
    at += strips.count * strips.stride;
  }
  return fields;
}

uint32_t GatherRows(std::span<const RowStrips> row, const GatherFrom& from, const RowRange& range,
                    uint8_t* packed, uint32_t seed) {
  uint32_t crc = seed;
  for (uint32_t i = range.first_row; i < range.first_row + range.rows; ++i) {
    for (const auto& [at, strips] : row) {
      const size_t offset = at + i * strips.bytes;
      const uint8_t* const soon = from.soon == nullptr ? nullptr : from.soon + offset;
      crc = Crc32cGather(packed, from.segment + offset, strips, crc, soon);
      packed += strips.count * strips.bytes;
    }
  }
  return crc;
}

StatusOr<uint32_t> Gather(const KvFormat& format, std::span<const uint8_t> segment,
                          const RowRange& range, std::span<uint8_t> packed, uint32_t seed) {
  RETURN_IF_ERROR(CheckSizes(format, range, segment.size(), packed.size()));
  return GatherRows(StripsOf(format), {segment.data()}, range, packed.data(), seed);
}

StatusOr<uint32_t> Scatter(const KvFormat& format, std::span<const uint8_t> packed,
                           const RowRange& range, std::span<uint8_t> segment, uint32_t seed) {
  RETURN_IF_ERROR(CheckSizes(format, range, segment.size(), packed.size()));
  const std::vector<RowStrips> fields = StripsOf(format);
  const uint8_t* from = packed.data();
  uint32_t crc = seed;
  for (uint32_t row = range.first_row; row < range.first_row + range.rows; ++row) {
    for (const auto& [at, strips] : fields) {
      for (size_t i = 0; i < strips.count; ++i, from += strips.bytes) {
        uint8_t* const to = segment.data() + at + i * strips.stride + row * strips.bytes;
        crc = Crc32cCopy(to, from, strips.bytes, crc);
      }
    }
  }
  return crc;
}

}  // namespace reprise::kv
