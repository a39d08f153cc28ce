// The bytes of pages copied outside the pool: slots in host memory, then in a disk file, each with
// a checksum per layer. Copies on its own thread, so that the step thread pays for the order alone.
// Owned by the engine; Send from the step thread, answers are posted from the tier's own.
//
// Invariants:
// 1. Orders are carried out one after the other in the order of the calls.
// 2. Every order is answered once, and after it its pages are neither read nor written. None is
//    once Stop has been called.
// 3. An item comes back OK only when the slot holds what was written under the same ticket and
//    every layer's checksum, which covers ticket and layer, matches in the page.
// 4. The file has no name: it is gone with the process. Nothing in it outlives the tickets.
#ifndef REPRISE_WORKER_ENGINE_SWAP_TIER_H_
#define REPRISE_WORKER_ENGINE_SWAP_TIER_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/mapped_memory.h"
#include "common/status.h"
#include "kvstore/block/kv_format.h"
#include "kvstore/stream/pacer.h"
#include "worker/engine/core/types.h"
#include "worker/engine/order_thread.h"

namespace reprise::worker {

struct SwapOptions {
  int64_t host_bytes = 0;  // of copies in memory
  int64_t disk_bytes = 0;  // and on disk, when that is full
  std::string disk_dir;    // where the file is made; needed for a disk tier
  // Test and bench only: the link between the pool and the slots, 0 = as fast as it goes.
  int64_t throttle_bytes_per_s = 0;
};

class SwapTier {
 public:
  using Order = std::variant<SwapOut, SwapIn>;
  struct Pool {
    uint8_t* base = nullptr;
    kv::KvFormat format;
  };
  // How many slots so many bytes are.
  static int32_t Slots(int64_t bytes, const kv::KvFormat& format);

  // `post` takes events from any thread. INVALID_ARGUMENT or UNAVAILABLE when the file cannot be.
  static StatusOr<std::unique_ptr<SwapTier>> Create(const SwapOptions& options, Pool pool,
                                                    std::function<void(Event)> post);
  ~SwapTier();

  void Send(Order order) { thread_.Send(std::move(order)); }
  void Stop() { thread_.Stop(); }

  // For tests: changes a byte of what the slot holds.
  void Damage(SlotId slot);

 private:
  struct Slot {
    uint64_t ticket = 0;              // 0: nothing
    std::vector<uint32_t> checksums;  // per layer
  };
  SwapTier(const SwapOptions& options, Pool pool, std::function<void(Event)> post);
  Status Open(const std::string& dir);
  void Do(const SwapOut& order);
  void Do(const SwapIn& order);
  Status Write(const SwapItem& item);
  Status Read(const SwapItem& item);
  void Cross();  // until a page would have crossed the link

  bool OnDisk(SlotId slot) const { return slot >= host_slots_; }
  uint8_t* Page(PageId page) const { return pool_.base + static_cast<size_t>(page) * page_bytes_; }
  uint8_t* HostSlot(SlotId slot) const {
    return host_.data() + static_cast<size_t>(slot) * page_bytes_;
  }
  off_t DiskOffset(SlotId slot) const {
    return static_cast<off_t>(slot - host_slots_) * static_cast<off_t>(page_bytes_);
  }

  const Pool pool_;
  const size_t page_bytes_;
  const int32_t host_slots_;
  const std::function<void(Event)> post_;
  MappedMemory host_;
  int disk_ = -1;
  std::vector<Slot> slots_;    // of the tier's thread
  kv::Pacer link_;             // of the tier's thread
  OrderThread<Order> thread_;  // last: it uses all of the above
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_SWAP_TIER_H_
