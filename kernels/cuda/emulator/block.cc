#include "kernels/cuda/emulator/block.h"

#include <cstring>
#include <utility>

#include "kernels/cuda/emulator/grid.h"

namespace reprise::cuda::emulator {

Block::Block(Dim3 index, Dim3 threads, size_t shared_bytes, uint64_t seed)
    : index_(index), threads_(threads), shared_(shared_bytes), random_(seed | 1) {
  lazy_ = Random() % 2 == 0;
  copies_late_ = Random() % 2 == 0;
  slow_ = Random() % 2 == 0 ? 0 : static_cast<uint32_t>(Random() & Random());
  const uint32_t count = threads.count();
  all_.resize(count);
  live_ = count;
  for (uint32_t i = 0; i < count; ++i) {
    all_[i].block = this;
    all_[i].flat = i;
    all_[i].index = {i % threads.x, i / threads.x % threads.y, i / (threads.x * threads.y)};
  }
  meetings_.resize((count + 31) / 32);
  matrix_units_.resize((count + 127) / 128);
}

// splitmix64
uint64_t Block::Random() {
  uint64_t z = (random_ += 0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

void Block::WaitUntil(const char* what, const std::function<bool()>& ready) {
  Thread& self = Here();
  self.waits_for = what;
  if (!ready()) {
    self.ready = &ready;
    self.fiber->Suspend();
    LeaveIfFaulted();
    self.ready = nullptr;
  }
  self.waits_for = "";
}

void Block::Fault(const std::string& why) { FaultGrid(why); }

bool Block::ReleaseAll(uint64_t generation) {
  if (all_barrier_.generation != generation) return true;
  if (all_barrier_.arrived < live_) return false;
  all_barrier_.arrived = 0;
  ++all_barrier_.generation;
  return true;
}

void Block::SyncAll() {
  ++all_barrier_.arrived;
  WaitUntil("the barrier of the block",
            [this, generation = all_barrier_.generation] { return ReleaseAll(generation); });
}

void Block::NamedBarrier(uint32_t id, uint32_t threads, bool wait) {
  if (id >= barriers_.size()) Fault("barrier " + std::to_string(id) + " of 16");
  if (threads == 0 || threads % 32 != 0) {
    Fault("a barrier of " + std::to_string(threads) + " threads, which are not whole warps");
  }
  Barrier& barrier = barriers_[id];
  if (barrier.arrived == 0) barrier.expected = threads;
  if (barrier.expected != threads) {
    Fault("barrier " + std::to_string(id) + " is of " + std::to_string(barrier.expected) +
          " and of " + std::to_string(threads) + " threads");
  }
  const uint64_t generation = barrier.generation;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  if (wait) WaitUntil("a barrier", [&] { return barrier.generation != generation; });
}

LaneValues Block::Meet(uint32_t mask, uint64_t value, const char* what) {
  const Thread& self = Here();
  const uint32_t bit = 1U << self.lane();
  if ((mask & bit) == 0) Fault(std::string(what) + " by a lane that its mask leaves out");
  auto& open = meetings_[self.warp()];
  std::shared_ptr<Meeting> meeting;
  for (const auto& m : open) {
    if (m->mask == mask) meeting = m;
  }
  if (meeting == nullptr) {
    meeting = std::make_shared<Meeting>(Meeting{mask, 0, what, {}});
    open.push_back(meeting);
  }
  if (std::strcmp(meeting->what, what) != 0) {
    Fault(std::string("lanes of a warp diverge: ") + meeting->what + " and " + what);
  }
  meeting->values[self.lane()] = value;
  meeting->arrived |= bit;
  if (meeting->arrived == mask) {
    std::erase(open, meeting);
  } else {
    WaitUntil(what, [&] { return meeting->arrived == mask; });
  }
  return meeting->values;
}

Block::Mbarrier& Block::At(uint32_t address) {
  const auto it = mbarriers_.find(address);
  if (it == mbarriers_.end()) {
    Fault("the mbarrier at " + std::to_string(address) + " was not initialised");
  }
  return it->second;
}

void Block::InitMbarrier(uint32_t address, uint32_t arrivals) {
  if (!shared_.Holds(address, 8) || address % 8 != 0) {
    Fault("an mbarrier at " + std::to_string(address));
  }
  mbarriers_[address] = {arrivals, arrivals, 0, 0};
}

void Block::EndPhase(Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.arrivals;
  ++barrier.phase;
}

void Block::ArriveMbarrier(uint32_t address, uint32_t expect_bytes) {
  Mbarrier& barrier = At(address);
  barrier.bytes += expect_bytes;
  if (--barrier.pending < 0) {
    Fault("more arrivals than the " + std::to_string(barrier.arrivals) + " of the mbarrier at " +
          std::to_string(address));
  }
  EndPhase(barrier);
}

void Block::CompleteBytes(uint32_t address, uint32_t bytes) {
  Mbarrier& barrier = At(address);
  barrier.bytes -= bytes;
  EndPhase(barrier);
}

bool Block::PhaseEnded(uint32_t address, uint32_t parity) {
  return (At(address).phase & 1) != parity;
}

void Block::WaitMbarrier(uint32_t address, uint32_t parity) {
  WaitUntil("an mbarrier", [&] { return PhaseEnded(address, parity); });
}

void Block::IssueMatrix(const MatrixOp& op) {
  const Thread& self = Here();
  if (self.warp() / 4 * 4 + 4 > threads_.count() / 32) Fault("wgmma by less than four warps");
  matrix_unit(self).Issue(self.flat % MatrixUnit::kThreads, op);
}

void Block::CommitMatrix() {
  const Thread& self = Here();
  MatrixUnit& unit = matrix_unit(self);
  const uint32_t t = self.flat % MatrixUnit::kThreads;
  unit.Commit(t);
  if (!lazy_ && unit.Committed(unit.committed(t))) RunMatrix(unit, unit.committed(t));
}

void Block::WaitMatrix(size_t left) {
  const Thread& self = Here();
  MatrixUnit& unit = matrix_unit(self);
  const uint32_t t = self.flat % MatrixUnit::kThreads;
  if (unit.open(t)) Fault("a wait for wgmma that were not committed");
  if (unit.committed(t) <= left) return;
  const size_t groups = unit.committed(t) - left;
  WaitUntil("the warpgroup's wgmma", [&] { return unit.Committed(groups); });
  RunMatrix(unit, groups);
}

void Block::RunMatrix(MatrixUnit& unit, size_t groups) {
  if (const std::string why = unit.RunUntil(groups, shared_); !why.empty()) Fault(why);
}

bool Block::RunOneLater() {
  if (later_.empty()) return false;
  const size_t i = Random() % later_.size();
  std::swap(later_[i], later_.back());
  const std::function<void()> work = std::move(later_.back());
  later_.pop_back();
  work();
  return true;
}

std::string Block::Waiting() const {
  std::map<std::string, std::vector<uint32_t>> by_reason;
  for (const Thread& thread : all_) {
    if (thread.ready != nullptr) by_reason[thread.waits_for].push_back(thread.flat);
  }
  std::string text;
  for (const auto& [reason, threads] : by_reason) {
    text += " " + std::to_string(threads.size()) + " threads (" + std::to_string(threads.front()) +
            " to " + std::to_string(threads.back()) + ") for " + reason + ";";
  }
  return text;
}

}  // namespace reprise::cuda::emulator
