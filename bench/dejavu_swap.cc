#include "bench/dejavu_swap.h"

#include <time.h>

#include <algorithm>
#include <cstring>

namespace reprise::bench {
namespace {

constexpr size_t kPieceBytes = 256 << 10;

}  // namespace

void SleepUntil(TimeNs at_ns) {
  const timespec at{.tv_sec = at_ns / kSecond, .tv_nsec = at_ns % kSecond};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) != 0) {
  }
}

DejavuSwap::DejavuSwap(DejavuRows* rows, size_t row_bytes, uint32_t space, uint32_t sequences,
                       int64_t link_bytes_per_s)
    : rows_(rows),
      row_bytes_(row_bytes),
      space_(space),
      sequences_(sequences),
      link_bytes_per_s_(link_bytes_per_s) {
  {
    MutexLock lock(mu_);
    for (Slot& slot : slots_) {
      slot.bytes = std::make_unique_for_overwrite<uint8_t[]>(rows->rows_max() * row_bytes);
    }
  }
  copying_ = Thread("swap", [this] { Copy(); });
}

DejavuSwap::~DejavuSwap() {
  MutexLock lock(mu_);
  stopping_ = true;
  changed_.NotifyAll();
}

DejavuSwap::Slot* DejavuSwap::SlotOfLocked(uint32_t sequence) {
  for (Slot& slot : slots_) {
    if (slot.sequence == sequence) return &slot;
  }
  return nullptr;
}

// Takes the slot that does not compute.
void DejavuSwap::OrderLocked(uint32_t sequence) {
  if (SlotOfLocked(sequence) != nullptr) return;
  for (Slot& slot : slots_) {
    if (computing_.has_value() && slot.sequence == computing_) continue;
    slot.sequence = sequence;
    slot.here = false;
    wanted_ = sequence;
    changed_.NotifyAll();
    return;
  }
}

bool DejavuSwap::Await(uint32_t sequence) {
  const RowKey key{space_, sequence};
  const uint32_t held = rows_->Prefix(key);
  MutexLock lock(mu_);
  computing_.reset();
  Slot* slot = SlotOfLocked(sequence);
  if (slot == nullptr) OrderLocked(sequence);
  bool waited = false;
  while ((slot = SlotOfLocked(sequence)) == nullptr || !slot->here) {
    waited = true;
    changed_.Wait(mu_);
  }
  const uint32_t probe = held * 7 / 11;
  const bool right = slot->rows == held &&
                     RowIsRight(key, probe, {slot->bytes.get() + probe * row_bytes_, row_bytes_});
  if (!right) ++wrong_;
  return waited;
}

void DejavuSwap::BeginStep(uint32_t sequence) {
  MutexLock lock(mu_);
  computing_ = sequence;
  OrderLocked((sequence + 1) % sequences_);
}

void DejavuSwap::Copy() {
  for (;;) {
    uint32_t sequence = 0;
    uint8_t* device = nullptr;
    {
      MutexLock lock(mu_);
      while (!stopping_ && !wanted_.has_value()) changed_.Wait(mu_);
      if (stopping_) return;
      sequence = *wanted_;
      wanted_.reset();
      device = SlotOfLocked(sequence)->bytes.get();
    }
    const uint32_t rows = Transfer(sequence, device);
    MutexLock lock(mu_);
    Slot* slot = SlotOfLocked(sequence);
    slot->rows = rows;
    slot->here = true;
    changed_.NotifyAll();
  }
}

uint32_t DejavuSwap::Transfer(uint32_t sequence, uint8_t* device) {
  const RowKey key{space_, sequence};
  const std::shared_ptr<DejavuRows::Buffer> host = rows_->Open(key);
  const uint32_t rows = rows_->Prefix(key);
  const size_t total = rows * row_bytes_;
  link_free_at_ns_ = std::max(link_free_at_ns_, RealClock().NowNs());
  for (size_t at = 0; at < total; at += kPieceBytes) {
    const size_t piece = std::min(kPieceBytes, total - at);
    std::memcpy(device + at, host->row(0).data() + at, piece);
    link_free_at_ns_ += static_cast<TimeNs>(static_cast<double>(piece) * kSecond /
                                            static_cast<double>(link_bytes_per_s_));
    SleepUntil(link_free_at_ns_);
  }
  bytes_moved_ += static_cast<int64_t>(total);
  return rows;
}

}  // namespace reprise::bench
