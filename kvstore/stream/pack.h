// Gather and scatter: rows of a paged block to and from one contiguous row-major buffer, in one
// pass with the CRC-32C of the packed bytes. Used to replicate single tokens' rows. Stateless; any
// thread. The primitives are DejaVu's (Strati et al., ICML 2024, section 4).
#ifndef REPRISE_KVSTORE_STREAM_PACK_H_
#define REPRISE_KVSTORE_STREAM_PACK_H_

#include <cstddef>
#include <cstdint>
#include <span>

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

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_PACK_H_
