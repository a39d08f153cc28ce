// The pure life cycle of blocks in a store node: which ids are held, in which memory and disk
// slots, what is fetched, written back, loaded, evicted and announced. Deterministic: (state,
// event, now) -> (state, commands); no threads, clocks, I/O or logging. The shell (store_server)
// and the simulator run this very class. One thread at a time; the shell guards it by a mutex.
//
// Invariants:
// 1. Per tier, used + free + quarantined == total at every moment.
// 2. A slot being fetched into, read by a transfer or by disk I/O is never handed out again before
//    that use has ended (quarantine), whatever happened to its block.
// 3. A block is listed exactly while its bytes are complete in memory or on disk; every listing and
//    unlisting is one numbered event.
// 4. Ids are derived here from the offered tokens; a claimed id is never trusted.
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
#include "common/ids.h"
#include "common/status.h"
#include "kvstore/block/block_id.h"
#include "kvstore/block/event_log.h"

namespace reprise::kv {

using Slot = int32_t;

struct StoreCoreOptions {
  Digest256 format_digest{};
  int block_tokens = 64;
  uint32_t layers = 0;
  Slot memory_slots = 0;
  Slot disk_slots = 0;       // 0: no disk tier
  int32_t fetches_max = 64;  // running at once; offers beyond are dropped and counted
  TimeNs fetch_timeout_ns = 60 * kSecond;
  // Disk writes and loads in flight at once.
  int32_t disk_io_max = 4;
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
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t memory_evictions = 0;
  uint64_t disk_evictions = 0;
  uint64_t disk_writes = 0;
  uint64_t disk_loads = 0;
  uint64_t disk_failures = 0;
};

struct TierCounts {
  Slot total = 0;
  Slot free = 0;
  Slot used = 0;
  Slot quarantined = 0;
};

// Commands, to be carried out in order.
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
struct PublishBlock {  // subscribers of a pending block may read its first layers
  BlockId id;
  uint32_t layers_ready = 0;
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
struct ForgetDisk {  // invalidate the record of an evicted disk slot
  Slot disk_slot = 0;
};
using StoreCommand =
    std::variant<StartStoreFetch, PublishBlock, WithdrawBlock, WriteDisk, LoadDisk, ForgetDisk>;

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
    std::string derivation;
    std::vector<int32_t> tokens;
  };
  void OnOffer(const Offer& offer, TimeNs now);
  void OnLayer(uint64_t fetch, size_t item, uint32_t layer, uint32_t checksum);
  void OnFetchDone(uint64_t fetch, const std::vector<Status>& items, TimeNs now);
  void OnDiskWritten(const BlockId& id, const Status& status);
  void OnDiskLoaded(const BlockId& id, const Status& status);

  // What a peer may read. A found or pending block is pinned until Unpin(pin).
  struct Found {
    enum class State { kReady, kPending, kMissing };
    State state = State::kMissing;
    Slot slot = 0;
    uint32_t layers_ready = 0;
    int64_t first_position = 0;
    std::vector<uint32_t> checksums;  // per layer of a ready block
    uint64_t pin = 0;
  };
  Found Find(const BlockId& id, TimeNs now);
  void Unpin(uint64_t pin);

  std::vector<StoreCommand> TakeCommands() { return std::exchange(commands_, {}); }

  const StoreCounters& counters() const { return counters_; }
  TierCounts memory() const;
  TierCounts disk() const;
  EventLog& events() { return events_; }
  const EventLog& events() const { return events_; }
  size_t blocks() const { return events_.listed(); }

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
    Use memory_use;  // key in memory_lru_
    Use disk_use;    // key in disk_lru_
    std::vector<uint32_t> checksums;
  };
  struct MemorySlot {
    int32_t pins = 0;
    bool owned = false;  // by a block; otherwise free, or quarantined while pins > 0
  };

  void Touch(const BlockId& id, Block& block);
  std::optional<Slot> AllocateMemory();
  std::optional<Slot> AllocateDisk();
  bool EvictOneFromMemory();
  bool EvictOneFromDisk();
  void GiveMemory(const BlockId& id, Block& block, Slot slot);
  void ReleaseMemory(Block& block);
  void ReleaseDisk(Block& block);
  void EraseIfGone(const BlockId& id);
  void AdmitOffered(const Offer& offer, const std::vector<BlockId>& ids);
  void FinishItem(const BlockId& id, const Status& status);
  void StartDiskIo();
  bool StartWrite(const BlockId& id);
  bool StartLoad(const BlockId& id);

  const StoreCoreOptions options_;
  const ChainContext chain_;
  std::map<BlockId, Block> blocks_;
  std::map<Use, BlockId> memory_lru_;
  std::map<Use, BlockId> disk_lru_;
  std::vector<MemorySlot> memory_;
  std::vector<Slot> memory_free_;
  std::vector<Slot> disk_free_;
  std::map<uint64_t, std::vector<BlockId>> fetches_;
  std::map<uint64_t, Slot> pins_;
  std::deque<BlockId> write_queue_;
  std::deque<BlockId> load_queue_;
  std::vector<StoreCommand> commands_;
  EventLog events_;
  StoreCounters counters_;
  uint64_t use_counter_ = 0;
  TimeNs now_ = 0;  // the latest event's
  uint64_t next_fetch_ = 1;
  uint64_t next_pin_ = 1;
  int32_t disk_io_ = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_NODE_STORE_CORE_H_
