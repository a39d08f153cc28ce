// Pass-KV at once: every rank gets all keys of the layer, then attends as one rank would.
#include <algorithm>
#include <span>

#include "worker/parallel/context/pass_frame.h"

namespace reprise::parallel {
namespace {

class Gather {
 public:
  Gather(const PassFrame& frame, const std::vector<ContextItem>& items)
      : frame_(frame), items_(items) {
    int64_t pages = 0;
    for (int rank = 0; rank < frame.ranks(); ++rank) {
      const int64_t begin = pages;
      for (const ContextItem& item : items) {
        first_page_.push_back(pages);
        pages += PagesKept(frame.stripes, frame.block_tokens(), rank, item.keys());
      }
      sizes_.push_back(static_cast<size_t>((pages - begin) * frame.page_bytes()));
    }
    bytes_ = static_cast<size_t>(pages * frame.page_bytes());
  }

  Status Receive() {
    const int rank = frame_.rank();
    RETURN_IF_ERROR(all().Reserve(frame_.compute, bytes_));
    frame_.stats.buffer_bytes_peak =
        std::max(frame_.stats.buffer_bytes_peak, static_cast<int64_t>(bytes_));
    uint8_t* mine = all().data() + FirstPage(rank, 0) * frame_.page_bytes();
    for (size_t i = 0; i < items_.size(); ++i) {
      const int64_t pages =
          PagesKept(frame_.stripes, frame_.block_tokens(), rank, items_[i].keys());
      RETURN_IF_ERROR(frame_.compute.CopyPages(
          frame_.call.pages, std::span(items_[i].pages, static_cast<size_t>(pages)),
          frame_.page_bytes(), all().data() + FirstPage(rank, i) * frame_.page_bytes()));
    }
    RETURN_IF_ERROR(frame_.compute.AwaitCopies());
    const TimeNs start = frame_.clock.NowNs();
    Status status = frame_.communicator.AllGather(
        std::span<const uint8_t>(mine, sizes_[static_cast<size_t>(rank)]), sizes_,
        std::span(all().data(), bytes_), frame_.deadline_ns);
    frame_.stats.wait_ns += frame_.clock.NowNs() - start;
    return status;
  }

  Status Attend(size_t index) {
    std::vector<RunWork> work = OwnWork(frame_, {items_[index]});
    if (work.empty()) return absl::OkStatus();
    const int64_t keys = work.back().run.keys();
    NumberPages(index, keys);
    NodeBatch batch(frame_, PackedPages(frame_, all()));
    for (RunWork& w : work) {
      batch.Add(w, RootOf(w.run.last), frame_.memory.pages.data(), {0, keys});
    }
    RETURN_IF_ERROR(batch.Attend());
    return Finish(frame_, {items_[index]}, work);
  }

 private:
  ContextBuffer& all() { return frame_.memory.gathered; }
  int64_t FirstPage(int rank, size_t item) const {
    return first_page_[static_cast<size_t>(rank) * items_.size() + item];
  }
  static StripeNode RootOf(int64_t last) {
    StripeNode node;
    while (!IsRoot(node, last)) node = node.Parent();
    return node;
  }

  // Where the pages of the sequence lie in the gathered bytes, in its order.
  void NumberPages(size_t index, int64_t keys) {
    std::vector<int32_t>& pages = frame_.memory.pages;
    pages.clear();
    for (int64_t position = 0; position < keys; position += frame_.block_tokens()) {
      const int owner = frame_.stripes.OwnerOfPosition(position);
      const int64_t local = frame_.stripes.LocalRow(position) / frame_.block_tokens();
      pages.push_back(static_cast<int32_t>(FirstPage(owner, index) + local));
    }
  }

  const PassFrame& frame_;
  const std::vector<ContextItem>& items_;
  std::vector<int64_t> first_page_;  // by rank and item
  std::vector<size_t> sizes_;        // by rank
  size_t bytes_ = 0;
};

}  // namespace

Status GatherPass(const PassFrame& frame, const std::vector<ContextItem>& items) {
  Gather gather(frame, items);
  RETURN_IF_ERROR(gather.Receive());
  for (size_t i = 0; i < items.size(); ++i) RETURN_IF_ERROR(gather.Attend(i));
  return absl::OkStatus();
}

}  // namespace reprise::parallel
