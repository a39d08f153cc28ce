#include "worker/group/part_rows.h"

#include <algorithm>
#include <cstring>

namespace reprise::worker {

PartRows::PartRows(const kv::KvFormat& whole, const kv::KvPart& part)
    : part_(part), block_tokens_(whole.block_tokens) {
  const bool cut = kv::PartHeads(whole) > 1;
  for (const kv::RowField& field : whole.fields) {
    const size_t row_bytes = size_t{field.elements} * kv::ElementBytes(whole.codec);
    const size_t head_bytes = row_bytes * block_tokens_;
    const size_t heads = cut ? part.heads.size() : field.heads;
    const size_t first = cut ? part.heads.begin : 0;
    strips_.push_back(
        {segment_bytes_, whole_segment_bytes_ + first * head_bytes, heads, row_bytes});
    segment_bytes_ += heads * head_bytes;
    whole_segment_bytes_ += field.heads * head_bytes;
    row_bytes_ += heads * row_bytes;
  }
}

void PartRows::Take(const uint8_t* part_page, uint32_t layer, uint32_t begin, uint32_t end,
                    uint8_t*& out) const {
  const uint8_t* const segment = part_page + (layer - part_.layers.begin) * segment_bytes_;
  for (const Strip& strip : strips_) {
    const size_t bytes = (end - begin) * strip.row_bytes;
    for (size_t head = 0; head < strip.heads; ++head) {
      const size_t row = head * block_tokens_ + begin;
      std::memcpy(out, segment + strip.part_at + row * strip.row_bytes, bytes);
      out += bytes;
    }
  }
}

void PartRows::Put(const uint8_t*& in, uint32_t layer, uint32_t begin, uint32_t end,
                   uint8_t* whole_page) const {
  uint8_t* const segment = whole_page + layer * whole_segment_bytes_;
  for (const Strip& strip : strips_) {
    const size_t bytes = (end - begin) * strip.row_bytes;
    for (size_t head = 0; head < strip.heads; ++head) {
      const size_t row = head * block_tokens_ + begin;
      std::memcpy(segment + strip.whole_at + row * strip.row_bytes, in, bytes);
      in += bytes;
    }
  }
}

void PartRows::Cut(const uint8_t* whole_page, uint8_t* part_page) const {
  for (uint32_t layer = part_.layers.begin; layer < part_.layers.end; ++layer) {
    const uint8_t* const from = whole_page + layer * whole_segment_bytes_;
    uint8_t* const to = part_page + (layer - part_.layers.begin) * segment_bytes_;
    for (const Strip& strip : strips_) {
      std::memcpy(to + strip.part_at, from + strip.whole_at,
                  strip.heads * block_tokens_ * strip.row_bytes);
    }
  }
}

std::vector<PageRows> RowsOf(std::span<const StepItem> items, uint32_t block_tokens,
                             const kv::GroupSplit& split, uint32_t context) {
  std::vector<PageRows> rows;
  for (const StepItem& item : items) {
    const int64_t end = item.first_position + static_cast<int64_t>(item.tokens.size());
    for (int64_t at = item.first_position; at < end;) {
      const int64_t block = at / block_tokens;
      const int64_t block_begin = block * block_tokens;
      const int64_t stop = std::min(end, block_begin + block_tokens);
      if (kv::ContextOwner(split, block_begin) == context) {
        rows.push_back({item.pages[static_cast<size_t>(block)],
                        static_cast<uint32_t>(at - block_begin),
                        static_cast<uint32_t>(stop - block_begin)});
      }
      at = stop;
    }
  }
  return rows;
}

std::vector<int32_t> OwnPages(std::span<const int32_t> pages, uint32_t block_tokens,
                              const kv::GroupSplit& split, uint32_t context) {
  std::vector<int32_t> own;
  for (size_t block = 0; block < pages.size(); ++block) {
    const auto position = static_cast<int64_t>(block * block_tokens);
    if (kv::ContextOwner(split, position) == context) own.push_back(pages[block]);
  }
  return own;
}

}  // namespace reprise::worker
