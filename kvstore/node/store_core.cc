#include "kvstore/node/store_core.h"

#include <algorithm>

namespace reprise::kv {

StoreCore::StoreCore(const StoreCoreOptions& options)
    : options_(options),
      chain_{.format_digest = options.format_digest,
             .block_tokens = options.block_tokens,
             .tenant_salt = {}},
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
  Block& block = blocks_[record.id];
  block.first_position = record.first_position;
  block.checksums = record.checksums;
  block.disk = Disk::kComplete;
  block.disk_slot = disk_slot;
  Touch(record.id, block);
  events_.Added(record.id);
}

void StoreCore::Touch(const BlockId& id, Block& block) {
  const Use use{now_ / kSecond, -block.first_position, ++use_counter_};
  if (block.memory_slot >= 0) {
    memory_lru_.erase(block.memory_use);
    memory_lru_.emplace(use, id);
    block.memory_use = use;
  }
  if (block.disk_slot >= 0) {
    disk_lru_.erase(block.disk_use);
    disk_lru_.emplace(use, id);
    block.disk_use = use;
  }
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
  return slot;
}

bool StoreCore::EvictOneFromMemory() {
  for (const auto& [use, id] : memory_lru_) {
    Block& block = blocks_.at(id);
    const bool quiet = memory_[static_cast<size_t>(block.memory_slot)].pins == 0;
    if (block.memory != Memory::kComplete || block.disk == Disk::kWriting || !quiet) continue;
    const BlockId victim = id;
    ++counters_.memory_evictions;
    ReleaseMemory(block);
    EraseIfGone(victim);
    return true;
  }
  return false;
}

bool StoreCore::EvictOneFromDisk() {
  for (const auto& [use, id] : disk_lru_) {
    Block& block = blocks_.at(id);
    // A block being loaded is read from its slot; one being written is not complete.
    if (block.disk != Disk::kComplete || block.memory == Memory::kLoading) continue;
    const BlockId victim = id;
    ++counters_.disk_evictions;
    ReleaseDisk(block);
    EraseIfGone(victim);
    return true;
  }
  return false;
}

void StoreCore::GiveMemory(const BlockId& id, Block& block, Slot slot) {
  block.memory_slot = slot;
  block.layers_ready = 0;
  Touch(id, block);
}

void StoreCore::ReleaseMemory(Block& block) {
  MemorySlot& slot = memory_[static_cast<size_t>(block.memory_slot)];
  slot.owned = false;
  if (slot.pins == 0) memory_free_.push_back(block.memory_slot);
  memory_lru_.erase(block.memory_use);
  block.memory_slot = -1;
  block.memory = Memory::kNone;
  block.layers_ready = 0;
}

void StoreCore::ReleaseDisk(Block& block) {
  commands_.push_back(ForgetDisk{block.disk_slot});
  disk_free_.push_back(block.disk_slot);
  disk_lru_.erase(block.disk_use);
  block.disk_slot = -1;
  block.disk = Disk::kNone;
}

void StoreCore::EraseIfGone(const BlockId& id) {
  const Block& block = blocks_.at(id);
  if (block.memory_slot >= 0 || block.disk_slot >= 0) return;
  events_.Removed(id);
  blocks_.erase(id);
}

// Offers and fetches ---------------------------------------------------------------------------

void StoreCore::OnOffer(const Offer& offer, TimeNs now) {
  now_ = now;
  ++counters_.offers;
  ChainContext chain = chain_;
  chain.tenant_salt = offer.tenant_salt;
  std::vector<BlockId> ids;
  BlockId parent = offer.parent;
  const size_t block = static_cast<size_t>(options_.block_tokens);
  for (size_t at = 0; at + block <= offer.tokens.size(); at += block) {
    parent = ChildId(chain, parent, std::span(offer.tokens).subspan(at, block), offer.derivation);
    ids.push_back(parent);
  }
  AdmitOffered(offer, ids);
}

void StoreCore::AdmitOffered(const Offer& offer, const std::vector<BlockId>& ids) {
  StartStoreFetch fetch{.fetch = next_fetch_,
                        .source = offer.source,
                        .request = offer.request,
                        .items = {},
                        .timeout_ns = options_.fetch_timeout_ns};
  const bool room = fetches_.size() < static_cast<size_t>(options_.fetches_max);
  bool dropped = false;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (const auto it = blocks_.find(ids[i]); it != blocks_.end()) {
      Touch(ids[i], it->second);
      continue;
    }
    const std::optional<Slot> slot = room ? AllocateMemory() : std::nullopt;
    if (!slot.has_value()) {
      dropped = true;
      break;  // a later block without this one is of no use
    }
    Block& block = blocks_[ids[i]];
    block.first_position = offer.first_position + static_cast<int64_t>(i) * options_.block_tokens;
    block.memory = Memory::kFetching;
    block.checksums.assign(options_.layers, 0);
    GiveMemory(ids[i], block, *slot);
    fetch.items.push_back({ids[i], block.first_position, *slot});
  }
  if (dropped) ++counters_.offers_dropped;
  if (fetch.items.empty()) return;
  std::vector<BlockId>& items = fetches_[next_fetch_++];
  for (const auto& item : fetch.items) items.push_back(item.id);
  commands_.push_back(std::move(fetch));
}

void StoreCore::OnLayer(uint64_t fetch, size_t item, uint32_t layer, uint32_t checksum) {
  const auto it = fetches_.find(fetch);
  if (it == fetches_.end() || item >= it->second.size() || layer >= options_.layers) return;
  const BlockId& id = it->second[item];
  Block& block = blocks_.at(id);
  if (layer != block.layers_ready) return;  // layers come in ascending order, once
  block.checksums[layer] = checksum;
  ++block.layers_ready;
  commands_.push_back(PublishBlock{id, block.layers_ready});
}

void StoreCore::OnFetchDone(uint64_t fetch, const std::vector<Status>& items, TimeNs now) {
  now_ = now;
  const auto it = fetches_.find(fetch);
  if (it == fetches_.end()) return;
  const std::vector<BlockId> ids = std::move(it->second);
  fetches_.erase(it);
  for (size_t i = 0; i < ids.size(); ++i) {
    FinishItem(ids[i], i < items.size() ? items[i] : absl::InternalError("no status"));
  }
  StartDiskIo();
}

void StoreCore::FinishItem(const BlockId& id, const Status& status) {
  Block& block = blocks_.at(id);
  if (status.ok() && block.layers_ready == options_.layers) {
    block.memory = Memory::kComplete;
    ++counters_.blocks_stored;
    events_.Added(id);
    if (options_.disk_slots > 0) write_queue_.push_back(id);
    return;
  }
  ++counters_.fetch_items_failed;
  commands_.push_back(WithdrawBlock{id});
  ReleaseMemory(block);
  EraseIfGone(id);
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
    commands_.push_back(PublishBlock{id, options_.layers});
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
    ++counters_.misses;
    return {};
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
  const uint64_t pin = next_pin_++;
  pins_.emplace(pin, block.memory_slot);
  ++memory_[static_cast<size_t>(block.memory_slot)].pins;
  const bool ready = block.memory == Memory::kComplete;
  return {.state = ready ? Found::State::kReady : Found::State::kPending,
          .slot = block.memory_slot,
          .layers_ready = block.layers_ready,
          .first_position = block.first_position,
          .checksums = ready ? block.checksums : std::vector<uint32_t>(),
          .pin = pin};
}

void StoreCore::Unpin(uint64_t pin) {
  const auto it = pins_.find(pin);
  if (it == pins_.end()) return;
  MemorySlot& slot = memory_[static_cast<size_t>(it->second)];
  if (--slot.pins == 0 && !slot.owned) memory_free_.push_back(it->second);
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
  const Slot free = static_cast<Slot>(disk_free_.size());
  return {.total = options_.disk_slots,
          .free = free,
          .used = static_cast<Slot>(disk_lru_.size()),
          .quarantined = 0};
}

}  // namespace reprise::kv
