#include "kvstore/node/store_core.h"

#include <algorithm>

namespace reprise::kv {

StoreCore::StoreCore(const StoreCoreOptions& options)
    : options_(options),
      chain_{.format_digest = options.format_digest,
             .block_tokens = options.block_tokens,
             .tenant_salt = {}},
      past_segment_(options.segment_bytes),
      memory_(static_cast<size_t>(options.memory_slots)) {
  for (Slot s = options.memory_slots; s-- > 0;) memory_free_.push_back(s);
  for (Slot s = options.disk_slots; s-- > 0;) disk_free_.push_back(s);
}

void StoreCore::Restore(const BlockRecord& record, Slot disk_slot) {
  const auto free = std::find(disk_free_.begin(), disk_free_.end(), disk_slot);
  if (free == disk_free_.end() || blocks_.contains(record.id) ||
      record.checksums.size() != options_.layers) {
    return;
  }
  disk_free_.erase(free);
  ++disk_used_;
  Block& block = blocks_[record.id];
  block.first_position = record.first_position;
  block.checksums = record.checksums;
  block.disk = Disk::kComplete;
  block.disk_slot = disk_slot;
  Touch(record.id, block);
  events_.Added(record.id);
}

// Eviction order -------------------------------------------------------------------------------

void StoreCore::Unlist(Block& block) {
  if (std::exchange(block.in_memory_lru, false)) memory_lru_.erase(block.use);
  if (std::exchange(block.in_disk_lru, false)) disk_lru_.erase(block.use);
}

void StoreCore::Relist(const BlockId& id, Block& block) {
  Unlist(block);
  const bool leased = !block.leases.empty();
  // One being written or loaded is read from, or filled into, the slot it has.
  block.in_memory_lru = block.memory == Memory::kComplete && block.disk != Disk::kWriting &&
                        (!leased || block.disk == Disk::kComplete);
  block.in_disk_lru = block.disk == Disk::kComplete && block.memory != Memory::kLoading &&
                      (!leased || block.memory == Memory::kComplete);
  if (block.in_memory_lru) memory_lru_.emplace(block.use, id);
  if (block.in_disk_lru) disk_lru_.emplace(block.use, id);
}

void StoreCore::Touch(const BlockId& id, Block& block) {
  Unlist(block);
  block.use = {now_ / kSecond, -block.first_position, ++use_counter_};
  Relist(id, block);
}

// Slots --------------------------------------------------------------------------------------

std::optional<Slot> StoreCore::AllocateMemory() {
  if (memory_free_.empty() && !EvictOneFromMemory()) return std::nullopt;
  const Slot slot = memory_free_.back();
  memory_free_.pop_back();
  memory_[static_cast<size_t>(slot)].owned = true;
  return slot;
}

std::optional<Slot> StoreCore::AllocateDisk() {
  if (disk_free_.empty() && !EvictOneFromDisk()) return std::nullopt;
  const Slot slot = disk_free_.back();
  disk_free_.pop_back();
  ++disk_used_;
  return slot;
}

bool StoreCore::EvictOneFromMemory() {
  for (const auto& [use, id] : memory_lru_) {
    Block& block = blocks_.at(id);
    const bool quiet = memory_[static_cast<size_t>(block.memory_slot)].pins == 0;
    if (!quiet) continue;
    const BlockId victim = id;
    ++counters_.memory_evictions;
    ReleaseMemory(block);
    Relist(victim, block);
    EraseIfGone(victim);
    return true;
  }
  return false;
}

bool StoreCore::EvictOneFromDisk() {
  if (disk_lru_.empty()) return false;
  const BlockId victim = disk_lru_.begin()->second;
  Block& block = blocks_.at(victim);
  ++counters_.disk_evictions;
  ReleaseDisk(block);
  Relist(victim, block);
  EraseIfGone(victim);
  return true;
}

void StoreCore::GiveMemory(const BlockId& id, Block& block, Slot slot) {
  block.memory_slot = slot;
  block.layers_ready = 0;
  Touch(id, block);
}

void StoreCore::DropMemory(Slot slot, bool ended) {
  MemorySlot& dropped = memory_[static_cast<size_t>(slot)];
  dropped.owned = false;
  if (dropped.pins == 0) {
    memory_free_.push_back(slot);
  } else if (ended) {
    dropped.stranded = true;
    ++stranded_slots_;
  }
}

void StoreCore::Pin(Slot slot) { ++memory_[static_cast<size_t>(slot)].pins; }

void StoreCore::UnpinSlot(Slot slot) {
  MemorySlot& pinned = memory_[static_cast<size_t>(slot)];
  if (--pinned.pins > 0 || pinned.owned) return;
  if (std::exchange(pinned.stranded, false)) --stranded_slots_;
  memory_free_.push_back(slot);
}

void StoreCore::ReleaseMemory(Block& block) {
  DropMemory(block.memory_slot, false);
  block.memory_slot = -1;
  block.memory = Memory::kNone;
  block.layers_ready = 0;
}

void StoreCore::ReleaseDisk(Block& block) {
  commands_.push_back(ForgetDisk{block.disk_slot});
  disk_free_.push_back(block.disk_slot);
  --disk_used_;
  block.disk_slot = -1;
  block.disk = Disk::kNone;
}

void StoreCore::EraseIfGone(const BlockId& id) {
  Block& block = blocks_.at(id);
  if (block.memory_slot >= 0 || block.disk_slot >= 0) return;
  Unlist(block);
  events_.Removed(id);
  const auto gone = blocks_.extract(id);
  if (gone.mapped().leases.empty()) return;
  --leased_blocks_;
  OnBlockLost(gone.mapped().leases, gone.mapped().first_position);
}

// Offers and fetches ---------------------------------------------------------------------------

void StoreCore::OnOffer(const Offer& offer, TimeNs now) {
  now_ = now;
  ++counters_.offers;
  if (!NoteAttempt(offer.request)) {
    ++counters_.refused_stale;
    return;
  }
  ChainContext chain = chain_;
  chain.tenant_salt = offer.tenant_salt;
  const std::vector<BlockId> ids =
      ChainIds(chain, offer.tokens, offer.prompt_end, offer.parent, offer.first_position);
  Sequence* const sequence = OfferedTo(offer);
  const bool whole = AdmitOffered(offer, ids, sequence);
  if (!whole) ++counters_.offers_dropped;
  if (sequence == nullptr) return;
  CountComplete(*sequence);
  Tell(*sequence,
       whole ? absl::OkStatus() : absl::ResourceExhaustedError("no room for all offered blocks"));
}

bool StoreCore::AdmitOffered(const Offer& offer, const std::vector<BlockId>& ids,
                             Sequence* sequence) {
  StartStoreFetch fetch{.fetch = next_fetch_,
                        .source = offer.source,
                        .request = offer.request,
                        .items = {},
                        .timeout_ns = options_.fetch_timeout_ns};
  const bool may_fetch = fetches_.size() < static_cast<size_t>(options_.fetches_max);
  bool whole = true;
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t position = offer.first_position + static_cast<int64_t>(i) * options_.block_tokens;
    if (const auto it = blocks_.find(ids[i]); it != blocks_.end()) {
      Touch(ids[i], it->second);
    } else {
      const std::optional<Slot> slot = may_fetch ? AllocateMemory() : std::nullopt;
      if (!slot.has_value()) {
        whole = false;
        break;  // a later block without this one is of no use
      }
      Block& block = blocks_[ids[i]];
      block.first_position = position;
      block.memory = Memory::kFetching;
      GiveMemory(ids[i], block, *slot);
      fetch.items.push_back({ids[i], block.first_position, *slot});
    }
    // At once, so that room for the next ones is not made of this one.
    if (sequence != nullptr &&
        !Lease(*sequence, position / options_.block_tokens, ids[i], offer.request.attempt)) {
      ++counters_.refused_contradiction;
      sequence = nullptr;
    }
  }
  if (fetch.items.empty()) return whole;
  Fetch& started = fetches_[next_fetch_++];
  started.request = offer.request.id;
  for (const auto& item : fetch.items) started.items.push_back({item.id, item.slot, 0, false, {}});
  commands_.push_back(std::move(fetch));
  return whole;
}

void StoreCore::OnLayer(uint64_t fetch, size_t item, uint32_t layer, uint32_t checksum) {
  const auto it = fetches_.find(fetch);
  if (it == fetches_.end() || item >= it->second.items.size() || layer >= options_.layers) return;
  FetchItem& fetched = it->second.items[item];
  if (layer != fetched.layers_ready) return;  // layers come in ascending order, once
  ++fetched.layers_ready;
  if (fetched.detached) {
    fetched.checksums.push_back(checksum);
    commands_.push_back(PublishBlock{fetched.id, fetched.layers_ready, fetched.checksums});
    return;
  }
  Block& block = blocks_.at(fetched.id);
  block.checksums.push_back(checksum);
  block.layers_ready = fetched.layers_ready;
  commands_.push_back(PublishBlock{fetched.id, block.layers_ready, block.checksums});
}

void StoreCore::OnFetchDone(uint64_t fetch, const std::vector<Status>& items, TimeNs now) {
  now_ = now;
  const auto it = fetches_.find(fetch);
  if (it == fetches_.end()) return;
  const std::vector<FetchItem> fetched = std::move(it->second.items);
  fetches_.erase(it);
  for (size_t i = 0; i < fetched.size(); ++i) {
    FinishItem(fetched[i], i < items.size() ? items[i] : absl::InternalError("no status"));
  }
  StartDiskIo();
}

void StoreCore::FinishItem(const FetchItem& item, const Status& status) {
  const bool arrived = status.ok() && item.layers_ready == options_.layers;
  if (!arrived) {
    ++counters_.fetch_items_failed;
    commands_.push_back(WithdrawBlock{item.id});
  }
  if (item.detached) {
    UnpinSlot(item.slot);
    return;
  }
  Block& block = blocks_.at(item.id);
  if (arrived) {
    block.memory = Memory::kComplete;
    ++counters_.blocks_stored;
    CompleteBlock(item.id, block);
    return;
  }
  ReleaseMemory(block);
  EraseIfGone(item.id);
}

void StoreCore::EndFetchesOf(const std::string& request) {
  for (auto& [id, fetch] : fetches_) {
    if (fetch.request == request) fetch.cancel_at = now_ + options_.ended_fetch_ns;
  }
}

bool StoreCore::Wanted(const Fetch& fetch) const {
  return std::any_of(fetch.items.begin(), fetch.items.end(), [this](const FetchItem& item) {
    if (memory_[static_cast<size_t>(item.slot)].pins > (item.detached ? 1 : 0)) return true;
    return !item.detached && !blocks_.at(item.id).leases.empty();
  });
}

void StoreCore::CancelEndedFetches() {
  for (auto& [id, fetch] : fetches_) {
    if (!fetch.cancel_at.has_value() || now_ < *fetch.cancel_at || Wanted(fetch)) continue;
    fetch.cancel_at.reset();  // once
    ++counters_.fetches_cancelled;
    commands_.push_back(CancelStoreFetch{id});
  }
}

void StoreCore::CompleteBlock(const BlockId& id, Block& block) {
  Relist(id, block);
  events_.Added(id);
  if (options_.disk_slots > 0) write_queue_.push_back(id);
  OnBlockComplete(block);
}

// Disk -----------------------------------------------------------------------------------------

void StoreCore::StartDiskIo() {
  // Loads first: somebody waits for them.
  while (disk_io_ < options_.disk_io_max && !load_queue_.empty()) {
    const BlockId id = load_queue_.front();
    load_queue_.pop_front();
    if (StartLoad(id)) ++disk_io_;
  }
  while (disk_io_ < options_.disk_io_max && !write_queue_.empty()) {
    const BlockId id = write_queue_.front();
    write_queue_.pop_front();
    if (StartWrite(id)) ++disk_io_;
  }
}

bool StoreCore::StartWrite(const BlockId& id) {
  const auto it = blocks_.find(id);
  if (it == blocks_.end() || it->second.memory != Memory::kComplete ||
      it->second.disk != Disk::kNone) {
    return false;  // evicted meanwhile
  }
  const std::optional<Slot> slot = AllocateDisk();
  if (!slot.has_value()) return false;
  Block& block = it->second;
  block.disk = Disk::kWriting;
  block.disk_slot = *slot;
  Touch(id, block);
  commands_.push_back(
      WriteDisk{{id, block.first_position, block.checksums}, block.memory_slot, *slot});
  return true;
}

void StoreCore::OnDiskWritten(const BlockId& id, const Status& status) {
  --disk_io_;
  Block& block = blocks_.at(id);  // a block being written is never dropped
  if (status.ok()) {
    block.disk = Disk::kComplete;
    ++counters_.disk_writes;
  } else {
    ++counters_.disk_failures;
    ReleaseDisk(block);
  }
  Relist(id, block);
  StartDiskIo();
}

bool StoreCore::StartLoad(const BlockId& id) {
  Block& block = blocks_.at(id);  // a block being loaded is never dropped
  commands_.push_back(LoadDisk{id, block.memory_slot, block.disk_slot});
  return true;
}

void StoreCore::OnDiskLoaded(const BlockId& id, const Status& status) {
  --disk_io_;
  Block& block = blocks_.at(id);
  if (status.ok()) {
    block.memory = Memory::kComplete;
    block.layers_ready = options_.layers;
    ++counters_.disk_loads;
    Relist(id, block);
    commands_.push_back(PublishBlock{id, options_.layers, block.checksums});
  } else {
    ++counters_.disk_failures;
    commands_.push_back(WithdrawBlock{id});
    ReleaseMemory(block);
    ReleaseDisk(block);  // unreadable or damaged: not a copy any more
    EraseIfGone(id);
  }
  StartDiskIo();
}

// Reading --------------------------------------------------------------------------------------

StoreCore::Found StoreCore::Find(const BlockId& id, TimeNs now) {
  now_ = now;
  const auto it = blocks_.find(id);
  if (it == blocks_.end()) {
    std::optional<Found> tail = FindTail(id);
    ++(tail.has_value() ? counters_.hits : counters_.misses);
    return tail.has_value() ? *std::move(tail) : Found();
  }
  Block& block = it->second;
  if (block.memory_slot < 0) {
    const std::optional<Slot> slot = AllocateMemory();
    if (!slot.has_value()) {
      ++counters_.misses;
      return {};
    }
    block.memory = Memory::kLoading;
    GiveMemory(id, block, *slot);
    load_queue_.push_back(id);
    StartDiskIo();
  }
  ++counters_.hits;
  Touch(id, block);
  Found found = FoundAt(block.memory_slot);
  const bool ready = block.memory == Memory::kComplete;
  found.state = ready ? Found::State::kReady : Found::State::kPending;
  found.layers_ready = block.layers_ready;
  found.first_position = block.first_position;
  found.checksums.assign(block.checksums.begin(), block.checksums.begin() + block.layers_ready);
  return found;
}

StoreCore::Found StoreCore::FoundAt(Slot slot) {
  Found found{.slot = slot, .checksums = {}, .pin = next_pin_++};
  pins_.emplace(found.pin, slot);
  Pin(slot);
  return found;
}

void StoreCore::Unpin(uint64_t pin) {
  const auto it = pins_.find(pin);
  if (it == pins_.end()) return;
  UnpinSlot(it->second);
  pins_.erase(it);
}

TierCounts StoreCore::memory() const {
  TierCounts counts{.total = options_.memory_slots, .free = static_cast<Slot>(memory_free_.size())};
  for (const MemorySlot& slot : memory_) {
    counts.used += slot.owned;
    counts.quarantined += !slot.owned && slot.pins > 0;
  }
  return counts;
}

TierCounts StoreCore::disk() const {
  return {.total = options_.disk_slots,
          .free = static_cast<Slot>(disk_free_.size()),
          .used = disk_used_,
          .quarantined = 0};
}

}  // namespace reprise::kv
