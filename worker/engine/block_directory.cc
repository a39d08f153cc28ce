#include "worker/engine/block_directory.h"

#include <algorithm>
#include <utility>

#include "kvstore/block/checksum.h"

namespace reprise::worker {

BlockDirectory::BlockDirectory(const Pool& pool, std::function<void(PageId)> quiet)
    : pool_(pool),
      past_segment_(pool.block_bytes / pool.layers),
      quiet_(std::move(quiet)),
      pins_(static_cast<size_t>(pool.pages)),
      retired_(static_cast<size_t>(pool.pages)) {}

kv::SegmentSource::Block BlockDirectory::Find(const kv::BlockId& id) {
  Block block;
  MutexLock lock(mu_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return block;
  const Entry& entry = found->second;
  block.state = entry.layers_ready == pool_.layers ? State::kReady : State::kPending;
  block.layers_ready = entry.layers_ready;
  block.first_position = entry.first_position;
  block.checksums = entry.checksums;
  block.data = pool_.base + static_cast<size_t>(entry.page) * pool_.block_bytes;
  ++pins_[static_cast<size_t>(entry.page)];
  block.pin = kv::SegmentPin([this, page = entry.page] { Unpin(page); });
  return block;
}

void BlockDirectory::Unpin(PageId page) {
  const auto index = static_cast<size_t>(page);
  {
    MutexLock lock(mu_);
    if (--pins_[index] > 0 || !std::exchange(retired_[index], false)) return;
  }
  quiet_(page);
}

bool BlockDirectory::List(const ListBlock& command) {
  MutexLock lock(mu_);
  Entry& entry = entries_[command.id];
  if (std::exchange(entry.page, command.page) != command.page) entry.checksums.clear();
  entry.first_position = command.first_position;
  if (command.state == ListBlock::State::kPending) return false;
  return std::exchange(entry.layers_ready, pool_.layers) != pool_.layers;
}

BlockDirectory::Unlisted BlockDirectory::Unlist(const UnlistBlock& command) {
  const auto index = static_cast<size_t>(command.page);
  Unlisted result;
  MutexLock lock(mu_);
  const auto found = entries_.find(command.id);
  if (found != entries_.end() && found->second.page == command.page) {
    result.was_pending = found->second.layers_ready < pool_.layers;
    entries_.erase(found);
  }
  result.quiet = pins_[index] == 0;
  retired_[index] = !result.quiet;
  return result;
}

std::vector<uint32_t> BlockDirectory::SetReady(const kv::BlockId& id, uint32_t layers,
                                               std::optional<uint32_t> part) {
  MutexLock lock(mu_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return {};
  Entry& entry = found->second;
  entry.layers_ready = std::max(entry.layers_ready, layers);
  if (part && entry.checksums.size() + 1 == layers) {
    entry.checksums.push_back(
        kv::SegmentChecksumOfParts(id, layers - 1, entry.first_position, *part, past_segment_));
  }
  return entry.checksums;
}

}  // namespace reprise::worker
