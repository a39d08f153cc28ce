#include "kvstore/stream/part_copy.h"

#include "kvstore/block/checksum.h"

namespace reprise::kv {

PartCopier::PartCopier(const PartView& view) {
  for (const PartView::Strip& strip : view.strips()) {
    strips_.push_back(
        {.place = strip,
         .past_strip = Crc32cShift(strip.bytes),
         .past_outer = Crc32cShift(view.outer_segment_bytes() - strip.at - strip.bytes)});
  }
}

uint32_t PartCopier::Gather(const uint8_t* outer, uint8_t* packed, uint32_t seed) const {
  uint32_t crc = seed;
  for (const Strip& strip : strips_) {
    crc = Crc32cCopy(packed, outer + strip.place.at, strip.place.bytes, crc);
    packed += strip.place.bytes;
  }
  return crc;
}

PartCopier::Taken PartCopier::Scatter(const uint8_t* packed, uint8_t* outer, uint32_t seed) const {
  Taken taken{.crc = seed};
  for (const Strip& strip : strips_) {
    const uint32_t part = Crc32cPartCopy(outer + strip.place.at, packed, strip.place.bytes);
    taken.crc = Crc32cOfParts(part, strip.past_strip, taken.crc);
    taken.parts ^= strip.past_outer(part);
    packed += strip.place.bytes;
  }
  return taken;
}

HeadSums::HeadSums(const KvFormat& held, size_t segments_max) : segments_max_(segments_max) {
  cut_ = PartHeads(held) > 1;
  for (const RowField& field : held.fields) {
    const size_t head_bytes = size_t{field.elements} * held.block_tokens * ElementBytes(held.codec);
    fields_.push_back(
        {.heads = field.heads, .head_bytes = head_bytes, .past_head = Crc32cShift(head_bytes)});
  }
}

StatusOr<const HeadSums::Known*> HeadSums::Find(const Segment& segment) {
  const Key key(segment.id, segment.layer);
  const auto found = known_.find(key);
  // The open tail of a sequence keeps its id while its bytes, and its checksum, change.
  if (found != known_.end() && found->second.checksum == segment.checksum) return &found->second;
  Known known{.checksum = segment.checksum, .parts = {}};
  uint32_t crc = SegmentSeed(segment.id, segment.layer, segment.first_position);
  const uint8_t* at = segment.data;
  for (const Field& field : fields_) {
    for (uint32_t head = 0; head < field.heads; ++head, at += field.head_bytes) {
      known.parts.push_back(Crc32cPart(at, field.head_bytes));
      crc = Crc32cOfParts(known.parts.back(), field.past_head, crc);
    }
  }
  if (crc != segment.checksum) {
    return absl::DataLossError(absl::StrCat("block ", segment.id.Hex(), " layer ", segment.layer,
                                            " has changed since it was summed"));
  }
  if (found == known_.end()) {
    order_.push_back(key);
    if (order_.size() > segments_max_) {
      known_.erase(order_.front());
      order_.pop_front();
    }
  }
  return &(known_[key] = std::move(known));
}

StatusOr<uint32_t> HeadSums::ChecksumOf(const Segment& segment, const Range& heads) {
  ASSIGN_OR_RETURN(const Known* known, Find(segment));
  uint32_t crc = SegmentSeed(segment.id, segment.layer, segment.first_position);
  size_t first = 0;  // strip of the field
  for (const Field& field : fields_) {
    const Range wanted = cut_ ? heads : Range{0, field.heads};
    for (uint32_t head = wanted.begin; head < wanted.end; ++head) {
      crc = Crc32cOfParts(known->parts[first + head], field.past_head, crc);
    }
    first += field.heads;
  }
  return crc;
}

}  // namespace reprise::kv
