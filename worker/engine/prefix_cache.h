// Which page holds which block: the index that makes prefixes reusable, and the order in which
// pages nobody uses give way (least recently used first). Owned by the worker core; one thread.
//
// Invariants:
// 1. A block id names at most one page and a page at most one block.
// 2. Only sealed blocks are hits; a pending block (promised to peers, not complete) is listed only.
// 3. Idle pages are exactly the sealed pages without references; the order of eviction depends on
//    the history of calls alone.
#ifndef REPRISE_WORKER_ENGINE_PREFIX_CACHE_H_
#define REPRISE_WORKER_ENGINE_PREFIX_CACHE_H_

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/hash/hash.h"
#include "kvstore/block/block_id.h"
#include "worker/engine/page_pool.h"

namespace reprise::worker {

class PrefixCache {
 public:
  enum class Listed : uint8_t { kNo, kPending, kSealed };
  struct Entry {
    PageId page = -1;
    bool sealed = false;
  };

  explicit PrefixCache(int32_t pages) : pages_(static_cast<size_t>(pages)) {}

  std::optional<Entry> Find(const kv::BlockId& id) const {
    const auto found = index_.find(id);
    if (found == index_.end()) return std::nullopt;
    return Entry{found->second, At(found->second).listed == Listed::kSealed};
  }
  std::optional<PageId> FindSealed(const kv::BlockId& id) const {
    const std::optional<Entry> entry = Find(id);
    if (!entry || !entry->sealed) return std::nullopt;
    return entry->page;
  }

  // Names `page`, or seals it under the id it has. The id must not name another page.
  void Put(const kv::BlockId& id, PageId page, Listed listed) {
    index_.emplace(id, page);
    Page& slot = At(page);
    slot.id = id;
    slot.listed = listed;
  }

  // The page leaves the index and may be named anew.
  void Forget(PageId page) {
    Page& slot = At(page);
    if (slot.listed != Listed::kNo) index_.erase(slot.id);
    if (slot.idle) Unlink(page);
    slot.listed = Listed::kNo;
  }

  bool sealed(PageId page) const { return At(page).listed == Listed::kSealed; }
  bool pending(PageId page) const { return At(page).listed == Listed::kPending; }
  // Peers can find it: a transfer may be reading it.
  bool listed(PageId page) const { return At(page).listed != Listed::kNo; }
  const kv::BlockId& id(PageId page) const { return At(page).id; }

  // The last reference to a sealed page went, or a first one came.
  void Idle(PageId page) { Link(page); }
  void Busy(PageId page) {
    if (At(page).idle) Unlink(page);
  }
  bool idle(PageId page) const { return At(page).idle; }

  // The idle page unused for longest; it stays until Forget.
  std::optional<PageId> Oldest() const {
    if (oldest_ < 0) return std::nullopt;
    return oldest_;
  }

  // All sealed blocks, by page.
  std::vector<kv::BlockId> SealedIds() const {
    std::vector<kv::BlockId> ids;
    for (const Page& page : pages_) {
      if (page.listed == Listed::kSealed) ids.push_back(page.id);
    }
    return ids;
  }

 private:
  struct Page {
    kv::BlockId id;
    Listed listed = Listed::kNo;
    bool idle = false;
    PageId older = -1;
    PageId younger = -1;
  };
  Page& At(PageId page) { return pages_[static_cast<size_t>(page)]; }
  const Page& At(PageId page) const { return pages_[static_cast<size_t>(page)]; }

  void Link(PageId page) {
    Page& slot = At(page);
    if (slot.idle) return;
    slot.idle = true;
    slot.older = youngest_;
    slot.younger = -1;
    (youngest_ < 0 ? oldest_ : At(youngest_).younger) = page;
    youngest_ = page;
  }
  void Unlink(PageId page) {
    Page& slot = At(page);
    slot.idle = false;
    (slot.older < 0 ? oldest_ : At(slot.older).younger) = slot.younger;
    (slot.younger < 0 ? youngest_ : At(slot.younger).older) = slot.older;
  }

  std::vector<Page> pages_;
  std::unordered_map<kv::BlockId, PageId, absl::Hash<kv::BlockId>> index_;  // looked up only
  PageId oldest_ = -1;
  PageId youngest_ = -1;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_PREFIX_CACHE_H_
