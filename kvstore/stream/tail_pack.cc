#include "kvstore/stream/tail_pack.h"

#include "common/crc32c.h"

namespace reprise::kv {
namespace {

Status CheckBlock(const KvFormat& format, size_t block_bytes, size_t rows, size_t packed_bytes) {
  if (block_bytes != format.block_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a block has ", format.block_bytes(), " bytes, found ", block_bytes));
  }
  if (rows > format.block_tokens || packed_bytes != PackedBytes(format, rows)) {
    return absl::InvalidArgumentError(
        absl::StrCat(rows, " packed rows of a block of ", format.block_tokens, " take ",
                     PackedBytes(format, rows), " bytes, found ", packed_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

uint32_t TailSeed(absl::string_view request_id, uint32_t branch, int64_t first_position) {
  uint8_t place[12];
  for (int i = 0; i < 4; ++i) place[i] = static_cast<uint8_t>(branch >> (8 * i));
  for (int i = 0; i < 8; ++i) {
    place[4 + i] = static_cast<uint8_t>(static_cast<uint64_t>(first_position) >> (8 * i));
  }
  return Crc32c(place, sizeof place, Crc32c(request_id.data(), request_id.size()));
}

StatusOr<uint32_t> PackTail(const KvFormat& format, std::span<const uint8_t> block,
                            const RowRange& range, uint32_t seed, std::span<uint8_t> packed) {
  RETURN_IF_ERROR(CheckBlock(format, block.size(), range.rows, packed.size()));
  const size_t layer_bytes = range.rows * format.row_bytes();
  uint32_t crc = seed;
  for (uint32_t layer = 0; layer < format.layers; ++layer) {
    ASSIGN_OR_RETURN(
        crc, Gather(format, block.subspan(layer * format.segment_bytes(), format.segment_bytes()),
                    range, packed.subspan(layer * layer_bytes, layer_bytes), crc));
  }
  return crc;
}

Status UnpackTail(const KvFormat& format, const TailRows& rows, uint32_t first_row,
                  std::span<uint8_t> block) {
  RETURN_IF_ERROR(CheckBlock(format, block.size(), rows.rows, rows.packed.size()));
  if (rows.skip > rows.rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot skip ", rows.skip, " of ", rows.rows, " rows"));
  }
  const RowRange range{.first_row = first_row, .rows = rows.rows - rows.skip};
  const size_t skipped_bytes = rows.skip * format.row_bytes();
  const size_t written_bytes = range.rows * format.row_bytes();
  const uint8_t* packed = rows.packed.data();
  uint32_t crc = rows.seed;
  for (uint32_t layer = 0; layer < format.layers; ++layer) {
    crc = Crc32c(packed, skipped_bytes, crc);
    packed += skipped_bytes;
    ASSIGN_OR_RETURN(
        crc, Scatter(format, {packed, written_bytes}, range,
                     block.subspan(layer * format.segment_bytes(), format.segment_bytes()), crc));
    packed += written_bytes;
  }
  if (crc == rows.checksum) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(rows.rows, " packed rows: checksum mismatch"));
}

}  // namespace reprise::kv
