// The life cycle of every request in a worker: admission, prefix reuse, restores, remote prefill,
// batching, preemption, sealing, replicas, resume windows, ends. A pure state machine: (state,
// event, now) -> (state, commands), with no threads, clocks, sockets or logging; the engine and the
// simulator run this very library. Owned by the engine's step thread, or by the simulator; one
// thread at a time.
//
// Use: Handle each event; PlanStep when no step runs; after each call carry out TakeCommands() in
// order. UnlistBlock is answered by PageQuiet, which may come at once; when PlanStep gives no plan
// but its commands were answered, call it again.
//
// Invariants:
// 1. Every accepted attempt gets exactly one Emit with `done`, every prefill leg one ReplyPrefill.
// 2. Tokens of a branch are emitted in index order, each once per attempt; to an attempt that
//    attached, from index 0.
// 3. A page is free only when no request, step or transfer can touch it.
// 4. At most one step is in flight; what its plan points to stays until its StepDone.
// 5. The watermark never exceeds what its stores said they hold of what they were told.
// 6. Nothing depends on the order of an unordered container.
#ifndef REPRISE_WORKER_ENGINE_CORE_CORE_H_
#define REPRISE_WORKER_ENGINE_CORE_CORE_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "worker/engine/core/link_load.h"
#include "worker/engine/core/recovery_plan.h"
#include "worker/engine/core/request.h"
#include "worker/engine/core/swap_plan.h"
#include "worker/engine/core/swap_slots.h"
#include "worker/engine/core/types.h"
#include "worker/engine/page_pool.h"
#include "worker/engine/prefix_cache.h"

namespace reprise::worker {

class WorkerCore {
 public:
  explicit WorkerCore(CoreSettings settings);

  void Handle(Event event, TimeNs now);
  // Empty when a step is in flight or nothing can run.
  std::optional<StepPlan> PlanStep(TimeNs now);
  std::vector<Command> TakeCommands();

  // When Tick must be handled next; empty: never.
  std::optional<TimeNs> NextTick() const;

  const CoreStats& stats() const { return stats_; }
  const PagePool::Counts& pages() const { return pool_.counts(); }
  const CoreSettings& settings() const { return settings_; }
  int32_t running() const { return static_cast<int32_t>(running_.size()); }
  int32_t waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int64_t queued_prefill_tokens() const;
  bool step_in_flight() const { return !flight_.empty(); }
  bool draining() const { return draining_; }
  bool can_prefill() const { return can_prefill_; }
  bool can_decode() const { return can_decode_; }
  // Nothing accepted is left (cached blocks may be), and nobody may still come for an end that
  // nobody heard.
  bool idle() const { return requests_.empty() && unheard_ == 0; }
  ReplicationLag Lag(TimeNs now) const;
  SwapUse swap_use() const;
  // Pages of requests that have ended, and pages that transfers have not let go yet.
  int64_t stranded_pages() const;
  std::vector<kv::BlockId> SealedIds() const { return cache_.SealedIds(); }
  // Requests decoding here, oldest first.
  std::vector<RequestKey> Decoding() const;

  // For tests: page accounting is exact and no impossible transition was asked for.
  bool Conserved() const { return pool_.Conserved() && pool_.violations() == 0; }
  uint64_t violations() const { return pool_.violations(); }

 private:
  // What is remembered of a request id.
  struct Fence {
    Attempt attempt;           // highest seen
    bool decode_seen = false;  // of that attempt
    bool leg_seen = false;
    bool leg_cancelled = false;  // before it came
    uint32_t leg = 0;            // highest of that attempt
    Request* decode = nullptr;
    Request* served_leg = nullptr;
  };
  struct Fetch {
    Request* owner = nullptr;  // null: given up, its pages are in quarantine
    std::vector<FetchedBlock> blocks;
    NodeKey source;
    bool subscribed = false;  // waits for work elsewhere: says nothing of the link
    bool swap = false;        // from slots, no link at all
    TimeNs began_ns = 0;
  };
  // An ended request whose tokens somebody may still come for.
  struct Kept {
    RequestKey key;
    Attached attached;
    std::string resume_handle;
    std::vector<std::vector<SampledToken>> given;
    std::vector<BranchEnd> ended;
    Done done;
    TimeNs until_ns = 0;
    bool unheard = false;          // its gateway had gone
    std::vector<NodeRef> release;  // replicas that stay as long
  };
  // Towards one store, all requests together.
  struct StoreLink {
    bool packing = false;         // one append is being packed
    bool behind = false;          // rows wait for that, or for room
    TimeNs waiting_since_ns = 0;  // rows that wait for company; 0: none do
    uint64_t last_arrival = 0;    // of the last request in the latest append
    TimeNs avoid_until_ns = 0;
    TimeNs absent_since_ns = 0;  // from the list of live stores; 0: it is there
  };
  struct Append {
    NodeKey store;
    std::vector<PageId> pages;
  };
  struct Query {
    Request* owner = nullptr;  // null: the request has ended
    NodeRef store;
  };
  // One item of the step in flight.
  struct Flight {
    Request* request = nullptr;  // lives at least until the step is done
    uint64_t arrival = 0;
    size_t branch = 0;
    int64_t first = 0;
    int64_t last = 0;               // rows computed after it
    std::vector<uint32_t> samples;  // branches
  };

  // core.cc, legs.cc: events
  void On(Submit& event, TimeNs now);
  void On(SubmitPrefill& event, TimeNs now);
  void On(const Cancel& event, TimeNs now);
  void On(const CancelPrefill& event, TimeNs now);
  void On(const FetchDone& event, TimeNs now);
  void On(const PrefillStarted& event, TimeNs now);
  void On(PrefillReply& event, TimeNs now);
  void On(StepDone& event, TimeNs now);
  void On(const PageQuiet& event, TimeNs now);
  void On(const Tick&, TimeNs now);
  void On(const SetRoles& event, TimeNs now);
  Status Validate(const std::vector<int32_t>& prompt, const SamplingParams& sampling,
                  bool decodes) const;
  Status ValidateResume(const Submit& event) const;
  Status CheckLoad(bool new_work, absl::string_view what) const;
  // Null when the attempt is stale; a higher one ends what lower attempts still have here.
  Fence* RaiseFence(const RequestKey& key);
  Request& Add(std::unique_ptr<Request> request, bool new_work, TimeNs now);
  static Status Superseded(const RequestKey& key, const Attempt& by);
  Request* FindDecode(const RequestKey& key);
  Request* FindCaller(const RequestKey& key, uint32_t leg);
  Request* FindLeg(const RequestKey& key, uint32_t leg);
  void ForgetOldFences();
  void Settle(TimeNs now);

  // replication.cc: what the replicas of live requests are told and say
  void On(RowsHeld& event, TimeNs now);
  void On(const ReplicaLost& event, TimeNs now);
  void On(const RowsPacked& event, TimeNs now);
  void TakeHeld(const NodeKey& store, const HeldRows& held, TimeNs now);
  void TakeRefusal(Replica& replica, ReplicaRows& rows, const HeldRows& held, TimeNs now) const;
  void NoteLag(Request& request, TimeNs now) const;
  void Replicate(TimeNs now);
  void NoteOffered(const Request& request, Replica& replica, int64_t rows) const;
  void OfferReplica(Request& request, Replica& replica, TimeNs now);
  int64_t UnackedBytes(const NodeKey& store) const;
  int64_t AppendBranch(Request& request, size_t branch, ReplicaRows& rows, int64_t rows_max,
                       AppendRows& append);
  void AppendTo(const NodeRef& store, TimeNs now);
  void ReleaseReplicasOf(const RequestKey& key, const std::vector<NodeRef>& stores);

  // replica_set.cc: which stores a request has
  void On(LiveStores& event, TimeNs now);
  void SetReplicas(Request& request, const std::vector<NodeRef>& stores, int32_t wanted);
  void DropReplica(Request& request, const NodeKey& store);
  void LoseStore(const NodeKey& store, TimeNs now);
  void FillReplicaSets(TimeNs now);
  bool AddReplica(Request& request, TimeNs now);
  void CheckStores(TimeNs now);
  void RetellSilent(TimeNs now);
  // When rows the store does not answer for are told again; empty: none wait.
  std::optional<TimeNs> SilentUntil(const Request& request, const Replica& replica,
                                    size_t branch) const;
  std::optional<TimeNs> NextReplicaTick() const;

  // restore.cc: rows of earlier attempts
  void On(TailsFound& event, TimeNs now);
  void AskReplicas(Request& request);
  void TakeStates(Request& request, const NodeRef& store, const std::vector<TailState>& states);
  // Sets the trunk; false while an answer or a transfer is awaited.
  bool ReadyToAdmit(Request& request, TimeNs now);
  void PlanRecoveryOf(Request& request, TimeNs now);
  std::map<NodeKey, RecoveryLink> LinksOf(const Request& request, int64_t* missing,
                                          int64_t* restorable) const;
  LinkLoad& LoadOf(const NodeKey& source);
  int64_t SparePages(const Request& request) const;
  std::optional<FetchedBlock> TailItem(const Request& request, size_t branch) const;
  const NodeRef* ReplicaWith(const Request& request, size_t branch, int64_t block) const;
  std::vector<std::pair<NodeRef, FetchedBlock>> BranchItems(const Request& request, size_t branch,
                                                            int64_t computed) const;
  void RestoreBranches(Request& request, TimeNs now);
  void TakeBranches(Request& request, TimeNs now);
  void CountRestored(const Request& request, int64_t rows);

  // swap.cc: copies of pages outside the pool
  void On(const SwapDone& event, TimeNs now);
  // Rows of a block that are there.
  int64_t RowsEnd(const Branch& branch, size_t block) const {
    return std::min((static_cast<int64_t>(block) + 1) * block_, branch.computed);
  }
  std::map<PageId, std::vector<SwapCopy*>> StaleCopies(Request& request) const;
  bool Rewritable(const std::vector<SwapCopy*>& copies) const;
  int64_t SlotsWanted(Request& request) const;
  bool CopyOut(Request& request, TimeNs now);
  void CopyOutIfWorth(Request& request, TimeNs now);
  void Vacate(Request& request);
  std::vector<FetchedBlock> CopiesOf(const Request& request, size_t branch, int64_t computed) const;
  void StartSwapIn(Request& request, int64_t first_block, TimeNs now);
  void StartSwapFetch(Request& request, std::vector<FetchedBlock> blocks, TimeNs now);
  void TakeSwapped(const Fetch& fetch, const FetchDone& event, TimeNs now);
  void DropCopy(Branch& branch, int64_t block);
  void DropCopies(Branch& branch);
  void CountSwapRefusal(Request& request, SwapVerdict verdict);

  // rotation.cc: microbatches that take turns in the pool
  bool Rotates() const { return settings_.microbatches > 1 && slots_.total() > 0; }
  bool AnyParked() const;
  std::vector<uint64_t> TurnOrder() const;
  bool ComingIn(uint64_t group) const;
  void BringIn(TimeNs now);
  bool MakeRoom(const Request& request, const std::vector<uint64_t>& order, size_t turn,
                TimeNs now);
  bool ParkFurthest(const std::vector<uint64_t>& order, size_t turn, TimeNs now);
  bool ParkForGrowth(TimeNs now);
  void JoinMicrobatch(Request& request);
  SwapVerdict RotationOf(const Request* with) const;
  int64_t LongestPages(const Request& request) const;
  bool AdmitBeyondPool(Request& request, TimeNs now);

  // window.cc: gateways that go and come back
  void On(const Orphan& event, TimeNs now);
  void On(const Attach& event, TimeNs now);
  void AnswerKept(Kept& kept, const RequestKey& key);
  void TakeOver(Request& request, const RequestKey& key);
  void Keep(const Request& request, const Done& done);
  void DropKept(const std::string& id, bool release);
  void ReleaseKeptLater(const std::string& id);
  void ExpireKept(TimeNs now);
  static Attached Describe(const Request& request);

  // drain.cc
  void On(const Drain& event, TimeNs now);
  void DrainRequests(TimeNs now);
  bool Frozen(const Request& request) const {
    return draining_ && !request.is_leg && !request.orphaned();
  }

  // lifecycle.cc: ends and tokens
  void Refuse(const RequestKey& key, Status status);
  void RefuseLeg(const RequestKey& key, uint32_t leg, Status status);
  void End(Request& request, Status status, EndReason reason);
  void EndDecode(Request& request, Status status, EndReason reason);
  void LetReplicasGo(const Request& request, const Status& status);
  void Destroy(Request& request);
  void DetachFetches(Request& request);
  void CommitToken(Request& request, size_t branch, SampledToken token, TimeNs now);
  void EndBranch(Request& request, size_t branch, EndReason reason);
  std::optional<EndReason> ReasonToEnd(const Request& request, const Branch& branch) const;
  void FinishIfAllEnded(Request& request);
  void FlushEmits();

  // admission.cc: from waiting to computing
  // What admission of a request takes.
  struct Room {
    int64_t hits = 0;       // leading blocks cached here
    int64_t idle_hits = 0;  // of these, that nobody uses
    int64_t rows = 0;       // that get pages
    int64_t spare = 0;      // pages for what branches bring back for themselves
    int64_t needed = 0;     // pages beside the hits
  };
  Room RoomFor(const Request& request) const;
  void AdmitWaiting(int64_t pages_wanted, TimeNs now);
  bool TryAdmit(Request& request, int64_t pages_wanted, TimeNs now);
  void BeginWork(Request& request, int64_t hits, TimeNs now);
  void SetTrunk(Request& request);
  int64_t CachedBlocks(const Request& request) const;
  void StartFetches(Request& request, int64_t first_block, TimeNs now);
  void CallLeg(Request& request, TimeNs now);
  void StartFetchesOf(Request& request, FetchesBySource fetches, TimeNs now);
  void StartFetchOf(Request& request, const NodeRef& source, std::vector<FetchedBlock> blocks,
                    TimeNs now);
  void LegFailed(Request& request, TimeNs now);
  void ResolveIfArrived(Request& request, TimeNs now);
  void TakeArrived(Request& request);
  const NodeRef* SourceOf(const Request& request, int64_t block) const;

  // sharing.cc: what peers and stores are told
  void ListPending(Request& request, int64_t first_block);
  void OfferPrompt(Request& request, TimeNs now);
  void Offer(const Request& request, const Branch& chain_of, uint32_t branch, const NodeRef& store,
             int64_t blocks);

  // plan.cc: one step
  struct Row {
    Request* request = nullptr;
    size_t branch = 0;
    int64_t last = 0;  // rows computed after it
  };
  int64_t TargetRows(const Request& request, size_t branch) const;
  bool IsDecodeRow(const Request& request, size_t branch) const;
  std::vector<Row> CollectRows() const;
  // Requests that share a step: a microbatch, but for those that run alone.
  static uint64_t GroupOf(const Request& request) {
    return request.alone ? limits::kMicrobatchesMax + request.rank.arrival
                         : static_cast<uint64_t>(request.microbatch.value_or(0));
  }
  void CollectChunks(std::vector<Row>& rows) const;
  int64_t PagesWanted(const Row& row) const;
  int64_t PagesWanted() const;
  bool Preempt(TimeNs now);
  bool TakePages(const Row& row, StepPlan& plan);
  void PlanRow(const Row& row, StepPlan& plan);
  void PlanSamples(const Row& row, StepPlan& plan);

  // step_done.cc: what a step brought
  void Apply(const Flight& flight, std::span<SampledToken> samples, TimeNs now);
  void AnswerLeg(Request& request, std::span<SampledToken> samples, TimeNs now);

  // pages.cc: the pool, the cache and the listing together
  int64_t Whole(int64_t rows) const { return rows / block_; }
  int64_t Covering(int64_t rows) const { return (rows + block_ - 1) / block_; }
  void RefPage(PageId page);
  void ReleasePage(PageId page, int32_t transfer_holds = 0);
  void ReleaseAll(Request& request);
  // Evicts up to `pages` idle pages; true when any.
  bool Evict(int64_t pages);
  bool Writable(PageId page) const { return pool_.refs(page) == 1 && !cache_.sealed(page); }
  void Seal(Branch& branch, int64_t block);  // its rows are complete
  void SealRows(Branch& branch, int64_t first, int64_t last);
  void Fork(Request& request);
  void ExtendFromCache(Request& request, Branch& branch);
  void EnsureChain(const Request& request, Branch& branch, int64_t rows);
  // As block ids know it.
  int64_t PromptEnd(const Request& request) const {
    return settings_.two_forms ? request.prompt_len() : kv::kOneForm;
  }

  const CoreSettings settings_;
  const int64_t block_;  // tokens

  PagePool pool_;
  PrefixCache cache_;
  std::map<uint64_t, std::unique_ptr<Request>> requests_;  // by arrival
  std::map<Rank, Request*> waiting_;
  std::map<Rank, Request*> running_;               // admitted and not ended
  std::unordered_map<std::string, Fence> fences_;  // looked up only
  std::deque<std::string> ended_ids_;              // oldest first: which fences to forget
  std::map<FetchId, Fetch> fetches_;
  std::map<AppendId, Append> appends_;
  std::map<QueryId, Query> queries_;
  std::vector<int32_t> reads_;  // by page: appends being packed from it
  std::map<NodeKey, StoreLink> links_;
  bool replicate_ = false;  // something changed that Replicate looks at
  std::map<NodeKey, StoreNode> live_stores_;
  std::map<std::string, Kept> kept_;    // by request id
  std::deque<std::string> kept_order_;  // oldest first; may name what is gone
  std::multimap<TimeNs, std::pair<RequestKey, std::vector<NodeRef>>>
      releases_;  // of failed requests
  std::vector<Flight> flight_;
  TimeNs step_began_ns_ = 0;
  int64_t step_prompt_tokens_ = 0;
  uint64_t last_group_ = 0;  // of the latest step
  std::vector<Command> commands_;
  std::vector<uint64_t> emitting_;  // arrivals of requests with something in `emit`
  uint64_t next_arrival_ = 1;
  FetchId next_fetch_ = 1;
  AppendId next_append_ = 1;
  QueryId next_query_ = 1;
  TimeNs now_ = 0;       // of the call under way
  int64_t unheard_ = 0;  // kept, and their gateways had gone
  bool can_prefill_ = true;
  bool can_decode_ = true;
  bool draining_ = false;
  TimeNs drain_flushed_ns_ = 0;
  TimeNs drain_deadline_ns_ = 0;  // 0: none
  SwapSlots slots_;
  std::map<SwapId, std::vector<PageId>> swaps_;  // pages being copied out
  SwapId next_swap_ = 1;
  uint64_t next_ticket_ = 1;
  RateEstimate swap_rate_;
  RateEstimate decode_steps_;          // steps without prompt rows a second
  std::map<NodeKey, LinkLoad> loads_;  // by source of fetches
  RateEstimate prefill_rate_;
  CoreStats stats_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_CORE_H_
