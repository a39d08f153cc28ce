// One request inside the worker core: its rank, its branches' tokens and pages, and how far each
// is. Internal to worker_core; owned by WorkerCore; one thread.
//
// Invariants:
// 1. branch.tokens = prompt + generated; rows [0, computed) are resident in branch.pages.
// 2. Until `forked` only the lead branch holds pages; its rows below trunk_len serve every branch.
// 3. A page written by a step has one reference and is not sealed.
#ifndef REPRISE_WORKER_ENGINE_CORE_REQUEST_H_
#define REPRISE_WORKER_ENGINE_CORE_REQUEST_H_

#include <algorithm>
#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "worker/engine/core/types.h"

namespace reprise::worker {

// Age and precedence in one: the order of waiting, of chunks in a step and, reversed, of
// preemption. Work with an earlier attempt behind it goes before all new work.
struct Rank {
  bool new_work = true;
  uint64_t arrival = 0;
  auto operator<=>(const Rank&) const = default;
};

// Rows [first, last) present beyond `computed`: blocks that arrived behind a hole.
struct Island {
  int64_t first = 0;
  int64_t last = 0;
};

struct Branch {
  std::vector<int32_t> tokens;
  std::vector<PageId> pages;       // of block i; may extend beyond the rows needed yet
  std::vector<kv::BlockId> chain;  // ids of whole blocks of `tokens`, as far as needed yet
  std::vector<Island> islands;     // ascending, beyond `computed`
  int64_t computed = 0;
  int64_t offered_blocks = 0;
  bool live = true;

  // Skips what is present already.
  void Advance() {
    size_t used = 0;
    while (used < islands.size() && islands[used].first <= computed) {
      computed = std::max(computed, islands[used++].last);
    }
    islands.erase(islands.begin(), islands.begin() + static_cast<std::ptrdiff_t>(used));
  }
  // Where a chunk from `computed` has to stop.
  int64_t GapEnd(int64_t limit) const {
    return islands.empty() ? limit : std::min(limit, islands.front().first);
  }
};

enum class Phase : uint8_t {
  kWaiting,    // holds nothing
  kFetching,   // holds pages that transfers write; may await a prefill leg
  kComputing,  // holds pages; has rows to compute
  kLingering,  // a leg that has answered; its pages stay for the decode worker
  kEnded,      // answered; its pages are in the running step
};

enum class LegState : uint8_t { kNone, kCalled, kStarted, kOk, kFailed };

// A block that a transfer will write.
struct FetchedBlock {
  StartFetch::Item item;
  int64_t block = 0;     // index in the table
  int64_t rows_end = 0;  // rows of the sequence it brings end here
  bool whole = true;     // false: an open tail, no block of its own
  bool from_leg = false;
};

struct Request {
  Rank rank;
  RequestKey key;
  bool is_leg = false;
  uint32_t leg = 0;  // served (a leg) or called (a request)
  std::vector<int32_t> prompt;
  SamplingParams sampling;  // max_tokens cut to the context
  std::optional<NodeRef> prefill;
  std::vector<PrefixSource> sources;
  std::vector<NodeRef> stores;
  std::string tenant;
  TimeNs submitted_ns = 0;
  TimeNs deadline_ns = 0;      // 0: none
  TimeNs leg_deadline_ns = 0;  // of the leg called, or of a lingering leg; 0: none

  Phase phase = Phase::kWaiting;
  std::vector<Branch> branches;
  size_t lead = 0;
  int64_t trunk_len = 0;
  bool forked = false;
  bool in_step = false;
  bool admitted_before = false;
  bool emitted_any = false;
  bool prompt_offered = false;
  int32_t cached_tokens = 0;
  TimeNs offered_ns = 0;

  LegState leg_state = LegState::kNone;
  std::vector<FetchedBlock> leg_blocks;  // subscribed to once the leg has started
  int32_t fetches_open = 0;
  std::vector<FetchedBlock> arrived;

  std::optional<kv::BlockId> tail_id;  // of the leg served, when its prompt ends inside a block
  Emit emit;                           // what this event gave the client so far

  int64_t prompt_len() const { return static_cast<int64_t>(prompt.size()); }
  bool awaiting_leg() const {
    return leg_state == LegState::kCalled || leg_state == LegState::kStarted;
  }
  int live_branches() const {
    int live = 0;
    for (const Branch& branch : branches) live += branch.live;
    return live;
  }
  // The trunk's last row gives somebody's next token.
  bool TrunkHasOutput() const {
    for (const Branch& branch : branches) {
      if (branch.live && static_cast<int64_t>(branch.tokens.size()) == trunk_len) return true;
    }
    return false;
  }
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_REQUEST_H_
