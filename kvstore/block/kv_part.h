// Which part of every block somebody holds or wants: a range of the layers and of the KV heads. The
// ranks of a group hold parts; a part of a segment is the concatenation of its fields' heads, which
// is what a KvFormat with fewer layers and heads lays out. Values; any thread.
//
// Invariants:
// 1. A format can be cut by heads when all its fields have the same number of them (PartHeads).
//    Rows of others, as latents, belong whole to every part.
// 2. The rows are never cut: a part has every row of its block.
#ifndef REPRISE_KVSTORE_BLOCK_KV_PART_H_
#define REPRISE_KVSTORE_BLOCK_KV_PART_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "kvstore/block/kv_format.h"

namespace reprise::kv {

struct Range {
  uint32_t begin = 0;
  uint32_t end = 0;  // one past the last
  uint32_t size() const { return end > begin ? end - begin : 0; }
  bool Contains(const Range& inner) const { return begin <= inner.begin && inner.end <= end; }
  bool operator==(const Range&) const = default;
};
Range Common(const Range& a, const Range& b);  // empty: of size 0

struct KvPart {
  Range layers;  // of those that own rows
  Range heads;   // of PartHeads(format)
  bool Contains(const KvPart& inner) const {
    return layers.Contains(inner.layers) && heads.Contains(inner.heads);
  }
  bool operator==(const KvPart&) const = default;
  std::string ToString() const;  // "layers [0, 4) heads [2, 4)"
};

// How many ways the rows of a format can be cut by heads; 1: not at all.
uint32_t PartHeads(const KvFormat& format);
KvPart WholePart(const KvFormat& format);
// INVALID_ARGUMENT when the part is empty or reaches beyond the format.
Status CheckPart(const KvFormat& format, const KvPart& part);
// What the blocks of somebody who holds only the part are laid out as. The part is valid.
KvFormat FormatOfPart(const KvFormat& format, const KvPart& part);

// Where the segments of a part lie in blocks that are laid out as a part which contains it.
class PartView {
 public:
  // `outer` is valid and contains `inner`.
  PartView(const KvFormat& format, const KvPart& outer, const KvPart& inner);

  struct Strip {    // adjacent heads of one field, or of fields that follow each other
    size_t at = 0;  // in the outer segment
    size_t bytes = 0;
  };
  const std::vector<Strip>& strips() const { return strips_; }  // ascending
  const KvPart& outer() const { return outer_; }
  const KvPart& inner() const { return inner_; }
  uint32_t layers() const { return inner_.layers.size(); }
  size_t segment_bytes() const { return segment_bytes_; }  // of the inner part
  size_t outer_segment_bytes() const { return outer_segment_bytes_; }
  // The inner segments are the outer ones, so those of consecutive layers are contiguous.
  bool direct() const { return segment_bytes_ == outer_segment_bytes_; }
  // Of the outer segment of this layer of the format, in an outer block.
  size_t SegmentAt(uint32_t layer) const {
    return (layer - outer_.layers.begin) * outer_segment_bytes_;
  }

 private:
  const KvPart outer_;
  const KvPart inner_;
  size_t segment_bytes_ = 0;
  size_t outer_segment_bytes_ = 0;
  std::vector<Strip> strips_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_BLOCK_KV_PART_H_
