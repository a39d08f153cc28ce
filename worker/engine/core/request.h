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
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "worker/engine/core/swap_plan.h"
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

// How much of one branch a replica store has; rows from 0 on.
struct ReplicaRows {
  int64_t offered = 0;   // in blocks the store was told to pull
  int64_t sent = 0;      // offered or appended
  int64_t held = 0;      // by the store's word
  TimeNs silent_ns = 0;  // since when rows wait for its word; 0: none do
};
struct Replica {
  NodeRef store;
  std::vector<ReplicaRows> branches;
  bool offered = false;      // it knows the request's blocks
  int64_t rebuild_rows = 0;  // begun anew: complete when it holds so many
  TimeNs paused_until_ns = 0;
};

// What stores hold of one branch from an earlier attempt.
struct BranchRestore {
  struct Blocks {
    NodeRef store;
    int64_t blocks = 0;  // leading ones
  };
  std::vector<Blocks> blocks;
  NodeRef tail_store;
  int64_t tail_first = 0;
  int64_t tail_end = 0;  // rows [tail_first, tail_end) are an open tail; none if they are equal

  int64_t BlocksEnd() const {
    int64_t most = 0;
    for (const Blocks& at : blocks) most = std::max(most, at.blocks);
    return most;
  }
};

// A copy of a block outside the pool: its rows up to `rows_end`, which never change.
struct SwapCopy {
  SlotId slot = -1;  // -1: there is none
  uint64_t ticket = 0;
  int64_t rows_end = 0;
};

struct Branch {
  std::vector<int32_t> tokens;
  std::vector<PageId> pages;           // of block i; may extend beyond the rows needed yet
  std::vector<kv::BlockId> chain;      // ids of whole blocks of `tokens`, as far as needed yet
  std::vector<Island> islands;         // ascending, beyond `computed`
  std::vector<SwapCopy> copies;        // of block i; kept while the request lives
  std::vector<SampledToken> given;     // behind the prompt, while somebody may attach
  EndReason end = EndReason::kLength;  // once it is not live
  int64_t computed = 0;
  int64_t known_rows = 0;  // an earlier attempt may have computed them
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
  kParked,     // runs, and holds nothing until its microbatch's turn comes near
  kLingering,  // a leg that has answered; its pages stay for the decode worker
  kEnded,      // answered; its pages are in the running step
};

enum class LegState : uint8_t { kNone, kCalled, kStarted, kOk, kFailed };

// A block that a transfer will write.
struct FetchedBlock {
  StartFetch::Item item;
  size_t branch = 0;
  int64_t block = 0;     // index in the table
  int64_t rows_end = 0;  // rows of the sequence it brings end here
  bool whole = true;     // false: an open tail, no block of its own
  bool from_leg = false;
  std::optional<SwapCopy> copy;  // it comes from here
};

// What to fetch from whom. Tails go apart from whole blocks: they are waited for.
struct FetchesBySource {
  std::map<std::pair<NodeKey, bool>, std::pair<NodeRef, std::vector<FetchedBlock>>> all;

  void Add(const NodeRef& source, FetchedBlock block) {
    auto& [node, blocks] = all[{source.key, block.whole}];
    node = source;
    blocks.push_back(std::move(block));
  }
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
  std::vector<NodeRef> leg_stores;  // of a leg served: whom to offer its blocks
  std::string tenant;
  bool alone = false;    // in its steps
  bool resumed = false;  // an earlier attempt has been at work
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
  bool preempted = false;
  uint64_t preempted_at = UINT64_MAX;            // when so many steps had run
  std::optional<int32_t> microbatch;             // once it runs
  SwapVerdict swap_verdict = SwapVerdict::kYes;  // the latest
  int32_t cached_tokens = 0;

  std::vector<Replica> replicas;
  std::vector<NodeRef> former;  // stores that may still hold something of it
  size_t replicas_wanted = 0;
  int64_t lag_rows = 0;  // a row not held by all yet, and when it was noticed; 0: there is none
  TimeNs lag_since_ns = 0;

  std::vector<NodeRef> restore_from;   // until they are asked
  std::vector<BranchRestore> restore;  // by branch; empty: nothing is held elsewhere
  int queries_open = 0;
  bool recovery_planned = false;
  bool recompute = false;   // though rows could be had
  FetchId wait_before = 0;  // not before all earlier fetches from there have ended
  std::vector<NodeKey> wait_for;
  std::vector<PageId> spare;  // for rows of branches, restored after the fork
  TimeNs restored_ns = 0;

  std::string resume_handle;
  TimeNs resume_window_ns = 0;
  TimeNs orphan_until_ns = 0;  // nobody listens; 0: somebody does

  // A leg goes under the attempt that called it, whatever attach has raised since.
  RequestKey leg_key;
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
  bool orphaned() const { return orphan_until_ns != 0; }
  std::vector<NodeRef> stores() const {
    std::vector<NodeRef> stores;
    for (const Replica& replica : replicas) stores.push_back(replica.store);
    return stores;
  }
  // Rows every replica holds of every branch that goes on (of all, when none does).
  int64_t Watermark() const {
    const bool any = live_branches() > 0;
    int64_t rows = replicas.empty() ? 0 : INT64_MAX;
    for (const Replica& replica : replicas) {
      for (size_t b = 0; b < branches.size(); ++b) {
        if (branches[b].live || !any) rows = std::min(rows, replica.branches[b].held);
      }
    }
    return rows;
  }
  // Of the branch that is furthest.
  int64_t Computed() const {
    int64_t rows = 0;
    for (const Branch& branch : branches) {
      if (branch.live) rows = std::max(rows, branch.computed);
    }
    return rows;
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
