// Rows of one block in all layers, to and from the packed form in which they are appended to a
// replica: one pass over the bytes, checksum included. Both sides of replication use it. Stateless;
// any thread.
//
// Packed layout: [layer][row][field][head][elements], that is Gather of each layer (pack.h). The
// checksum is the CRC-32C of the packed bytes seeded by whose rows they are and where, so rows of
// another sequence or position never verify.
#ifndef REPRISE_KVSTORE_STREAM_TAIL_PACK_H_
#define REPRISE_KVSTORE_STREAM_TAIL_PACK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "kvstore/block/kv_format.h"
#include "kvstore/stream/pack.h"
#include "kvstore/stream/tail.h"

namespace reprise::kv {

// Bytes of `rows` packed rows.
inline size_t PackedBytes(const KvFormat& format, size_t rows) {
  return rows * format.row_bytes() * format.layers;
}

uint32_t TailSeed(absl::string_view request_id, uint32_t branch, int64_t first_position);
inline uint32_t TailSeed(const TailEntry& entry) {
  return TailSeed(entry.request.id, entry.branch, entry.first_position);
}

// Memory for packed rows, not initialized.
class PackedRows final : public TailPayload {
 public:
  explicit PackedRows(size_t bytes)
      : data_(std::make_unique_for_overwrite<uint8_t[]>(bytes)), bytes_(bytes) {}
  std::span<const uint8_t> bytes() const override { return {data_.get(), bytes_}; }
  std::span<uint8_t> writable() { return {data_.get(), bytes_}; }

 private:
  const std::unique_ptr<uint8_t[]> data_;
  const size_t bytes_;
};

// Packs rows `range` of `block` (block_bytes) into `packed`; returns the checksum with that seed.
// INVALID_ARGUMENT when a size does not fit the format.
StatusOr<uint32_t> PackTail(const KvFormat& format, std::span<const uint8_t> block,
                            const RowRange& range, uint32_t seed, std::span<uint8_t> packed);

struct TailRows {
  std::span<const uint8_t> packed;
  uint32_t checksum = 0;
  uint32_t seed = 0;
  uint32_t rows = 0;  // packed
  uint32_t skip = 0;  // of these, not to be written: they are there already
};
// Verifies the packed rows and writes those behind `skip` from row `first_row` of `block` on (the
// place of the first one written). DATA_LOSS when the checksum differs: what the rows' places hold
// is then unspecified, every other row is as it was. INVALID_ARGUMENT as above.
Status UnpackTail(const KvFormat& format, const TailRows& rows, uint32_t first_row,
                  std::span<uint8_t> block);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_TAIL_PACK_H_
