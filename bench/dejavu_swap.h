// Microbatch swapping of one stage: the rows of all microbatches stay in host memory, two
// microbatches have room on the device; while one computes, the next one's rows cross a link of a
// given rate. Both memories are this process's: the bytes are copied in truth, the rate is timed.
// Owned by the stage; Await and BeginStep on its executor, the copying on an own thread.
#ifndef REPRISE_BENCH_DEJAVU_SWAP_H_
#define REPRISE_BENCH_DEJAVU_SWAP_H_

#include <array>
#include <atomic>
#include <memory>
#include <optional>

#include "bench/dejavu_rows.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/thread.h"

namespace reprise::bench {

class DejavuSwap {
 public:
  // Sequences 0 to `sequences` - 1, at least 3, take turns in this order.
  DejavuSwap(DejavuRows* rows, size_t row_bytes, uint32_t space, uint32_t sequences,
             int64_t link_bytes_per_s);
  ~DejavuSwap();

  // Returns when all rows of the sequence are on the device, whether that took waiting. Checks one
  // of them.
  bool Await(uint32_t sequence);
  // The sequence computes now: the next one's rows go into the other slot.
  void BeginStep(uint32_t sequence);

  uint32_t wrong() const { return wrong_; }
  int64_t bytes_moved() const { return bytes_moved_; }

 private:
  struct Slot {
    std::unique_ptr<uint8_t[]> bytes;
    std::optional<uint32_t> sequence;  // whose rows these are or will be
    uint32_t rows = 0;
    bool here = false;
  };
  Slot* SlotOfLocked(uint32_t sequence) REQUIRES(mu_);
  void OrderLocked(uint32_t sequence) REQUIRES(mu_);
  void Copy();
  uint32_t Transfer(uint32_t sequence, uint8_t* device);

  DejavuRows* const rows_;
  const size_t row_bytes_;
  const uint32_t space_;
  const uint32_t sequences_;
  const int64_t link_bytes_per_s_;
  TimeNs link_free_at_ns_ = 0;  // the copying thread's
  std::atomic<uint32_t> wrong_{0};
  std::atomic<int64_t> bytes_moved_{0};
  Mutex mu_;
  CondVar changed_;
  std::array<Slot, 2> slots_ GUARDED_BY(mu_);
  std::optional<uint32_t> computing_ GUARDED_BY(mu_);
  std::optional<uint32_t> wanted_ GUARDED_BY(mu_);
  bool stopping_ GUARDED_BY(mu_) = false;
  Thread copying_;  // last: ends before what it uses
};

// CLOCK_MONOTONIC, to the timer's resolution; at once when it is past.
void SleepUntil(TimeNs at_ns);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_DEJAVU_SWAP_H_
