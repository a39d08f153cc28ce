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
#include "worker/engine/executor.h"
#include "worker/engine/page_pool.h"
#include "worker/engine/sampling.h"

namespace reprise::worker {

struct NodeRef {
  NodeKey key;
  std::string grpc_address;
  std::string kv_address;
  bool operator==(const NodeRef&) const = default;
};

// "Blocks [first_block, first_block + blocks) of the request's chain are there": a hint.
struct PrefixSource {
  NodeRef node;
  int32_t first_block = 0;
  int32_t blocks = 0;
};

struct CoreSettings {
  NodeRef self;
  kv::ChainContext chain;  // format digest and block size; the salt is each request's tenant
  int32_t pages = 0;
  int32_t vocab_size = 0;
  int32_t context_tokens = 0;
  int32_t chunk_tokens = 512;  // of prompts (and replays), per step
  int32_t running_max = 64;    // requests holding pages
  int32_t waiting_max = limits::kWorkerWaitingMax;
  // A missing prompt suffix up to this long is computed here even if a prefill node is given.
  int32_t local_suffix_tokens = 1;
  bool can_prefill = true;
  bool can_decode = true;
  TimeNs fetch_timeout_ns = 10 * kSecond;
  TimeNs leg_timeout_ns = 60 * kSecond;  // order to last layer
  // How long a finished leg keeps its pages for a decode worker that does not release it.
  TimeNs leg_linger_ns = 10 * kSecond;
  TimeNs offer_interval_ns = 100 * kMillisecond;  // between offers of one request's new blocks
  int64_t retry_after_ms = 200;                   // the hint in a refusal for load
  size_t fences_max = 65'536;                     // ended requests whose attempts are remembered
};

// Events -------------------------------------------------------------------------------------

struct BranchResume {
  std::vector<int32_t> emitted;
  bool finished = false;
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
  TimeNs deadline_ns = 0;  // an instant; 0: none
  std::string tenant;
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
// New requests are refused from now on.
struct Drain {};

using Event = std::variant<Submit, SubmitPrefill, Cancel, CancelPrefill, FetchDone, PrefillStarted,
                           PrefillReply, StepDone, PageQuiet, Tick, Drain>;

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
  kv::BlockId parent;
  int64_t first_position = 0;
  std::string tenant;
  std::vector<int32_t> tokens;
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
struct Emit {
  RequestKey key;
  std::vector<BranchToken> tokens;
  std::vector<BranchEnd> ended;
  int64_t watermark = 0;  // rows known to be held by every replica
  TimeNs ttft_ns = -1;    // of the first token this attempt gave, when it is among `tokens`
  std::optional<Done> done;
};

using Command = std::variant<StartFetch, CancelFetch, CallPrefill, ReleasePrefill, AcceptPrefill,
                             ReplyPrefill, ListBlock, UnlistBlock, OfferBlocks, Emit>;

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
  struct Sample {
    size_t item = 0;
    SampleInput input;
  };
  std::vector<PageCopy> copies;  // before the step, in order
  std::vector<StepItem> items;   // decode rows first
  // Listed as pending and complete, layer by layer, as this step runs.
  std::vector<Completed> completes;
  std::vector<Sample> samples;
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
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_TYPES_H_
