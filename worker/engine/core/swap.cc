// Copies of pages outside the pool: made when a sequence gives its pages up, brought back when it
// gets pages again. A block's copy is kept while the request lives, so that a sequence that leaves
// once more only has the blocks written that grew.
#include <algorithm>
#include <utility>

#include "worker/engine/core/core.h"

namespace reprise::worker {

// Pages with rows that no copy has yet, and where their copies are noted: a page that branches
// share is copied once.
std::map<PageId, std::vector<SwapCopy*>> WorkerCore::StaleCopies(Request& request) const {
  std::map<PageId, std::vector<SwapCopy*>> stale;
  for (Branch& branch : request.branches) {
    if (!branch.live) continue;
    const auto blocks = static_cast<size_t>(Covering(branch.computed));
    if (branch.copies.size() < blocks) branch.copies.resize(blocks);
    for (size_t block = 0; block < blocks; ++block) {
      SwapCopy& copy = branch.copies[block];
      if (copy.slot >= 0 && copy.rows_end >= RowsEnd(branch, block)) continue;
      stale[branch.pages[block]].push_back(&copy);
    }
  }
  return stale;
}

// A slot that nobody else refers to is written anew.
bool WorkerCore::Rewritable(const std::vector<SwapCopy*>& copies) const {
  return copies.size() == 1 && copies[0]->slot >= 0 && slots_.refs(copies[0]->slot) == 1;
}

int64_t WorkerCore::SlotsWanted(Request& request) const {
  int64_t wanted = 0;
  for (const auto& [page, copies] : StaleCopies(request)) wanted += !Rewritable(copies);
  return wanted;
}

// False, and nothing ordered, when there are too few slots.
bool WorkerCore::CopyOut(Request& request, TimeNs now) {
  if (SlotsWanted(request) > slots_.Free(now)) return false;
  SwapOut order;
  for (auto& [page, copies] : StaleCopies(request)) {
    SlotId slot = copies[0]->slot;
    if (!Rewritable(copies)) {
      slot = *slots_.Allocate(now);
      for (SwapCopy* copy : copies) {
        if (copy->slot >= 0) slots_.Unref(copy->slot);
        copy->slot = slot;
      }
      for (size_t more = 1; more < copies.size(); ++more) slots_.Ref(slot);
    }
    const uint64_t ticket = next_ticket_++;
    for (SwapCopy* copy : copies) copy->ticket = ticket;
    order.items.push_back({page, slot, ticket});
    ++reads_[static_cast<size_t>(page)];
  }
  for (Branch& branch : request.branches) {
    for (size_t block = 0; block < branch.copies.size(); ++block) {
      SwapCopy& copy = branch.copies[block];
      if (branch.live) copy.rows_end = std::max(copy.rows_end, RowsEnd(branch, block));
    }
  }
  if (order.items.empty()) return true;
  order.swap = next_swap_++;
  for (const SwapItem& item : order.items) swaps_[order.swap].push_back(item.page);
  stats_.swapped_out_bytes +=
      order.items.size() * static_cast<uint64_t>(settings_.row_bytes * block_);
  commands_.push_back(std::move(order));
  return true;
}

void WorkerCore::On(const SwapDone& event, TimeNs now) {
  const auto node = swaps_.extract(event.swap);
  if (node.empty()) return;
  if (!event.status.ok()) {
    ++stats_.swap_failures;
    if (event.disk) slots_.PauseDisk(now + settings_.swap_disk_retry_ns);
  }
  const auto pages = static_cast<double>(node.mapped().size());
  if (event.status.ok() && event.took_ns > 0) {
    swap_rate_.Add(pages * static_cast<double>(settings_.row_bytes * block_),
                   SecondsFromNs(event.took_ns));
  }
  for (const PageId page : node.mapped()) {
    --reads_[static_cast<size_t>(page)];
    if (pool_.state(page) == PagePool::State::kQuarantined) pool_.Quiet(page);
  }
}

// Its pages go; what its leg brought is history.
void WorkerCore::Vacate(Request& request) {
  request.preempted = true;
  request.leg_state = LegState::kNone;
  ReleaseAll(request);
}

// Blocks of a branch that copies continue from row `computed` on, without a gap; their pages are
// for the caller to fill in.
std::vector<FetchedBlock> WorkerCore::CopiesOf(const Request& request, size_t branch,
                                               int64_t computed) const {
  std::vector<FetchedBlock> blocks;
  const Branch& at = request.branches[branch];
  if (!at.live || request.live_branches() < 2) return blocks;
  for (int64_t rows = computed; Whole(rows) < static_cast<int64_t>(at.copies.size());) {
    const SwapCopy& copy = at.copies[static_cast<size_t>(Whole(rows))];
    if (copy.slot < 0 || copy.rows_end <= rows) break;
    FetchedBlock wanted;
    wanted.branch = branch;
    wanted.block = Whole(rows);
    wanted.item.first_position = wanted.block * block_;
    wanted.rows_end = copy.rows_end;
    wanted.whole = copy.rows_end % block_ == 0;
    wanted.copy = copy;
    blocks.push_back(wanted);
    rows = copy.rows_end;
    if (!wanted.whole) break;
  }
  return blocks;
}

// The trunk's blocks from `first_block` on, as far as there are copies.
void WorkerCore::StartSwapIn(Request& request, int64_t first_block, TimeNs now) {
  const Branch& lead = request.branches[request.lead];
  std::vector<FetchedBlock> blocks;
  for (int64_t block = first_block; block < Covering(request.trunk_len); ++block) {
    const auto index = static_cast<size_t>(block);
    if (index >= lead.copies.size()) break;
    if (lead.copies[index].slot < 0) continue;
    FetchedBlock wanted;
    wanted.branch = request.lead;
    wanted.block = block;
    wanted.item.first_position = block * block_;
    wanted.item.page = lead.pages[index];
    wanted.rows_end = std::min(lead.copies[index].rows_end, request.trunk_len);
    wanted.whole = wanted.rows_end == (block + 1) * block_;
    wanted.copy = lead.copies[index];
    blocks.push_back(wanted);
  }
  if (!blocks.empty()) StartSwapFetch(request, std::move(blocks), now);
}

void WorkerCore::StartSwapFetch(Request& request, std::vector<FetchedBlock> blocks, TimeNs now) {
  SwapIn order;
  order.fetch = next_fetch_++;
  for (const FetchedBlock& block : blocks) {
    order.items.push_back({block.item.page, block.copy->slot, block.copy->ticket});
  }
  Fetch fetch;
  fetch.owner = &request;
  fetch.blocks = std::move(blocks);
  fetch.swap = true;
  fetch.began_ns = now;
  fetches_.emplace(order.fetch, std::move(fetch));
  ++request.fetches_open;
  ++stats_.swap_ins;
  commands_.push_back(std::move(order));
}

// A copy that did not verify is no copy: its rows are computed again.
void WorkerCore::TakeSwapped(const Fetch& fetch, const FetchDone& event, TimeNs now) {
  int64_t arrived = 0;
  for (size_t i = 0; i < fetch.blocks.size(); ++i) {
    if (i < event.items.size() && event.items[i].ok()) {
      ++arrived;
      continue;
    }
    ++stats_.swap_lost;
    const FetchedBlock& block = fetch.blocks[i];
    if (fetch.owner != nullptr) DropCopy(fetch.owner->branches[block.branch], block.block);
  }
  const int64_t bytes = arrived * settings_.row_bytes * block_;
  stats_.swapped_in_bytes += static_cast<uint64_t>(bytes);
  // Whoever does not measure it has one order at a time.
  const TimeNs took = event.took_ns > 0 ? event.took_ns : now - fetch.began_ns;
  if (bytes > 0 && took > 0) swap_rate_.Add(static_cast<double>(bytes), SecondsFromNs(took));
}

void WorkerCore::DropCopy(Branch& branch, int64_t block) {
  if (block >= static_cast<int64_t>(branch.copies.size())) return;
  SwapCopy& copy = branch.copies[static_cast<size_t>(block)];
  if (copy.slot >= 0) slots_.Unref(copy.slot);
  copy = {};
}

void WorkerCore::DropCopies(Branch& branch) {
  for (int64_t block = static_cast<int64_t>(branch.copies.size()); block-- > 0;) {
    DropCopy(branch, block);
  }
  branch.copies.clear();
}

// Once for each time the answer changes.
void WorkerCore::CountSwapRefusal(Request& request, SwapVerdict verdict) {
  if (std::exchange(request.swap_verdict, verdict) == verdict) return;
  stats_.swap_refused_slots += verdict == SwapVerdict::kSlots;
  stats_.swap_refused_room += verdict == SwapVerdict::kRoom;
  stats_.swap_refused_slow += verdict == SwapVerdict::kSlow;
}

// Whether the rows of a request that gives its pages up are worth their copies; they are made then.
void WorkerCore::CopyOutIfWorth(Request& request, TimeNs now) {
  SwapOutInput input;
  input.slots_total = slots_.total();
  input.slots_free = slots_.Free(now);
  input.slots_wanted = SlotsWanted(request);
  for (const Branch& branch : request.branches) {
    if (!branch.live) continue;
    input.pages += Covering(branch.computed);
    input.rows += branch.computed;
  }
  input.page_bytes = static_cast<double>(settings_.row_bytes * block_);
  input.swap_bytes_per_s = swap_rate_.per_s();
  input.prefill_rows_per_s = prefill_rate_.per_s();
  const SwapVerdict verdict = PlanSwapOut(input);
  CountSwapRefusal(request, verdict);
  if (verdict == SwapVerdict::kYes) CopyOut(request, now);
}

SwapUse WorkerCore::swap_use() const {
  SwapUse use;
  use.host_slots = slots_.host_used();
  use.disk_slots = slots_.disk_used();
  for (const auto& [arrival, request] : requests_) {
    if (request->phase != Phase::kParked && request->phase != Phase::kWaiting) continue;
    bool any = false;
    bool disk = false;
    for (const Branch& branch : request->branches) {
      for (const SwapCopy& copy : branch.copies) {
        any |= copy.slot >= 0;
        disk |= copy.slot >= 0 && slots_.OnDisk(copy.slot);
      }
    }
    ++(disk ? use.sequences_on_disk : use.sequences_on_host);
    if (!any) --use.sequences_on_host;
  }
  return use;
}

}  // namespace reprise::worker
