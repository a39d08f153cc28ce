// What peers and stores are told about a request's blocks.
#include <algorithm>

#include "worker/engine/core/core.h"

namespace reprise::worker {

void WorkerCore::ListPending(Request& request, int64_t first_block) {
  if (!request.is_leg && request.replicas.empty()) return;
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

// The first `blocks` of `chain_of`, as those of branch number `branch`.
void WorkerCore::Offer(const Request& request, const Branch& chain_of, uint32_t branch,
                       const NodeRef& store, int64_t blocks) {
  OfferBlocks offer;
  offer.store = store;
  offer.key = request.key;
  offer.branch = branch;
  offer.leg = request.is_leg;
  offer.tenant = request.tenant;
  offer.prompt_end = PromptEnd(request);
  offer.tokens.assign(chain_of.tokens.begin(), chain_of.tokens.begin() + blocks * block_);
  commands_.push_back(std::move(offer));
}

// As soon as the blocks are listed, before they are computed: stores pull each layer as it is done.
void WorkerCore::OfferPrompt(Request& request, TimeNs now) {
  if (!request.is_leg) {
    for (Replica& replica : request.replicas) OfferReplica(request, replica, now);
    return;
  }
  const int64_t blocks = Whole(request.trunk_len);
  if (blocks == 0) return;
  for (const NodeRef& store : request.leg_stores) {
    Offer(request, request.branches[0], 0, store, blocks);
  }
}

}  // namespace reprise::worker
