// A store process around StoreCore, as kvstore/node/store_server runs it, with real slot bytes, the
// serving side of replication and a disk that outlives it. Owned by the cluster; one thread.
#ifndef REPRISE_TESTS_SIMULATION_SIM_STORE_H_
#define REPRISE_TESTS_SIMULATION_SIM_STORE_H_

#include <deque>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "kvstore/node/store_core.h"
#include "kvstore/stream/latest_connections.h"
#include "kvstore/stream/tail_pack.h"
#include "tests/simulation/kv_node.h"
#include "tests/simulation/report_loop.h"
#include "tests/simulation/sim_disk.h"

namespace reprise::sim {

class ReplicaClient;

struct StoreSize {
  kv::Slot memory_slots = 64;
  kv::Slot disk_slots = 128;
};

class SimStore {
 public:
  SimStore(Context& context, const NodeKey& key, const StoreSize& size, SimDisk* disk);

  Pid pid() const { return pid_; }
  const NodeKey& key() const { return key_; }
  const kv::StoreCore& core() const { return core_; }
  const KvNode& stream() const { return stream_; }
  uint64_t damaged_appends() const { return damaged_appends_; }
  coordinator::NodeInfo info() const;

  // What workers send over their replica streams.
  void OnOffer(StreamId stream, ReplicaClient& from, kv::StoreCore::Offer offer);
  void OnAppend(StreamId stream, ReplicaClient& from, uint64_t append,
                const std::vector<kv::TailEntry>& entries, const std::vector<uint8_t>& rows);
  void OnRelease(RequestKey request);
  void OnQuery(StreamId stream, ReplicaClient& from, uint64_t query, RequestKey request);
  void OnReplicaPeerGone(StreamId stream);
  // Empty when the first `rows` rows of the branch are held, with these tokens (the
  // prompt's first) and the right bytes
  // in the memory or on the disk of this store; otherwise what is wrong. Changes nothing.
  std::string CheckHeld(const RequestKey& request, uint32_t branch, const std::string& tenant,
                        std::span<const int32_t> tokens, int64_t prompt_tokens, int64_t rows) const;
  // What the crash does to the disk.
  void CrashDisk(bool lying);
  // Slots add up; called after every event of this process.
  void Check();
  // Nothing is in use; called when all is quiet.
  void CheckQuiet();

 private:
  using DiskJob = std::variant<kv::WriteDisk, kv::LoadDisk, kv::ForgetDisk>;
  struct ReplicaPeer {
    ReplicaClient* client = nullptr;
    NodeKey key;
    Pid pid = 0;
  };
  struct PlannedEntry {
    size_t entry = 0;
    kv::StoreCore::AppendPlan plan;
  };
  struct Incoming {
    StreamId stream = 0;
    NodeKey from;
    uint64_t append = 0;
    std::vector<kv::TailEntry> entries;
    std::vector<uint8_t> rows;
    std::vector<size_t> offsets;  // of each entry's rows
    std::vector<kv::HeldRows> held;
    size_t next = 0;
    std::vector<PlannedEntry> planned;  // being written
  };

  TimeNs Now() const { return context_.world.Clock(pid_); }
  KvFound Find(const kv::BlockId& id);
  void Run();
  void Tick();
  void Known(StreamId stream, ReplicaClient& from);
  void LoseOwner(const NodeKey& owner);
  bool Admit(RequestKey& request);
  void NextAppend();
  void WritePlanned();
  void Tell(StreamId stream, uint64_t append, std::vector<kv::HeldRows> held);
  void TellOwners();
  bool ReadBlock(kv::StoreCore& core, const kv::BlockId& id, bool tail, uint8_t* data) const;
  void StartFetch(const kv::StartStoreFetch& fetch);
  void QueueDisk(DiskJob job);
  void NextDiskJob();
  void WriteDisk(const kv::WriteDisk& write);
  void EndDiskJob();
  uint8_t* SlotData(kv::Slot slot) {
    return arena_.data() + static_cast<size_t>(slot) * context_.block_bytes();
  }
  const uint8_t* SlotData(kv::Slot slot) const {
    return arena_.data() + static_cast<size_t>(slot) * context_.block_bytes();
  }

  Context& context_;
  const NodeKey key_;
  const Pid pid_;
  kv::StoreCore core_;
  const kv::TailUnpacker unpacker_;
  std::vector<kv::EventReporter> reporters_;  // by coordinator
  std::vector<uint8_t> arena_;
  SimDisk* const disk_;
  std::map<uint64_t, uint64_t> fetches_;  // the core's, at the stream
  std::deque<DiskJob> disk_jobs_;         // the front is under way
  std::map<StreamId, ReplicaPeer> peers_;
  kv::LatestConnections latest_;
  std::deque<Incoming> incoming_;  // the front is being taken
  uint64_t damaged_appends_ = 0;
  std::map<std::string, Attempt> highest_;  // of the planted bug
  KvNode stream_;
  ReportLoop reports_;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_SIM_STORE_H_
