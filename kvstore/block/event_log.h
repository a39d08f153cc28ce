// The producer side of KV events: what a worker or store lists as fetchable, told to the
// coordinator as numbered events, or as a snapshot when the coordinator is too far behind. One log
// and one reporter per process, owned by the role's server.
//
// Threads: thread-compatible; the owner locks. Deterministic: the same calls give the same bytes.
//
// Invariants:
// 1. Events of an incarnation are numbered from 1 without holes; an event always changes the list.
// 2. A snapshot as of event A, then every event after A in order, gives the list exactly: an id no
//    event after A touches is in the snapshot if and only if it is listed, and the last event after
//    A decides any other. So chunks are read while the list goes on changing, without a copy.
// 3. A chunk, once made, is repeated unchanged until it is acknowledged, so a lost answer cannot
//    tear the snapshot.
#ifndef REPRISE_KVSTORE_BLOCK_EVENT_LOG_H_
#define REPRISE_KVSTORE_BLOCK_EVENT_LOG_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <vector>

#include "common/limits.h"
#include "kvstore/block/block_id.h"

namespace reprise::kv {

struct KvEvent {
  BlockId id;
  bool removed = false;
  bool operator==(const KvEvent&) const = default;
};

struct EventBatch {
  uint64_t first = 1;  // number of events[0]; the next event's when there is none to send
  std::vector<KvEvent> events;
  bool snapshot_needed = false;  // the wanted event is no longer (or was never) in the window
};

// Chunks of one snapshot share `as_of` and count from 0; ids ascend through the whole snapshot.
struct SnapshotChunk {
  uint64_t as_of = 0;
  uint32_t chunk = 0;
  bool last = false;
  std::vector<BlockId> ids;
};

class EventLog {
 public:
  explicit EventLog(size_t window_events = limits::kEventWindow) : window_events_(window_events) {}

  // False when nothing changed: listed already, not listed. Such a call makes no event.
  bool Added(const BlockId& id);
  bool Removed(const BlockId& id);

  bool Lists(const BlockId& id) const { return listed_.contains(id); }
  size_t listed() const { return listed_.size(); }
  uint64_t last() const { return last_; }  // number of the latest event; 0 before the first

  // At most `events_max` events from number `next_wanted` on.
  EventBatch Next(uint64_t next_wanted, size_t events_max) const;

  // The listed ids above `after` (all when absent), ascending, at most `ids_max`.
  std::vector<BlockId> ListedAfter(const std::optional<BlockId>& after, size_t ids_max) const;

 private:
  void Append(const BlockId& id, bool removed);

  const size_t window_events_;
  uint64_t last_ = 0;
  std::set<BlockId> listed_;
  std::deque<KvEvent> window_;  // the latest events, ending with number last_
};

// Decides what each report carries: events, or the next chunk of a snapshot. One report is in
// flight at a time; after a report that failed or got no answer, Prepare simply again.
class EventReporter {
 public:
  struct Part {
    EventBatch events;                     // empty while a snapshot is under way
    const SnapshotChunk* chunk = nullptr;  // valid until the next call of OnAnswer
  };
  // The fields of the coordinator's answer (ReportResponse).
  struct Answer {
    uint64_t coordinator_incarnation = 0;
    uint64_t next_event = 1;
    bool want_snapshot = false;
  };

  // `log` outlives the reporter.
  explicit EventReporter(const EventLog* log, size_t events_max = limits::kReportEventsMax,
                         size_t chunk_blocks = limits::kSnapshotChunkBlocks)
      : log_(log), events_max_(events_max), chunk_blocks_(chunk_blocks) {}

  Part Prepare();
  // The answer to the part prepared last.
  void OnAnswer(const Answer& answer);
  // More is waiting than the last part carried: report again at once, not at the next interval.
  bool behind() const { return chunk_.has_value() || next_wanted_ <= log_->last(); }

 private:
  void MakeChunk(uint64_t as_of, uint32_t number, const std::optional<BlockId>& after);

  const EventLog* const log_;
  const size_t events_max_;
  const size_t chunk_blocks_;
  uint64_t coordinator_ = 0;
  uint64_t next_wanted_ = 1;
  std::optional<SnapshotChunk> chunk_;  // engaged while a snapshot is under way
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_BLOCK_EVENT_LOG_H_
