// What peers and stores are told about a request's blocks.
#include <algorithm>

#include "worker/engine/core/core.h"

namespace reprise::worker {

void WorkerCore::ListPending(Request& request, int64_t first_block) {
  if (!request.is_leg && request.stores.empty()) return;
  Branch& lead = request.branches[request.lead];
  for (int64_t block = first_block; block < Whole(request.trunk_len); ++block) {
    const kv::BlockId& id = lead.chain[static_cast<size_t>(block)];
    const PageId page = lead.pages[static_cast<size_t>(block)];
    // Another request may hold or promise the same block: one promise is enough.
    if (cache_.listed(page) || cache_.Find(id)) continue;
    cache_.Put(id, page, PrefixCache::Listed::kPending);
    commands_.push_back(ListBlock{id, page, block * block_, ListBlock::State::kPending});
  }
  if (!request.is_leg || request.prompt_len() % block_ == 0) return;
  const int64_t block = Whole(request.prompt_len());
  const PageId page = lead.pages[static_cast<size_t>(block)];
  request.tail_id = kv::TailId(request.key, request.leg, block * block_);
  cache_.Put(*request.tail_id, page, PrefixCache::Listed::kPending);
  commands_.push_back(
      ListBlock{*request.tail_id, page, block * block_, ListBlock::State::kPending});
}

void WorkerCore::Offer(const Request& request, const Branch& branch, int64_t first, int64_t last) {
  OfferBlocks offer;
  offer.key = request.key;
  if (first > 0) offer.parent = branch.chain[static_cast<size_t>(first - 1)];
  offer.first_position = first * block_;
  offer.tenant = request.tenant;
  offer.tokens.assign(branch.tokens.begin() + first * block_,
                      branch.tokens.begin() + last * block_);
  for (const NodeRef& store : request.stores) {
    offer.store = store;
    commands_.push_back(offer);
  }
}

void WorkerCore::OfferPrompt(Request& request, TimeNs now) {
  Branch& lead = request.branches[request.lead];
  const int64_t blocks = Whole(request.trunk_len);
  if (request.stores.empty() || request.prompt_offered || blocks == 0) return;
  request.prompt_offered = true;
  request.offered_ns = now;
  Offer(request, lead, 0, blocks);
  lead.offered_blocks = blocks;
}

// Blocks sealed since the last offer; one message for all that came within the interval.
void WorkerCore::OfferSealed(Request& request, TimeNs now) {
  if (request.stores.empty() || !request.forked) return;
  if (now - request.offered_ns < settings_.offer_interval_ns) return;
  request.offered_ns = now;
  for (Branch& branch : request.branches) {
    if (branch.live) OfferBranch(request, branch);
  }
}

void WorkerCore::OfferBranch(Request& request, Branch& branch) {
  const int64_t sealed = Whole(branch.computed);
  if (request.stores.empty() || sealed <= branch.offered_blocks) return;
  Offer(request, branch, branch.offered_blocks, sealed);
  branch.offered_blocks = sealed;
}

}  // namespace reprise::worker
