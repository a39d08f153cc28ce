// A simulated disk tier: what DiskFile keeps, outliving the process that wrote it. A write that a
// crash interrupts leaves its slot invalid; a disk that lies leaves valid records over wrong bytes.
// Owned by the cluster; one thread.
#ifndef REPRISE_TESTS_SIMULATION_SIM_DISK_H_
#define REPRISE_TESTS_SIMULATION_SIM_DISK_H_

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "kvstore/block/checksum.h"
#include "kvstore/node/store_core.h"

namespace reprise::sim {

class SimDisk {
 public:
  std::vector<std::pair<kv::BlockRecord, kv::Slot>> Records() const {
    std::vector<std::pair<kv::BlockRecord, kv::Slot>> records;
    for (const auto& [slot, stored] : slots_) records.emplace_back(stored.record, slot);
    return records;
  }
  void Write(const kv::BlockRecord& record, kv::Slot slot, const uint8_t* data, size_t bytes) {
    slots_[slot] = {record, {data, data + bytes}};
    unsynced_.push_back(slot);
    if (unsynced_.size() > kUnsyncedMax) unsynced_.pop_front();
  }
  // A disk that lied about its last writes loses the second half of each when its power goes.
  // False: there was nothing to lose.
  bool Tear() {
    bool lost = false;
    for (const kv::Slot slot : unsynced_) {
      const auto found = slots_.find(slot);
      if (found == slots_.end()) continue;
      std::vector<uint8_t>& torn = found->second.data;
      std::fill(torn.begin() + static_cast<std::ptrdiff_t>(torn.size() / 2), torn.end(),
                uint8_t{0});
      lost = true;
    }
    unsynced_.clear();
    return lost;
  }
  Status Read(const kv::BlockId& id, kv::Slot slot, uint8_t* data, uint32_t layers) const {
    const auto found = slots_.find(slot);
    if (found == slots_.end() || found->second.record.id != id) {
      return absl::DataLossError("the slot holds another block");
    }
    const Stored& stored = found->second;
    std::memcpy(data, stored.data.data(), stored.data.size());
    const size_t segment = stored.data.size() / layers;
    for (uint32_t layer = 0; layer < layers; ++layer) {
      const uint32_t checksum = kv::SegmentChecksum(id, layer, stored.record.first_position,
                                                    data + layer * segment, segment);
      if (checksum != stored.record.checksums[layer]) return absl::DataLossError("torn");
    }
    return absl::OkStatus();
  }
  // False when it is not there.
  bool Peek(const kv::BlockId& id, uint8_t* data) const {
    for (const auto& [slot, stored] : slots_) {
      if (stored.record.id != id) continue;
      std::memcpy(data, stored.data.data(), stored.data.size());
      return true;
    }
    return false;
  }
  void Forget(kv::Slot slot) { slots_.erase(slot); }
  void Clear() { slots_.clear(); }

 private:
  struct Stored {
    kv::BlockRecord record;
    std::vector<uint8_t> data;
  };
  static constexpr size_t kUnsyncedMax = 8;
  std::map<kv::Slot, Stored> slots_;
  std::deque<kv::Slot> unsynced_;  // the latest writes
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_SIM_DISK_H_
