// Gather and scatter: rows of a paged block to and from one contiguous row-major buffer, in one
// pass with the CRC-32C of the packed bytes. Used to replicate single tokens' rows. Stateless; any
// thread. The primitives are DejaVu's (Strati et al., ICML 2024, section 4).
#ifndef REPRISE_KVSTORE_STREAM_PACK_H_
#define REPRISE_KVSTORE_STREAM_PACK_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/crc32c_strips.h"
#include "common/status.h"
#include "kvstore/block/kv_format.h"

namespace reprise::kv {

// Rows [first_row, first_row + rows) of one segment, which holds its fields one after the other,
// each [heads][block_tokens][elements].
struct RowRange {
  uint32_t first_row = 0;
  uint32_t rows = 0;
};

// Packed layout: [row][field][head][elements], rows * format.row_bytes() bytes in all.
//
// Both return the CRC-32C (continuing `seed`) of the packed bytes as read or written, so a sender's
// and a receiver's values agree when the bytes do. INVALID_ARGUMENT when the range or a buffer's
// size does not fit the format.
StatusOr<uint32_t> Gather(const KvFormat& format, std::span<const uint8_t> segment,
                          const RowRange& range, std::span<uint8_t> packed, uint32_t seed = 0);
StatusOr<uint32_t> Scatter(const KvFormat& format, std::span<const uint8_t> packed,
                           const RowRange& range, std::span<uint8_t> segment, uint32_t seed = 0);

// Where one row lies in a segment: for its fields in order, their strips of the segment's first
// row, which begin at `at`. Fields that follow each other as one would are taken as one.
struct RowStrips {
  size_t at = 0;
  Crc32cStrips strips;
};
std::vector<RowStrips> StripsOf(const KvFormat& format);

// Gather of ranges that fit, one segment after the other.
struct GatherFrom {
  const uint8_t* segment = nullptr;
  const uint8_t* soon = nullptr;  // the segment that is gathered next; null: none
};
uint32_t GatherRows(std::span<const RowStrips> row, const GatherFrom& from, const RowRange& range,
                    uint8_t* packed, uint32_t seed);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_PACK_H_
