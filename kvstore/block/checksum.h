// The checksum of a segment in flight and at rest: CRC32C over id, layer and position together with
// the payload, so that a segment in the wrong place never verifies. Pure; any thread.
#ifndef REPRISE_KVSTORE_BLOCK_CHECKSUM_H_
#define REPRISE_KVSTORE_BLOCK_CHECKSUM_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "common/crc32c.h"
#include "kvstore/block/block_id.h"

namespace reprise::kv {

// The seed that binds a payload to its place: extend it over the payload.
inline uint32_t SegmentSeed(const BlockId& id, uint32_t layer, int64_t first_position) {
  uint8_t place[28];
  std::memcpy(place, id.bytes.data(), 16);
  for (int i = 0; i < 4; ++i) place[16 + i] = static_cast<uint8_t>(layer >> (8 * i));
  for (int i = 0; i < 8; ++i) {
    place[20 + i] = static_cast<uint8_t>(static_cast<uint64_t>(first_position) >> (8 * i));
  }
  return Crc32c(place, sizeof place);
}

inline uint32_t SegmentChecksum(const BlockId& id, uint32_t layer, int64_t first_position,
                                const void* payload, size_t bytes) {
  return Crc32c(payload, bytes, SegmentSeed(id, layer, first_position));
}

// The same from the parts of the segment's rows (crc32c.h), added up by exclusive or, each already
// shifted to the row's place in the segment; `past` shifts by the segment's bytes. No byte is read.
inline uint32_t SegmentChecksumOfParts(const BlockId& id, uint32_t layer, int64_t first_position,
                                       uint32_t parts, const Crc32cShift& past) {
  return Crc32cOfParts(parts, past, SegmentSeed(id, layer, first_position));
}

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_BLOCK_CHECKSUM_H_
