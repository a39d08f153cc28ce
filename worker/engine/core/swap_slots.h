// Accounting of the slots that hold copies of pages outside the pool: host memory first, then disk.
// No bytes here. Owned by the worker core; one thread.
//
// Invariants:
// 1. host_used + disk_used + free == slots at every moment; a used slot has a reference or more.
// 2. Slots are handed out lowest first, so equal histories give equal slots, and disk only when
//    host memory is full.
#ifndef REPRISE_WORKER_ENGINE_CORE_SWAP_SLOTS_H_
#define REPRISE_WORKER_ENGINE_CORE_SWAP_SLOTS_H_

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "common/clock.h"

namespace reprise::worker {

// [0, host slots): host memory; the rest: disk.
using SlotId = int32_t;

class SwapSlots {
 public:
  SwapSlots(int32_t host, int32_t disk) : host_(host), refs_(static_cast<size_t>(host + disk)) {
    for (SlotId slot = 0; slot < host + disk; ++slot) free_.insert(slot);
  }

  int32_t total() const { return static_cast<int32_t>(refs_.size()); }
  int32_t host_used() const { return host_used_; }
  int32_t disk_used() const { return disk_used_; }
  bool OnDisk(SlotId slot) const { return slot >= host_; }
  int32_t refs(SlotId slot) const { return refs_[static_cast<size_t>(slot)]; }

  // A disk that could not be written is given nothing for a while.
  void PauseDisk(TimeNs until) { disk_paused_until_ns_ = until; }
  int32_t Free(TimeNs now) const {
    if (now >= disk_paused_until_ns_) return static_cast<int32_t>(free_.size());
    return host_ - host_used_;
  }

  // One reference; empty when there is none free.
  std::optional<SlotId> Allocate(TimeNs now) {
    if (Free(now) == 0) return std::nullopt;
    const SlotId slot = *free_.begin();
    free_.erase(free_.begin());
    refs_[static_cast<size_t>(slot)] = 1;
    ++(OnDisk(slot) ? disk_used_ : host_used_);
    return slot;
  }
  void Ref(SlotId slot) { ++refs_[static_cast<size_t>(slot)]; }
  void Unref(SlotId slot) {
    if (--refs_[static_cast<size_t>(slot)] > 0) return;
    --(OnDisk(slot) ? disk_used_ : host_used_);
    free_.insert(slot);
  }

 private:
  const int32_t host_;
  std::vector<int32_t> refs_;
  std::set<SlotId> free_;
  int32_t host_used_ = 0;
  int32_t disk_used_ = 0;
  TimeNs disk_paused_until_ns_ = 0;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_SWAP_SLOTS_H_
