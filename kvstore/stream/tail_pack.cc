#include "kvstore/stream/tail_pack.h"

#include <cstring>

#include "common/bytes.h"

namespace reprise::kv {
namespace {

constexpr size_t kSeedBytesUsual = 160;  // of one row of a request with an id of usual length

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

Status CheckRange(const KvFormat& format, const RowRange& range) {
  if (range.first_row <= format.block_tokens &&
      range.rows <= format.block_tokens - range.first_row) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("rows ", range.first_row, " + ", range.rows,
                                                 " of a block of ", format.block_tokens));
}

}  // namespace

uint32_t TailSeed(const TailEntry& entry) {
  std::string fields;
  fields.reserve(kSeedBytesUsual);
  ByteWriter<std::string> out(fields);
  out.PrefixedText(entry.request.id).U32(entry.branch).PrefixedText(entry.tenant_salt);
  out.I64(entry.prompt_end).Bytes(entry.parent.bytes).I64(entry.first_position);
  for (const int32_t token : entry.tokens) out.I32(token);
  return Crc32c(fields.data(), fields.size());
}

StatusOr<uint32_t> PackTail(const KvFormat& format, std::span<const uint8_t> block,
                            const RowRange& range, uint32_t seed, std::span<uint8_t> packed) {
  RETURN_IF_ERROR(CheckBlock(format, block.size(), range.rows, packed.size()));
  RETURN_IF_ERROR(CheckRange(format, range));
  const std::vector<RowStrips> row = StripsOf(format);
  const size_t layer_bytes = range.rows * format.row_bytes();
  const size_t segment_bytes = format.segment_bytes();
  for (const auto& [at, strips] : row) {
    Approach(block.data() + at + range.first_row * strips.bytes, strips);
  }
  uint32_t crc = seed;
  for (uint32_t layer = 0; layer < format.layers; ++layer) {
    const uint8_t* const segment = block.data() + layer * segment_bytes;
    const bool last = layer + 1 == format.layers;
    crc = GatherRows(row, {segment, last ? nullptr : segment + segment_bytes}, range,
                     packed.data() + layer * layer_bytes, crc);
  }
  return crc;
}

// ---- Unpacking. ----

TailUnpacker::TailUnpacker(const KvFormat& format)
    : format_(format), segment_bytes_(format.segment_bytes()) {
  for (const auto& [at, strips] : StripsOf(format)) {
    Lane lane{.at = at, .scatterer = Crc32cScatterer(strips), .to_place = {}};
    const size_t last_at = at + (strips.count - 1) * strips.stride;
    for (uint32_t row = 0; row < format.block_tokens; ++row) {
      lane.to_place.emplace_back(segment_bytes_ - last_at - (row + 1) * strips.bytes);
    }
    lanes_.push_back(std::move(lane));
  }
}

uint32_t TailUnpacker::TakeRow(const uint8_t* packed, uint32_t layer, uint32_t row,
                               std::span<uint8_t> block, uint32_t* crc) const {
  uint32_t parts = 0;
  for (const Lane& lane : lanes_) {
    uint8_t* const place = Place(block, layer, lane, row);
    const uint8_t* const soon = layer + 1 == format_.layers ? nullptr : place + segment_bytes_;
    const Crc32cScattered taken = lane.scatterer.Scatter(place, packed, *crc, soon);
    *crc = taken.crc;
    parts ^= lane.to_place[row](taken.part);
    packed += lane.strips().count * lane.strips().bytes;
  }
  return parts;
}

void TailUnpacker::Clear(const RowRange& range, std::span<uint8_t> block) const {
  for (uint32_t layer = 0; layer < format_.layers; ++layer) {
    for (const Lane& lane : lanes_) {
      uint8_t* const place = Place(block, layer, lane, range.first_row);
      for (size_t i = 0; i < lane.strips().count; ++i) {
        std::memset(place + i * lane.strips().stride, 0, range.rows * lane.strips().bytes);
      }
    }
  }
}

Status TailUnpacker::Unpack(const TailRows& rows, uint32_t first_row, std::span<uint8_t> block,
                            std::vector<uint32_t>* parts) const {
  parts->clear();
  RETURN_IF_ERROR(CheckBlock(format_, block.size(), rows.rows, rows.packed.size()));
  if (rows.skip > rows.rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot skip ", rows.skip, " of ", rows.rows, " rows"));
  }
  const RowRange range{.first_row = first_row, .rows = rows.rows - rows.skip};
  RETURN_IF_ERROR(CheckRange(format_, range));
  const size_t row_bytes = format_.row_bytes();
  const uint8_t* packed = rows.packed.data();
  uint32_t crc = rows.seed;
  parts->reserve(size_t{format_.layers} * range.rows);
  for (const Lane& lane : lanes_) Approach(Place(block, 0, lane, first_row), lane.strips());
  for (uint32_t layer = 0; layer < format_.layers; ++layer) {
    crc = Crc32c(packed, rows.skip * row_bytes, crc);
    packed += rows.skip * row_bytes;
    for (uint32_t row = first_row; row < first_row + range.rows; ++row) {
      parts->push_back(TakeRow(packed, layer, row, block, &crc));
      packed += row_bytes;
    }
  }
  if (crc == rows.checksum) return absl::OkStatus();
  Clear(range, block);
  parts->assign(parts->size(), 0);
  return absl::DataLossError(absl::StrCat(rows.rows, " packed rows: checksum mismatch"));
}

}  // namespace reprise::kv
