#include "kvstore/block/event_log.h"

#include <algorithm>

namespace reprise::kv {

bool EventLog::Added(const BlockId& id) {
  if (!listed_.insert(id).second) return false;
  Append(id, /*removed=*/false);
  return true;
}

bool EventLog::Removed(const BlockId& id) {
  if (listed_.erase(id) == 0) return false;
  Append(id, /*removed=*/true);
  return true;
}

void EventLog::Append(const BlockId& id, bool removed) {
  ++last_;
  window_.push_back({id, removed});
  if (window_.size() > window_events_) window_.pop_front();
}

EventBatch EventLog::Next(uint64_t next_wanted, size_t events_max) const {
  EventBatch batch;
  batch.first = last_ + 1;
  if (next_wanted == last_ + 1) return batch;
  const uint64_t oldest = last_ + 1 - window_.size();
  if (next_wanted < oldest || next_wanted > last_) {
    batch.snapshot_needed = true;
    return batch;
  }
  batch.first = next_wanted;
  const auto from = window_.begin() + static_cast<ptrdiff_t>(next_wanted - oldest);
  const size_t count = std::min<size_t>(events_max, static_cast<size_t>(window_.end() - from));
  batch.events.assign(from, from + static_cast<ptrdiff_t>(count));
  return batch;
}

std::vector<BlockId> EventLog::ListedAfter(const std::optional<BlockId>& after,
                                           size_t ids_max) const {
  std::vector<BlockId> ids;
  auto it = after ? listed_.upper_bound(*after) : listed_.begin();
  for (; it != listed_.end() && ids.size() < ids_max; ++it) ids.push_back(*it);
  return ids;
}

void EventReporter::MakeChunk(uint64_t as_of, uint32_t number,
                              const std::optional<BlockId>& after) {
  SnapshotChunk chunk;
  chunk.as_of = as_of;
  chunk.chunk = number;
  // One more than fits tells whether this chunk is the last.
  chunk.ids = log_->ListedAfter(after, chunk_blocks_ + 1);
  chunk.last = chunk.ids.size() <= chunk_blocks_;
  if (!chunk.last) chunk.ids.pop_back();
  chunk_ = std::move(chunk);
}

EventReporter::Part EventReporter::Prepare() {
  Part part;
  if (!chunk_) {
    part.events = log_->Next(next_wanted_, events_max_);
    if (!part.events.snapshot_needed) return part;
    MakeChunk(log_->last(), 0, std::nullopt);
  }
  // Events wait until the receiver has the whole snapshot they apply to.
  part.events = EventBatch{};
  part.events.first = chunk_->as_of + 1;
  part.chunk = &*chunk_;
  return part;
}

void EventReporter::OnAnswer(const Answer& answer) {
  const bool same_receiver = answer.coordinator_incarnation == coordinator_;
  coordinator_ = answer.coordinator_incarnation;
  next_wanted_ = answer.next_event;
  if (!answer.want_snapshot) {
    chunk_.reset();
    return;
  }
  const bool collecting =
      chunk_ && !chunk_->last && same_receiver && answer.next_event == chunk_->as_of + 1;
  if (!collecting) {
    MakeChunk(log_->last(), 0, std::nullopt);
    return;
  }
  const BlockId after = chunk_->ids.back();
  MakeChunk(chunk_->as_of, chunk_->chunk + 1, after);
}

}  // namespace reprise::kv
