// Parts of segments between the layout they lie in and one run of bytes, in one pass with their
// checksums, and the sums of a segment's heads where only the whole segment's sum is known.
//
// A store never sums its own memory: what it sends goes out under sums taken where the bytes were
// made or verified. It has such a sum for every segment, whoever it came from; nobody knows in
// advance how readers will cut it. HeadSums therefore splits a known sum: one pass over the segment
// gives the parts (crc32c.h) of all its heads, which must add up to the known sum, else the bytes
// have changed and nothing is sent. What follows from the heads' parts is as good as the sum they
// were proven by, also for bytes that change later: the receiver refuses them. Kept for the next
// reader of another part. Compared with sums kept a head for everything stored, appended rows and
// blocks that nobody cuts cost nothing.
#ifndef REPRISE_KVSTORE_STREAM_PART_COPY_H_
#define REPRISE_KVSTORE_STREAM_PART_COPY_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/hash/hash.h"
#include "common/crc32c.h"
#include "common/status.h"
#include "kvstore/block/block_id.h"
#include "kvstore/block/kv_format.h"
#include "kvstore/block/kv_part.h"

namespace reprise::kv {

// Constant after construction; any thread.
class PartCopier {
 public:
  explicit PartCopier(const PartView& view);

  // The inner segment out of the outer one; its CRC-32C, continuing `seed`.
  uint32_t Gather(const uint8_t* outer, uint8_t* packed, uint32_t seed) const;

  struct Taken {
    uint32_t crc = 0;    // of the packed bytes, continuing the seed
    uint32_t parts = 0;  // what they add to the outer segment's sum (crc32c.h)
  };
  Taken Scatter(const uint8_t* packed, uint8_t* outer, uint32_t seed) const;

 private:
  struct Strip {
    PartView::Strip place;
    Crc32cShift past_strip;
    Crc32cShift past_outer;  // from the strip's end to that of the outer segment
  };
  std::vector<Strip> strips_;
};

// Of one layout. One thread.
class HeadSums {
 public:
  // `held`: what the segments are laid out as. The latest `segments_max` segments are remembered.
  HeadSums(const KvFormat& held, size_t segments_max);

  struct Segment {
    BlockId id;
    uint32_t layer = 0;  // of the format
    int64_t first_position = 0;
    const uint8_t* data = nullptr;
    uint32_t checksum = 0;  // known of it
  };
  // The checksum of those of its bytes that belong to `heads` (of the held ones), as the segment of
  // that part. DATA_LOSS when the segment's bytes do not give its known checksum.
  StatusOr<uint32_t> ChecksumOf(const Segment& segment, const Range& heads);

 private:
  using Key = std::pair<BlockId, uint32_t>;
  struct Known {
    uint32_t checksum = 0;
    std::vector<uint32_t> parts;  // of the strips [field][head]
  };
  struct Field {
    uint32_t heads = 0;
    size_t head_bytes = 0;
    Crc32cShift past_head;
  };
  StatusOr<const Known*> Find(const Segment& segment);

  const size_t segments_max_;
  bool cut_ = false;
  std::vector<Field> fields_;
  std::unordered_map<Key, Known, absl::Hash<Key>> known_;
  std::deque<Key> order_;  // oldest first
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_PART_COPY_H_
