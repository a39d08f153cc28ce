// A store process around StoreCore, as kvstore/node/store_server runs it, with real slot bytes and
// a disk that outlives it. Owned by the cluster; one thread.
#ifndef REPRISE_TESTS_SIMULATION_SIM_STORE_H_
#define REPRISE_TESTS_SIMULATION_SIM_STORE_H_

#include <deque>
#include <variant>
#include <vector>

#include "kvstore/node/store_core.h"
#include "tests/simulation/kv_node.h"
#include "tests/simulation/report_loop.h"
#include "tests/simulation/sim_disk.h"

namespace reprise::sim {

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
  coordinator::NodeInfo info() const;

  void OnOffer(const kv::StoreCore::Offer& offer);
  // What the crash does to the disk.
  void CrashDisk(bool lying);
  // Slots add up; called after every event of this process.
  void Check();
  // Nothing is in use; called when all is quiet.
  void CheckQuiet();

 private:
  using DiskJob = std::variant<kv::WriteDisk, kv::LoadDisk, kv::ForgetDisk>;

  KvFound Find(const kv::BlockId& id);
  void Run();
  void StartFetch(const kv::StartStoreFetch& fetch);
  void QueueDisk(DiskJob job);
  void NextDiskJob();
  void EndDiskJob();
  uint8_t* SlotData(kv::Slot slot) {
    return arena_.data() + static_cast<size_t>(slot) * context_.block_bytes();
  }

  Context& context_;
  const NodeKey key_;
  const Pid pid_;
  kv::StoreCore core_;
  kv::EventReporter reporter_;
  std::vector<uint8_t> arena_;
  SimDisk* const disk_;
  std::deque<DiskJob> disk_jobs_;  // the front is under way
  KvNode stream_;
  ReportLoop reports_;
};

// Best effort, as every offer.
void SendOffer(Context& context, Pid from, SimStore& store, const kv::StoreCore::Offer& offer);

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_SIM_STORE_H_
