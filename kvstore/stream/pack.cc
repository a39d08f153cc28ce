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

// Calls piece(offset in the segment, offset in the packed buffer, bytes) in packed order.
template <typename Piece>
void ForEachPiece(const KvFormat& format, const RowRange& range, Piece&& piece) {
  const size_t element_bytes = ElementBytes(format.codec);
  size_t packed = 0;
  for (uint32_t row = range.first_row; row < range.first_row + range.rows; ++row) {
    size_t field_at = 0;
    for (const RowField& field : format.fields) {
      const size_t piece_bytes = field.elements * element_bytes;
      const size_t head_stride = format.block_tokens * piece_bytes;
      for (uint32_t head = 0; head < field.heads; ++head) {
        piece(field_at + head * head_stride + row * piece_bytes, packed, piece_bytes);
        packed += piece_bytes;
      }
      field_at += field.heads * head_stride;
    }
  }
}

}  // namespace

StatusOr<uint32_t> Gather(const KvFormat& format, std::span<const uint8_t> segment,
                          const RowRange& range, std::span<uint8_t> packed, uint32_t seed) {
  RETURN_IF_ERROR(CheckSizes(format, range, segment.size(), packed.size()));
  uint32_t crc = seed;
  ForEachPiece(format, range, [&](size_t from, size_t to, size_t n) {
    crc = Crc32cCopy(packed.data() + to, segment.data() + from, n, crc);
  });
  return crc;
}

StatusOr<uint32_t> Scatter(const KvFormat& format, std::span<const uint8_t> packed,
                           const RowRange& range, std::span<uint8_t> segment, uint32_t seed) {
  RETURN_IF_ERROR(CheckSizes(format, range, segment.size(), packed.size()));
  uint32_t crc = seed;
  ForEachPiece(format, range, [&](size_t to, size_t from, size_t n) {
    crc = Crc32cCopy(segment.data() + to, packed.data() + from, n, crc);
  });
  return crc;
}

}  // namespace reprise::kv
