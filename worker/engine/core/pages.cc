// The page pool, the prefix cache and the listing, kept in step.
#include <algorithm>
#include <utility>

#include "worker/engine/core/core.h"

namespace reprise::worker {

void WorkerCore::RefPage(PageId page) {
  pool_.Ref(page);
  cache_.Busy(page);
}

void WorkerCore::ReleasePage(PageId page, int32_t transfer_holds) {
  if (cache_.sealed(page)) {
    if (pool_.UnrefToCached(page)) cache_.Idle(page);
    return;
  }
  if (pool_.refs(page) > 1) {
    pool_.UnrefToFree(page);
    return;
  }
  int32_t holds = transfer_holds + reads_[static_cast<size_t>(page)];
  if (cache_.listed(page)) {
    commands_.push_back(UnlistBlock{cache_.id(page), page, false});
    cache_.Forget(page);
    ++holds;
  }
  if (holds > 0) {
    pool_.UnrefToQuarantine(page, holds);
  } else {
    pool_.UnrefToFree(page);
  }
}

// Last blocks first: they become idle first and so give way before the prefix they extend.
void WorkerCore::ReleaseAll(Request& request) {
  for (Branch& branch : request.branches) {
    while (!branch.pages.empty()) {
      if (branch.pages.back() >= 0) ReleasePage(branch.pages.back());
      branch.pages.pop_back();
    }
    branch.computed = 0;
    branch.islands.clear();
  }
  for (const PageId page : std::exchange(request.spare, {})) ReleasePage(page);
  request.forked = false;
}

bool WorkerCore::Evict(int64_t pages) {
  bool any = false;
  for (; pages > 0; --pages) {
    const std::optional<PageId> page = cache_.Oldest();
    if (!page) break;
    commands_.push_back(UnlistBlock{cache_.id(*page), *page, true});
    cache_.Forget(*page);
    pool_.Evict(*page, reads_[static_cast<size_t>(*page)]);
    ++stats_.evictions;
    any = true;
  }
  return any;
}

void WorkerCore::EnsureChain(const Request& request, Branch& branch, int64_t rows) {
  const auto known = static_cast<int64_t>(branch.chain.size());
  if (known >= Whole(rows)) return;
  kv::ChainContext context = settings_.chain;
  context.tenant_salt = request.tenant;
  const auto first = static_cast<size_t>(known * block_);
  const auto count = static_cast<size_t>((Whole(rows) - known) * block_);
  const std::vector<kv::BlockId> more = kv::ChainIds(
      context, std::span<const int32_t>(branch.tokens).subspan(first, count), PromptEnd(request),
      known == 0 ? kv::BlockId{} : branch.chain.back(), known * block_);
  branch.chain.insert(branch.chain.end(), more.begin(), more.end());
}

void WorkerCore::Seal(Branch& branch, int64_t block) {
  const kv::BlockId& id = branch.chain[static_cast<size_t>(block)];
  PageId& page = branch.pages[static_cast<size_t>(block)];
  const std::optional<PrefixCache::Entry> entry = cache_.Find(id);
  if (entry && entry->page == page && entry->sealed) return;
  if (entry && entry->page != page && entry->sealed) {
    // Somebody else sealed the same rows meanwhile: share theirs.
    const PageId own = std::exchange(page, entry->page);
    RefPage(page);
    ReleasePage(own);
    return;
  }
  // Promised by another request: peers may wait on that very page, so the promise stands and this
  // copy stays private.
  if (entry && entry->page != page) return;
  cache_.Put(id, page, PrefixCache::Listed::kSealed);
  commands_.push_back(ListBlock{id, page, block * block_, ListBlock::State::kSealed});
}

void WorkerCore::SealRows(Branch& branch, int64_t first, int64_t last) {
  for (int64_t block = first / block_; (block + 1) * block_ <= last; ++block) {
    Seal(branch, block);
  }
}

// From here each branch goes its own way; pages are shared until written.
void WorkerCore::Fork(Request& request) {
  const Branch& lead = request.branches[request.lead];
  for (size_t b = 0; b < request.branches.size(); ++b) {
    Branch& branch = request.branches[b];
    if (b == request.lead || !branch.live) continue;
    const auto covering = static_cast<std::ptrdiff_t>(Covering(request.trunk_len));
    branch.pages.assign(lead.pages.begin(), lead.pages.begin() + covering);
    for (const PageId page : branch.pages) RefPage(page);
    if (static_cast<int64_t>(branch.chain.size()) < Whole(request.trunk_len)) {
      branch.chain.assign(lead.chain.begin(), lead.chain.begin() + Whole(request.trunk_len));
    }
    branch.computed = request.trunk_len;
  }
  request.forked = true;
  for (Branch& branch : request.branches) {
    if (!branch.live) continue;
    const int64_t before = branch.computed;
    ExtendFromCache(request, branch);
    CountRestored(request, branch.computed - before);
  }
  RestoreBranches(request, now_);
}

void WorkerCore::ExtendFromCache(Request& request, Branch& branch) {
  for (;;) {
    const int64_t block = Whole(branch.computed);
    const int64_t end = (block + 1) * block_;
    // The last row always runs: its output is the next token.
    if (end >= static_cast<int64_t>(branch.tokens.size())) return;
    EnsureChain(request, branch, end);
    const std::optional<PageId> page = cache_.FindSealed(branch.chain[static_cast<size_t>(block)]);
    if (!page) return;
    RefPage(*page);
    if (static_cast<size_t>(block) < branch.pages.size()) {
      ReleasePage(std::exchange(branch.pages[static_cast<size_t>(block)], *page));
    } else {
      branch.pages.push_back(*page);
    }
    branch.computed = end;
  }
}

}  // namespace reprise::worker
