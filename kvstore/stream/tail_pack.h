// Rows of one block in all layers, to and from the packed form in which they are appended to a
// replica: one pass over the bytes, checksum included. Both sides of replication use it. Any
// thread.
//
// Packed layout: [layer][row][field][head][elements], that is Gather of each layer (pack.h). The
// checksum is the CRC-32C of the packed bytes seeded by whose rows they are, where, and of which
// tokens, so rows of another sequence, position or text never verify, nor does an entry of which
// one of these arrived damaged.
//
// Who unpacks learns the *part* of every row in its segment's checksum (crc32c.h): from the parts
// follows the checksum of an open or full block without another look at its memory, so bytes that
// change in that memory are found where they are read. The checksum that is verified is made of
// the very vectors that give the parts (crc32c_strips.h). The price: a second fold of each vector,
// and 4 bytes kept a layer and row.
#ifndef REPRISE_KVSTORE_STREAM_TAIL_PACK_H_
#define REPRISE_KVSTORE_STREAM_TAIL_PACK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/crc32c.h"
#include "common/status.h"
#include "kvstore/block/kv_format.h"
#include "kvstore/stream/pack.h"
#include "kvstore/stream/tail.h"

namespace reprise::kv {

// Bytes of `rows` packed rows.
inline size_t PackedBytes(const KvFormat& format, size_t rows) {
  return rows * format.row_bytes() * format.layers;
}

// Of all fields but the checksum and the attempt: rows stay right when a later attempt takes them.
uint32_t TailSeed(const TailEntry& entry);

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

class TailUnpacker {
 public:
  explicit TailUnpacker(const KvFormat& format);

  // Verifies the packed rows and writes those behind `skip` from row `first_row` of `block` on (the
  // place of the first one written). `parts`: one per [layer][row written], shifted to its place in
  // the segment. DATA_LOSS when the checksum differs: the rows' places are then zeros, and so are
  // the parts; every other row is as it was. INVALID_ARGUMENT as above: nothing is written, and
  // `parts` is empty.
  Status Unpack(const TailRows& rows, uint32_t first_row, std::span<uint8_t> block,
                std::vector<uint32_t>* parts) const;
  // Zeros into rows of a block of the format.
  void Clear(const RowRange& range, std::span<uint8_t> block) const;

 private:
  // Fields of a segment that are taken as one.
  struct Lane {
    size_t at = 0;  // in the segment
    Crc32cScatterer scatterer;
    std::vector<Crc32cShift> to_place;  // by row, from the end of its last strip

    const Crc32cStrips& strips() const { return scatterer.strips(); }
  };
  uint8_t* Place(std::span<uint8_t> block, uint32_t layer, const Lane& lane, uint32_t row) const {
    return block.data() + layer * segment_bytes_ + lane.at + row * lane.strips().bytes;
  }
  // The row's part; carries `crc` over its bytes.
  uint32_t TakeRow(const uint8_t* packed, uint32_t layer, uint32_t row, std::span<uint8_t> block,
                   uint32_t* crc) const;

  const KvFormat format_;
  const size_t segment_bytes_;
  std::vector<Lane> lanes_;  // in packed order
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_TAIL_PACK_H_
