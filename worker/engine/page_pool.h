// Accounting of the KV pool's pages: who may write, share, reuse or must leave each page alone.
// No bytes here. Owned by the worker core; one thread at a time.
//
// Invariants:
// 1. free + used + cached + quarantined == total at every moment.
// 2. A used page has at least one reference; all others have none.
// 3. A quarantined page has at least one hold (a transfer that may still touch it) and becomes
//    free when the last hold is quiet, never by time.
// 4. Free pages are handed out last-freed first, so equal histories give equal pages.
#ifndef REPRISE_WORKER_ENGINE_PAGE_POOL_H_
#define REPRISE_WORKER_ENGINE_PAGE_POOL_H_

#include <cstdint>
#include <optional>
#include <vector>

namespace reprise::worker {

using PageId = int32_t;

class PagePool {
 public:
  enum class State : uint8_t { kFree, kUsed, kCached, kQuarantined };
  struct Counts {
    int32_t total = 0;
    int32_t free = 0;
    int32_t used = 0;
    int32_t cached = 0;
    int32_t quarantined = 0;
  };

  explicit PagePool(int32_t pages);

  // A free page becomes used with one reference; empty when none is free.
  std::optional<PageId> Allocate();
  // One more reference to a used page, or the first to a cached one.
  void Ref(PageId page);

  // Drop one reference; each says where the page goes when it was the last. True when it was.
  bool UnrefToFree(PageId page) { return Unref(page, State::kFree, 0); }
  bool UnrefToCached(PageId page) { return Unref(page, State::kCached, 0); }
  bool UnrefToQuarantine(PageId page, int32_t holds) {
    return Unref(page, State::kQuarantined, holds);
  }

  // A cached page leaves the cache; one hold until the shell says no transfer reads it, and
  // `more_holds` of readers known here.
  void Evict(PageId page, int32_t more_holds = 0);
  // One hold of a quarantined page has ended.
  void Quiet(PageId page);

  State state(PageId page) const { return pages_[static_cast<size_t>(page)].state; }
  int32_t refs(PageId page) const { return pages_[static_cast<size_t>(page)].count; }
  const Counts& counts() const { return counts_; }
  bool Valid(PageId page) const { return page >= 0 && static_cast<size_t>(page) < pages_.size(); }

  // Calls that broke a rule above and were refused; zero in a correct program.
  uint64_t violations() const { return violations_; }
  // Recounts everything; for tests.
  bool Conserved() const;

 private:
  struct Page {
    State state = State::kFree;
    int32_t count = 0;  // references when used, holds when quarantined
  };
  bool Unref(PageId page, State rest, int32_t holds);
  void Move(PageId page, State to);
  int32_t& CountOf(State state);

  std::vector<Page> pages_;
  std::vector<PageId> free_;
  Counts counts_;
  uint64_t violations_ = 0;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_PAGE_POOL_H_
