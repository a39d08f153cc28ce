#include "worker/engine/page_pool.h"

namespace reprise::worker {

PagePool::PagePool(int32_t pages) : pages_(static_cast<size_t>(pages)) {
  counts_.total = pages;
  counts_.free = pages;
  free_.reserve(pages_.size());
  for (PageId page = pages; page-- > 0;) free_.push_back(page);
}

int32_t& PagePool::CountOf(State state) {
  switch (state) {
    case State::kFree:
      return counts_.free;
    case State::kUsed:
      return counts_.used;
    case State::kCached:
      return counts_.cached;
    case State::kQuarantined:
      break;
  }
  return counts_.quarantined;
}

void PagePool::Move(PageId page, State to) {
  Page& entry = pages_[static_cast<size_t>(page)];
  --CountOf(entry.state);
  ++CountOf(to);
  entry.state = to;
  if (to == State::kFree) free_.push_back(page);
}

std::optional<PageId> PagePool::Allocate() {
  if (free_.empty()) return std::nullopt;
  const PageId page = free_.back();
  free_.pop_back();
  Move(page, State::kUsed);
  pages_[static_cast<size_t>(page)].count = 1;
  return page;
}

void PagePool::Ref(PageId page) {
  if (!Valid(page) || (state(page) != State::kUsed && state(page) != State::kCached)) {
    ++violations_;
    return;
  }
  if (state(page) == State::kCached) Move(page, State::kUsed);
  ++pages_[static_cast<size_t>(page)].count;
}

bool PagePool::Unref(PageId page, State rest, int32_t holds) {
  const bool holds_fit = (rest == State::kQuarantined) == (holds > 0);
  if (!Valid(page) || state(page) != State::kUsed || !holds_fit) {
    ++violations_;
    return false;
  }
  Page& entry = pages_[static_cast<size_t>(page)];
  if (--entry.count > 0) return false;
  entry.count = holds;
  Move(page, rest);
  return true;
}

void PagePool::Evict(PageId page, int32_t more_holds) {
  if (!Valid(page) || state(page) != State::kCached) {
    ++violations_;
    return;
  }
  Move(page, State::kQuarantined);
  pages_[static_cast<size_t>(page)].count = 1 + more_holds;
}

void PagePool::Quiet(PageId page) {
  if (!Valid(page) || state(page) != State::kQuarantined) {
    ++violations_;
    return;
  }
  if (--pages_[static_cast<size_t>(page)].count == 0) Move(page, State::kFree);
}

bool PagePool::Conserved() const {
  Counts found;
  found.total = static_cast<int32_t>(pages_.size());
  for (const Page& page : pages_) {
    const bool counted = page.state == State::kUsed || page.state == State::kQuarantined;
    if (counted != (page.count > 0)) return false;
    found.free += page.state == State::kFree;
    found.used += page.state == State::kUsed;
    found.cached += page.state == State::kCached;
    found.quarantined += page.state == State::kQuarantined;
  }
  return found.free == counts_.free && found.used == counts_.used &&
         found.cached == counts_.cached && found.quarantined == counts_.quarantined &&
         static_cast<size_t>(found.free) == free_.size() &&
         found.free + found.used + found.cached + found.quarantined == counts_.total;
}

}  // namespace reprise::worker
