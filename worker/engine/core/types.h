// What the worker core is told and what it orders: plain values that mirror the cluster protocol
// without depending on it. Values; any thread.
#ifndef REPRISE_WORKER_ENGINE_CORE_TYPES_H_
#define REPRISE_WORKER_ENGINE_CORE_TYPES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "common/ids.h"
#include "common/limits.h"
#include "common/status.h"
#include "kvstore/block/block_id.h"
#include "kvstore/stream/tail.h"
#include "worker/engine/core/settings.h"
#include "worker/engine/core/swap_slots.h"
#include "worker/engine/executor.h"
#include "worker/engine/page_pool.h"
#include "worker/engine/sampling.h"

namespace reprise::worker {

// "Blocks [first_block, first_block + blocks) of the request's chain are there": a hint.
struct PrefixSource {
  NodeRef node;
  int32_t first_block = 0;
  int32_t blocks = 0;
};

// Events -------------------------------------------------------------------------------------

struct BranchResume {
  std::vector<int32_t> emitted;
  bool finished = false;
  std::vector<float> logprobs = {};  // of each emitted, NaN where it is not known; or none at all
};
// A request to decode here.
struct Submit {
  RequestKey key;
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  std::vector<BranchResume> branches;  // empty, or one per branch: what earlier attempts emitted
  std::optional<NodeRef> prefill;
  std::vector<PrefixSource> sources;
  std::vector<NodeRef> stores;
  int32_t replica_stores = 0;     // wanted, should it be more than `stores`
  std::vector<NodeRef> replicas;  // stores that may hold rows of earlier attempts
  TimeNs deadline_ns = 0;         // an instant; 0: none
  std::string tenant;
  std::string resume_handle;    // empty: nobody can attach
  TimeNs resume_window_ns = 0;  // how long the request outlives its gateway; 0: not at all
  bool alone = false;           // no other request in its steps
};
// The prefill leg of a request that decodes elsewhere.
struct SubmitPrefill {
  RequestKey key;
  uint32_t leg = 0;
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  std::vector<PrefixSource> sources;
  std::vector<NodeRef> stores;
  TimeNs deadline_ns = 0;
  std::string tenant;
};
// Same numbers as the protocol's FinishReason.
enum class EndReason : uint8_t {
  kLength = 1,
  kEos = 2,
  kStop = 3,
  kCancelled = 4,
  kDeadline = 5,
  kError = 6
};
struct Cancel {
  RequestKey key;
  EndReason why = EndReason::kCancelled;
};
// The decode worker gives the leg up, or has everything it wanted.
struct CancelPrefill {
  RequestKey key;
  uint32_t leg = 0;
};
using FetchId = uint64_t;
struct FetchDone {
  FetchId fetch = 0;
  std::vector<Status> items;  // fewer than asked for: the rest is lost
  TimeNs took_ns = 0;         // of a SwapIn: the copying itself, without its wait; 0: not measured
};
// The prefill node holds every block of the leg as pending: subscriptions will be served.
struct PrefillStarted {
  RequestKey key;
  uint32_t leg = 0;
};
struct PrefillReply {
  RequestKey key;
  uint32_t leg = 0;
  Status status;
  std::vector<SampledToken> first;  // per branch
  int32_t cached_tokens = 0;
};
struct StepDone {
  Status status;
  std::vector<SampledToken> samples;  // one per StepPlan::samples, in that order
};
struct PageQuiet {
  PageId page = -1;
};
struct Tick {};
// Everything here is to go elsewhere: what can be moved ends with UNAVAILABLE as soon as its
// replicas hold its rows, the rest at `deadline_ns` (an instant; 0: never).
struct Drain {
  TimeNs deadline_ns = 0;
};
// What the worker takes from now on; what it has goes on.
struct SetRoles {
  bool prefill = true;
  bool decode = true;
};

// A store's word; every status is explained at kv::HeldRows.
using kv::HeldRows;
struct RowsHeld {
  NodeKey store;
  std::vector<HeldRows> rows;
};
// The link to it broke, or it was given up by verdict.
struct ReplicaLost {
  NodeKey store;
  Status status;
};
struct StoreNode {
  NodeRef node;
  std::string domain;
};
// All stores that live.
struct LiveStores {
  std::vector<StoreNode> stores;
};
using AppendId = uint64_t;
// The pages of the append are not read any more.
struct RowsPacked {
  AppendId append = 0;
};
using SwapId = uint64_t;
// The pages of a SwapOut are not read any more. `status`: of the first item that could not be
// written, and `disk` says whether that was on disk.
struct SwapDone {
  SwapId swap = 0;
  Status status;
  bool disk = false;
  TimeNs took_ns = 0;  // as of a SwapIn
};
using QueryId = uint64_t;
using kv::TailState;
struct TailsFound {
  QueryId query = 0;
  Status status;
  std::vector<TailState> states;
};
// The gateway of the request is gone, or its client is: the resume window begins.
struct Orphan {
  RequestKey key;
};
// Takes a request over, running or just ended, under an attempt above all others.
struct Attach {
  RequestKey key;
  std::string resume_handle;
};

using Event =
    std::variant<Submit, SubmitPrefill, Cancel, CancelPrefill, FetchDone, PrefillStarted,
                 PrefillReply, StepDone, PageQuiet, Tick, Drain, SetRoles, RowsHeld, ReplicaLost,
                 LiveStores, RowsPacked, SwapDone, TailsFound, Orphan, Attach>;

// Commands -----------------------------------------------------------------------------------

struct StartFetch {
  FetchId fetch = 0;
  NodeRef source;
  RequestKey key;
  uint32_t leg = 0;
  struct Item {
    kv::BlockId id;
    int64_t first_position = 0;
    PageId page = -1;
  };
  std::vector<Item> items;
  bool subscribe = false;
  bool restore = false;  // of rows that an earlier attempt computed
  TimeNs timeout_ns = 0;
};
// Answered, as every fetch, by FetchDone.
struct CancelFetch {
  FetchId fetch = 0;
};
// Answered by PrefillStarted, if it gets so far, and then PrefillReply.
struct CallPrefill {
  NodeRef node;
  SubmitPrefill leg;  // deadline_ns: an instant of this worker's clock
};
struct ReleasePrefill {
  NodeRef node;
  RequestKey key;
  uint32_t leg = 0;
};
struct AcceptPrefill {
  RequestKey key;
  uint32_t leg = 0;
};
struct ReplyPrefill {
  RequestKey key;
  uint32_t leg = 0;
  Status status;
  std::vector<SampledToken> first;
  int32_t cached_tokens = 0;
};
// Makes a page findable by peers. kTail: complete, but the open tail of one request, not a block.
struct ListBlock {
  enum class State : uint8_t { kPending, kSealed, kTail };
  kv::BlockId id;
  PageId page = -1;
  int64_t first_position = 0;
  State state = State::kPending;
};
// Ends it (only where `id` still names `page`); answered by PageQuiet once no transfer reads the
// page, whether or not it was still listed.
struct UnlistBlock {
  kv::BlockId id;
  PageId page = -1;
  bool sealed = false;
};
struct OfferBlocks {
  NodeRef store;
  RequestKey key;
  uint32_t branch = 0;
  bool leg = false;  // of a prefill leg: for the cache, the decode worker has the replicas
  kv::BlockId parent;
  int64_t first_position = 0;
  std::string tenant;
  int64_t prompt_end = kv::kOneForm;
  std::vector<int32_t> tokens;
};
// Rows behind the offered blocks, for the tails of a replica: read from the pages in the
// background. Answered by RowsPacked.
struct AppendRows {
  struct Entry {
    RequestKey key;
    uint32_t branch = 0;
    std::string tenant;
    int64_t prompt_end = kv::kOneForm;
    kv::BlockId parent;  // of the block the rows are in
    int64_t first_position = 0;
    std::vector<int32_t> tokens;  // of the rows; all in one block
    PageId page = -1;
  };
  AppendId append = 0;
  NodeRef store;
  std::vector<Entry> entries;
};
// Copies between pages and slots outside the pool, in the background. All swaps are carried out one
// after the other in the order given, so a slot may be named anew at once. A copy is named by the
// ticket it was made with: no other verifies.
struct SwapItem {
  PageId page = -1;
  SlotId slot = -1;
  uint64_t ticket = 0;
};
// Answered by SwapDone.
struct SwapOut {
  SwapId swap = 0;
  std::vector<SwapItem> items;
};
// Answered by FetchDone: an item that does not verify is lost.
struct SwapIn {
  FetchId fetch = 0;
  std::vector<SwapItem> items;
};
// The request has ended: nothing of it is needed any more.
struct ReleaseReplicas {
  NodeRef store;
  RequestKey key;
};
// Answered by TailsFound.
struct QueryTails {
  QueryId query = 0;
  NodeRef store;
  RequestKey key;
  TimeNs timeout_ns = 0;
};
struct BranchToken {
  uint32_t branch = 0;
  uint32_t index = 0;
  SampledToken token;
};
struct BranchEnd {
  uint32_t branch = 0;
  EndReason reason = EndReason::kLength;
};
struct Done {
  Status status;
  int32_t cached_tokens = 0;
};
// What a gateway needs to go on with a request it has never seen.
struct Attached {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  TimeNs resume_window_ns = 0;
  TimeNs deadline_ns = 0;  // an instant; 0: none
  std::vector<NodeRef> stores;
};
// How long the phases of a resumed attempt took here.
struct RecoveryTimes {
  TimeNs restore_ns = 0;  // until the rows that others held were here
  TimeNs replay_ns = 0;   // from there to the first token
};
struct Emit {
  RequestKey key;
  std::optional<Attached> attached;  // then `tokens` begin at index 0
  std::vector<BranchToken> tokens;
  std::vector<BranchEnd> ended;
  int64_t watermark = 0;                       // rows known to be held by every replica
  int64_t lag = -1;                            // rows beyond the watermark; -1: no replicas
  std::optional<std::vector<NodeRef>> stores;  // when the replica set has changed
  TimeNs ttft_ns = -1;  // of the first token this attempt gave, when it is among `tokens`
  std::optional<RecoveryTimes> recovery;  // with that token, of a resumed attempt
  std::optional<Done> done;
};

using Command = std::variant<StartFetch, CancelFetch, CallPrefill, ReleasePrefill, AcceptPrefill,
                             ReplyPrefill, ListBlock, UnlistBlock, OfferBlocks, AppendRows, SwapOut,
                             SwapIn, ReleaseReplicas, QueryTails, Emit>;

// One step. Its spans point into the core and live until the step's StepDone has been handled.
struct StepPlan {
  struct PageCopy {
    PageId from = -1;
    PageId to = -1;
  };
  struct Completed {
    kv::BlockId id;
    PageId page = -1;
  };
  std::vector<PageCopy> copies;  // before the step, in order
  std::vector<StepItem> items;   // decode rows first
  // Listed as pending and complete, layer by layer, as this step runs.
  std::vector<Completed> completes;
  std::vector<StepSample> samples;
  int64_t prompt_tokens = 0;
  int64_t decode_rows = 0;
};

// Totals since the start.
struct CoreStats {
  uint64_t accepted = 0;
  uint64_t refused = 0;
  uint64_t ended = 0;
  uint64_t stale = 0;       // lower attempts refused
  uint64_t duplicates = 0;  // of an attempt already seen: ignored
  uint64_t preemptions = 0;
  uint64_t steps = 0;
  uint64_t prompt_tokens = 0;  // rows computed in chunks
  uint64_t cached_tokens = 0;  // prompt rows found here or fetched
  uint64_t generated_tokens = 0;
  uint64_t fetches = 0;
  uint64_t fetch_hits = 0;  // items
  uint64_t fetch_misses = 0;
  uint64_t legs_called = 0;
  uint64_t legs_failed = 0;
  uint64_t legs_served = 0;
  uint64_t evictions = 0;
  uint64_t appended_rows = 0;
  uint64_t appended_bytes = 0;
  uint64_t replicas_lost = 0;
  uint64_t rebuilds = 0;       // replicas begun anew
  uint64_t fenced = 0;         // requests ended because a store knew a higher attempt
  uint64_t restored_rows = 0;  // of resumed requests: found here or fetched
  uint64_t replayed_rows = 0;  // of resumed requests: computed again
  uint64_t restores = 0;
  uint64_t recomputes = 0;  // where a restore was possible
  uint64_t waits = 0;
  // Copies outside the pool.
  uint64_t swapped_out_bytes = 0;
  uint64_t swapped_in_bytes = 0;
  uint64_t swap_ins = 0;       // sequences that came back
  uint64_t swap_lost = 0;      // blocks that did not verify, or could not be read: computed again
  uint64_t swap_failures = 0;  // orders that could not be written
  uint64_t turns_given = 0;    // microbatches: sequences that made room for the next
  uint64_t rotations = 0;      // requests admitted beyond the pool
  uint64_t swap_refused_slots = 0;  // by the planner: host memory and disk are full
  uint64_t swap_refused_room = 0;   // two microbatches do not fit
  uint64_t swap_refused_slow = 0;   // the link does not hide it, or computing is faster
  uint64_t orphaned = 0;
  uint64_t attached = 0;
  uint64_t windows_over = 0;      // orphans nobody came for
  TimeNs replication_ns = 0;      // spent on replicas inside the core, by CoreSettings::stopwatch
  TimeNs replication_cpu_ns = 0;  // by CoreSettings::cpu_stopwatch
};
// What is outside the pool now.
struct SwapUse {
  int32_t host_slots = 0;
  int32_t disk_slots = 0;
  int32_t sequences_on_host = 0;  // that hold no pages and have copies
  int32_t sequences_on_disk = 0;  // of these, with a block or more on disk
};
// How far replicas are behind, the worst request counts.
struct ReplicationLag {
  int64_t tokens = 0;
  int64_t bytes = 0;
  TimeNs ns = 0;  // since the oldest such row was computed
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_TYPES_H_
