// The pure life cycle of blocks and replica tails in a store node: which ids are held, in which
// memory and disk slots, what is fetched, appended, sealed, written back, loaded, evicted and
// announced. Deterministic: (state, event, now) -> (state, commands); no threads, clocks, I/O or
// logging. The shell (store_server) and the simulator run this very class. One thread at a time;
// the shell guards it by a mutex.
//
// Invariants:
// 1. Per tier, used + free + quarantined == total at every moment.
// 2. A slot being fetched into, read by a transfer or by disk I/O is never handed out again before
//    that use has ended (quarantine), whatever happened to its block.
// 3. A block is listed exactly while its bytes are complete in memory or on disk; every listing and
//    unlisting is one numbered event.
// 4. Ids are derived here from the offered or appended tokens; a claimed id is never trusted.
// 5. A block leased by a live sequence is never evicted from memory and disk both. Every link of a
//    chain is a block that exists and is leased by that sequence.
// 6. Rows of a tail that somebody may be reading never change, nor do the bytes around them: rows
//    are written only into a slot without readers (a slot with readers is copied first), and a slot
//    being written is not readable before the write has ended.
// 7. Nothing of a lower attempt of a request is taken once a higher one was seen.
// 8. Checksums are carried from where the bytes were verified: a fetched layer's from its arrival,
//    a tail's and a sealed block's from the parts of its rows (crc32c.h) in their appends. No slot
//    is ever summed, so bytes that change in one are refused by whoever reads them. The parts of a
//    tail take 4 bytes a layer and row (8 KiB beside 8 MiB, say). Sealing reads no byte; what lies
//    behind the rows of an open tail is zeroed when somebody asks for it.
#ifndef REPRISE_KVSTORE_NODE_STORE_CORE_H_
#define REPRISE_KVSTORE_NODE_STORE_CORE_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/ids.h"
#include "common/limits.h"
#include "common/status.h"
#include "kvstore/block/block_id.h"
#include "kvstore/block/event_log.h"
#include "kvstore/node/sequence.h"
#include "kvstore/stream/fences.h"
#include "kvstore/stream/tail.h"

namespace reprise::kv {

struct StoreCoreOptions {
  Digest256 format_digest{};
  int block_tokens = 64;
  uint32_t layers = 0;
  uint64_t segment_bytes = 0;  // of one layer of a block
  Slot memory_slots = 0;
  Slot disk_slots = 0;       // 0: no disk tier
  int32_t fetches_max = 64;  // running at once; offers beyond are dropped and counted
  TimeNs fetch_timeout_ns = 60 * kSecond;
  // Disk writes and loads in flight at once.
  int32_t disk_io_max = 4;
  // A request whose owner's connection is gone and that nobody took over is released after this.
  TimeNs orphan_ns = 30 * kSecond;
  // Blocks of a request that has ended may still arrive, as cache, for this long; then their fetch
  // is cancelled, unless somebody else leases or reads one of them.
  TimeNs ended_fetch_ns = kSecond;
};

// A block's record: everything a restart needs besides the bytes.
struct BlockRecord {
  BlockId id;
  int64_t first_position = 0;
  std::vector<uint32_t> checksums;  // per layer
};

struct StoreCounters {
  uint64_t offers = 0;
  uint64_t offers_dropped = 0;  // over fetches_max, or no room
  uint64_t blocks_stored = 0;
  uint64_t fetch_items_failed = 0;
  uint64_t fetches_cancelled = 0;  // because their request had ended
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t memory_evictions = 0;
  uint64_t disk_evictions = 0;
  uint64_t disk_writes = 0;
  uint64_t disk_loads = 0;
  uint64_t disk_failures = 0;
  uint64_t append_entries = 0;
  uint64_t append_rows = 0;  // taken
  uint64_t refused_stale = 0;
  uint64_t refused_released = 0;
  uint64_t refused_gap = 0;
  uint64_t refused_damaged = 0;
  uint64_t refused_no_room = 0;
  uint64_t refused_contradiction = 0;
  uint64_t blocks_sealed = 0;
  uint64_t tails_cut = 0;
  uint64_t tails_copied = 0;  // because somebody read them
  uint64_t tail_queries = 0;
  uint64_t releases = 0;
  uint64_t orphans_released = 0;
};

struct TierCounts {
  Slot total = 0;
  Slot free = 0;
  Slot used = 0;
  Slot quarantined = 0;
};

struct ReplicaCounts {
  int64_t requests = 0;
  int64_t sequences = 0;
  int64_t leased_blocks = 0;
  int64_t tail_rows = 0;
  int64_t stranded_slots = 0;  // of requests that ended, still in use
};

// Commands, to be carried out in order; ClearRows before the call that made it is answered.
struct StartStoreFetch {
  struct Item {
    BlockId id;
    int64_t first_position = 0;
    Slot slot = 0;
  };
  uint64_t fetch = 0;
  NodeKey source;  // resolved to an address by the shell
  RequestKey request;
  std::vector<Item> items;
  TimeNs timeout_ns = 0;
};
// Of a fetch whose request has ended; OnFetchDone follows.
struct CancelStoreFetch {
  uint64_t fetch = 0;
};
struct PublishBlock {  // subscribers of a pending block may read its first layers
  BlockId id;
  uint32_t layers_ready = 0;
  std::vector<uint32_t> checksums;  // of these layers
};
struct WithdrawBlock {
  BlockId id;
};
struct WriteDisk {
  BlockRecord record;
  Slot memory_slot = 0;
  Slot disk_slot = 0;
};
struct LoadDisk {
  BlockId id;
  Slot memory_slot = 0;
  Slot disk_slot = 0;
};
struct ClearRows {  // zeros into this row of a tail's slot and all behind it
  Slot slot = 0;
  uint32_t first_row = 0;
};
struct ForgetDisk {  // invalidate the record of an evicted disk slot
  Slot disk_slot = 0;
};
using StoreCommand = std::variant<StartStoreFetch, CancelStoreFetch, ClearRows, PublishBlock,
                                  WithdrawBlock, WriteDisk, LoadDisk, ForgetDisk>;

// What to tell the owner of a sequence by itself; the answers to appends are returned.
struct ToldHeld {
  NodeKey owner;
  HeldRows held;
};

class StoreCore {
 public:
  explicit StoreCore(const StoreCoreOptions& options);

  // Blocks found on disk at start; before anything else. A record beyond the disk's slots or a
  // repeated id is ignored.
  void Restore(const BlockRecord& record, Slot disk_slot);

  struct Offer {
    NodeKey source;
    RequestKey request;
    BlockId parent;
    int64_t first_position = 0;
    std::string tenant_salt;
    int64_t prompt_end = kOneForm;
    std::vector<int32_t> tokens;
    std::optional<uint32_t> branch;  // of the sequence that leases the blocks
  };
  void OnOffer(const Offer& offer, TimeNs now);
  void OnLayer(uint64_t fetch, size_t item, uint32_t layer, uint32_t checksum);
  void OnFetchDone(uint64_t fetch, const std::vector<Status>& items, TimeNs now);
  bool Fetching(uint64_t fetch) const { return fetches_.contains(fetch); }
  void OnDiskWritten(const BlockId& id, const Status& status);
  void OnDiskLoaded(const BlockId& id, const Status& status);

  // ---- Replicas. ----

  // What to do about one entry of an append.
  struct AppendPlan {
    // The sequence has a write under way: ask again when it has ended. Nothing else is set.
    bool busy = false;
    // Rows are to be written, then OnAppended called; 0: `held` is the answer.
    uint64_t write = 0;
    Slot copy_from = -1;  // this slot's bytes first, when there is one
    Slot slot = 0;
    uint32_t first_row = 0;  // of the first row written, in its block
    uint32_t skip = 0;       // of the entry's rows: held already
    HeldRows held;
  };
  AppendPlan OnAppend(const NodeKey& from, const TailEntry& entry, TimeNs now);
  // The rows of a plan are written, or refused. `parts` as TailUnpacker gives them: one per
  // [layer][row written], zeros where damaged rows were cleared away; empty when nothing was
  // written (then `status` is an error).
  HeldRows OnAppended(uint64_t write, const Status& status, const std::vector<uint32_t>& parts,
                      TimeNs now);
  void OnRelease(const RequestKey& request, TimeNs now);
  StatusOr<std::vector<TailState>> OnQuery(const NodeKey& from, const RequestKey& request,
                                           TimeNs now);
  // An attempt of the request has shown itself.
  void OnFence(const RequestKey& request, TimeNs now);
  void OnPeerLost(const NodeKey& peer, TimeNs now);
  // Releases orphans and cancels what nobody waits for; call it now and then.
  void OnTick(TimeNs now);

  // What a peer may read. A found or pending block is pinned until Unpin(pin). A tail is found
  // under its ReplicaTailId; what is behind its rows are zeros, or rows that were cut off.
  struct Found {
    enum class State { kReady, kPending, kMissing };
    State state = State::kMissing;
    Slot slot = 0;
    uint32_t layers_ready = 0;
    int64_t first_position = 0;
    std::vector<uint32_t> checksums;  // of the layers that are ready
    bool tail = false;
    uint64_t pin = 0;
  };
  Found Find(const BlockId& id, TimeNs now);
  void Unpin(uint64_t pin);

  std::vector<StoreCommand> TakeCommands() { return std::exchange(commands_, {}); }
  std::vector<ToldHeld> TakeTold() { return std::exchange(told_, {}); }

  const StoreCounters& counters() const { return counters_; }
  TierCounts memory() const;
  TierCounts disk() const;
  EventLog& events() { return events_; }
  const EventLog& events() const { return events_; }
  size_t blocks() const { return events_.listed(); }
  ReplicaCounts replicas() const;
  // The first broken invariant of chains, leases and tails, or OK; for tests, it walks everything.
  Status Audit() const;

 private:
  // Eviction order, first to go first: by the second of last use, within it the deepest block of a
  // sequence (a prefix is worth nothing without its first blocks), then the oldest use.
  struct Use {
    TimeNs second = 0;
    int64_t minus_position = 0;
    uint64_t count = 0;
    auto operator<=>(const Use&) const = default;
  };
  enum class Memory : uint8_t { kNone, kFetching, kLoading, kComplete };
  enum class Disk : uint8_t { kNone, kWriting, kComplete };
  struct Block {
    int64_t first_position = 0;
    Memory memory = Memory::kNone;
    Disk disk = Disk::kNone;
    Slot memory_slot = -1;
    Slot disk_slot = -1;
    uint32_t layers_ready = 0;
    Use use;
    bool in_memory_lru = false;
    bool in_disk_lru = false;
    std::vector<uint32_t> checksums;  // of its layers, those fetched so far while it is fetched
    std::set<uint64_t> leases;        // sequences
    bool complete() const { return memory == Memory::kComplete || disk == Disk::kComplete; }
  };
  struct MemorySlot {
    int32_t pins = 0;       // uses besides the owner's
    bool owned = false;     // by a block or tail; otherwise free, or quarantined while pins > 0
    bool stranded = false;  // quarantined, and its request has ended
  };
  struct FetchItem {
    BlockId id;
    Slot slot = 0;
    uint32_t layers_ready = 0;
    bool detached = false;  // the block became complete otherwise; the slot is only the fetch's
    std::vector<uint32_t> checksums;  // when detached: of the layers in that slot
  };
  struct Fetch {
    std::string request;  // that its blocks were offered for
    std::vector<FetchItem> items;
    std::optional<TimeNs> cancel_at;  // the request has ended
  };
  struct TailWrite {
    uint64_t sequence = 0;
    RequestKey request;
    uint32_t branch = 0;
    Slot slot = 0;
    Slot copy_from = -1;
    std::vector<int32_t> tokens;  // of the rows being written
    uint32_t first_row = 0;
    bool awaited = false;  // a reader waits for its end
    BlockId tail_id;
    int64_t block_position = 0;
    SlotParts known;  // of a tail that went away meanwhile
  };

  // ---- Blocks and slots (store_core.cc). ----
  void Touch(const BlockId& id, Block& block);
  // Puts the block into the eviction orders it belongs to, and out of the others.
  void Relist(const BlockId& id, Block& block);
  void Unlist(Block& block);
  std::optional<Slot> AllocateMemory();
  std::optional<Slot> AllocateDisk();
  bool EvictOneFromMemory();
  bool EvictOneFromDisk();
  void GiveMemory(const BlockId& id, Block& block, Slot slot);
  void DropMemory(Slot slot, bool ended);
  void Pin(Slot slot);
  void UnpinSlot(Slot slot);
  void ReleaseMemory(Block& block);
  void ReleaseDisk(Block& block);
  void EraseIfGone(const BlockId& id);
  // False when there was no room for all of it.
  bool AdmitOffered(const Offer& offer, const std::vector<BlockId>& ids, Sequence* sequence);
  void FinishItem(const FetchItem& item, const Status& status);
  void EndFetchesOf(const std::string& request);
  void CancelEndedFetches();
  bool Wanted(const Fetch& fetch) const;
  void CompleteBlock(const BlockId& id, Block& block);
  Found FoundAt(Slot slot);
  void StartDiskIo();
  bool StartWrite(const BlockId& id);
  bool StartLoad(const BlockId& id);

  // ---- Sequences (store_core_replicas.cc). ----
  bool NoteAttempt(const RequestKey& request);  // false: stale
  StatusOr<Sequence*> OpenSequence(const NodeKey& from, const RequestKey& request, uint32_t branch,
                                   bool takes_over);
  void Own(ReplicaRequest& request, const std::string& id, const NodeKey& owner);
  void Orphan(ReplicaRequest& request, const std::string& id);
  void EndRequest(const std::string& id);
  Sequence* OfferedTo(const Offer& offer);  // null: the offer is for the cache only
  bool Lease(Sequence& sequence, int64_t index, const BlockId& id, const Attempt& attempt);
  void Unlease(uint64_t sequence, const BlockId& id);
  void CutChain(Sequence& sequence, int64_t index);
  void AdoptPrefix(Sequence& sequence, int64_t index, const BlockId& parent);
  // The chains of these sequences have a complete block more, or a block less.
  void OnBlockComplete(const Block& block);
  void OnBlockLost(const std::set<uint64_t>& leases, int64_t first_position);
  void CountComplete(Sequence& sequence);
  bool CountsTail(const Sequence& sequence) const;
  int64_t HeldOf(const Sequence& sequence) const;
  const ChainLink* LinkAt(const Sequence& sequence, int64_t index) const;
  void Tell(Sequence& sequence, const Status& status);
  Status CheckEntry(const TailEntry& entry) const;
  // Errors as in HeldRows. May cut what a lower attempt left, and drop a tail that gives way.
  Status FitEntry(Sequence& sequence, const TailEntry& entry, bool* nothing_new);
  Status FitChain(Sequence& sequence, const TailEntry& entry, bool* nothing_new);
  Status FitTail(Sequence& sequence, const TailEntry& entry, bool* nothing_new);
  Status OpenTailAt(Sequence& sequence, const TailEntry& entry);
  Status PlanWrite(Sequence& sequence, const TailEntry& entry, AppendPlan* plan);
  HeldRows Answer(Sequence& sequence, const Status& status);
  void CountRefusal(const Status& status);
  size_t PartsOfBlock() const {
    return size_t{options_.layers} * static_cast<size_t>(options_.block_tokens);
  }
  void DropTail(Sequence& sequence, bool ended);
  void NoteParts(const TailWrite& write, const std::vector<uint32_t>& written,
                 SlotParts& known) const;
  // The checksums of the slot's segments as those of block `id`; clears what is not known.
  std::vector<uint32_t> SumSlot(const BlockId& id, int64_t first_position, Slot slot,
                                SlotParts& known);
  void Seal(Sequence& sequence);
  void AdoptSealed(const BlockId& id, Block& block, OpenTail& tail);
  std::optional<Found> FindTail(const BlockId& id);

  const StoreCoreOptions options_;
  const ChainContext chain_;
  const Crc32cShift past_segment_;
  std::map<BlockId, Block> blocks_;
  std::map<Use, BlockId> memory_lru_;
  std::map<Use, BlockId> disk_lru_;
  std::vector<MemorySlot> memory_;
  std::vector<Slot> memory_free_;
  std::vector<Slot> disk_free_;
  Slot disk_used_ = 0;
  std::map<uint64_t, Fetch> fetches_;
  std::map<uint64_t, Slot> pins_;
  std::deque<BlockId> write_queue_;
  std::deque<BlockId> load_queue_;
  std::map<std::string, ReplicaRequest> requests_;
  std::map<uint64_t, Sequence> sequences_;
  std::map<BlockId, uint64_t> tails_;  // ReplicaTailId -> sequence
  std::map<uint64_t, TailWrite> writes_;
  std::set<std::pair<TimeNs, std::string>> orphans_;
  Fences fences_{limits::kFencedRequestsMax};
  int64_t leased_blocks_ = 0;
  int64_t stranded_slots_ = 0;
  std::vector<StoreCommand> commands_;
  std::vector<ToldHeld> told_;
  EventLog events_;
  StoreCounters counters_;
  uint64_t use_counter_ = 0;
  TimeNs now_ = 0;  // the latest event's
  uint64_t next_fetch_ = 1;
  uint64_t next_pin_ = 1;
  uint64_t next_sequence_ = 1;
  uint64_t next_write_ = 1;
  int32_t disk_io_ = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_NODE_STORE_CORE_H_
