// KV rows on their way between the whole pages of a group's driver and the pages of its ranks,
// which hold parts (kvstore/block/kv_part.h). Values; any thread.
//
// Invariants:
// 1. Rows travel as [field][head of the part][row][elements], the bytes of a page being the
//    format's own: what is taken from a part and put into a whole page are the bytes one process
//    would have written there.
// 2. A whole page cut for a part is what the part's own page would hold.
#ifndef REPRISE_WORKER_GROUP_PART_ROWS_H_
#define REPRISE_WORKER_GROUP_PART_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kvstore/block/group_split.h"
#include "kvstore/block/kv_part.h"
#include "worker/engine/executor.h"

namespace reprise::worker {

class PartRows {
 public:
  // The part is valid.
  PartRows(const kv::KvFormat& whole, const kv::KvPart& part);

  const kv::KvPart& part() const { return part_; }
  size_t page_bytes() const { return segment_bytes_ * part_.layers.size(); }  // of the part
  size_t row_bytes() const { return row_bytes_; }  // of one position and layer

  // Rows [begin, end) of layer `layer` of the model, which the part holds, out of one of the part's
  // pages; `out` moves on behind them.
  void Take(const uint8_t* part_page, uint32_t layer, uint32_t begin, uint32_t end,
            uint8_t*& out) const;
  // The same rows into a whole page.
  void Put(const uint8_t*& in, uint32_t layer, uint32_t begin, uint32_t end,
           uint8_t* whole_page) const;
  // All layers and rows of the part.
  void Cut(const uint8_t* whole_page, uint8_t* part_page) const;

 private:
  struct Strip {  // heads of a field that follow each other
    size_t part_at = 0;
    size_t whole_at = 0;
    size_t heads = 0;
    size_t row_bytes = 0;  // of one head
  };
  const kv::KvPart part_;
  const size_t block_tokens_;
  size_t whole_segment_bytes_ = 0;
  size_t segment_bytes_ = 0;
  size_t row_bytes_ = 0;
  std::vector<Strip> strips_;
};

// Rows of one page that a step writes.
struct PageRows {
  int32_t page = 0;
  uint32_t begin = 0;
  uint32_t end = 0;
  bool operator==(const PageRows&) const = default;
};
// Those of the items that the context rank owns (of all, without `context`), in the order of items
// and positions. Blocks do not cross stripes.
std::vector<PageRows> RowsOf(std::span<const StepItem> items, uint32_t block_tokens,
                             const kv::GroupSplit& split, uint32_t context);
// The pages of those blocks of a sequence that the context rank owns: its page table.
std::vector<int32_t> OwnPages(std::span<const int32_t> pages, uint32_t block_tokens,
                              const kv::GroupSplit& split, uint32_t context);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_PART_ROWS_H_
