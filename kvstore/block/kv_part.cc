#include "kvstore/block/kv_part.h"

#include <algorithm>

namespace reprise::kv {

Range Common(const Range& a, const Range& b) {
  const uint32_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

std::string KvPart::ToString() const {
  return absl::StrCat("layers [", layers.begin, ", ", layers.end, ") heads [", heads.begin, ", ",
                      heads.end, ")");
}

uint32_t PartHeads(const KvFormat& format) {
  for (const RowField& field : format.fields) {
    if (field.heads != format.fields[0].heads) return 1;
  }
  return format.fields.empty() ? 1 : format.fields[0].heads;
}

KvPart WholePart(const KvFormat& format) {
  return {.layers = {0, format.layers}, .heads = {0, PartHeads(format)}};
}

Status CheckPart(const KvFormat& format, const KvPart& part) {
  const KvPart whole = WholePart(format);
  if (part.layers.size() > 0 && part.heads.size() > 0 && whole.Contains(part)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the part ", part.ToString(), " is not one of ", whole.ToString()));
}

KvFormat FormatOfPart(const KvFormat& format, const KvPart& part) {
  KvFormat cut = format;
  cut.layers = part.layers.size();
  cut.layer_source.clear();  // names layers of the whole
  if (PartHeads(format) == 1) return cut;
  for (RowField& field : cut.fields) field.heads = part.heads.size();
  return cut;
}

PartView::PartView(const KvFormat& format, const KvPart& outer, const KvPart& inner)
    : outer_(outer), inner_(inner) {
  const bool cut = PartHeads(format) > 1;
  for (const RowField& field : format.fields) {
    const size_t head_bytes =
        size_t{field.elements} * format.block_tokens * ElementBytes(format.codec);
    Range heads{0, field.heads};  // of the outer part's field that are the inner's
    size_t outer_heads = field.heads;
    if (cut) {
      heads = {inner.heads.begin - outer.heads.begin, inner.heads.end - outer.heads.begin};
      outer_heads = outer.heads.size();
    }
    const Strip strip{outer_segment_bytes_ + heads.begin * head_bytes, heads.size() * head_bytes};
    if (!strips_.empty() && strips_.back().at + strips_.back().bytes == strip.at) {
      strips_.back().bytes += strip.bytes;
    } else {
      strips_.push_back(strip);
    }
    segment_bytes_ += strip.bytes;
    outer_segment_bytes_ += outer_heads * head_bytes;
  }
}

}  // namespace reprise::kv
