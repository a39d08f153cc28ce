#include "kernels/cuda/emulator/grid.h"

#include <xmmintrin.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

namespace reprise::cuda::emulator {
namespace {

// Blocks that run side by side, so that what they do to each other shows.
constexpr size_t kResident = 3;
// Denormals are flushed, as the kernels are compiled to on a card.
constexpr unsigned kFlush = 0x8040;

struct Grid {
  GridShape shape;
  const std::function<void()>* body = nullptr;
  Thread* here = nullptr;
  std::string fault;
};

thread_local Grid* grid = nullptr;
thread_local uint64_t next_seed = 1;
thread_local std::string failure;

struct GivenUp {};

void RunThread(void*) {
  try {
    (*grid->body)();
  } catch (const GivenUp&) {
  }
}

std::string Check(const GridShape& shape) {
  const uint32_t threads = shape.block.count();
  if (threads == 0 || threads > kBlockThreadsMax) {
    return "a block of " + std::to_string(threads) + " threads, 1 to " +
           std::to_string(kBlockThreadsMax);
  }
  if (shape.shared_bytes > kSharedBytesMax) {
    return std::to_string(shape.shared_bytes) + " bytes of shared memory, the limit is " +
           std::to_string(kSharedBytesMax);
  }
  return "";
}

class Resident {
 public:
  Resident(Dim3 index, const GridShape& shape, uint64_t seed)
      : block_(std::make_unique<Block>(index, shape.block, shape.shared_bytes, seed)) {
    order_.resize(shape.block.count());
    std::iota(order_.begin(), order_.end(), 0U);
    for (Thread& thread : block_->all()) {
      thread.fiber = std::make_unique<Fiber>(&RunThread, nullptr);
    }
  }
  bool ended() const { return ended_; }
  const Block& block() const { return *block_; }

  // Every thread that can go on does, once; whether anything happened. Slow warps come last.
  // After a fault.
  void Abandon() {
    for (Thread& thread : block_->all()) {
      if (!thread.fiber->started() || thread.fiber->ended()) continue;
      grid->here = &thread;
      thread.fiber->Resume();
    }
  }

  bool Turn() {
    // Another warp first each time: any order is right on a card.
    std::rotate(order_.begin(),
                order_.begin() + static_cast<int64_t>(block_->Random() % order_.size()),
                order_.end());
    bool progress = Resume(false);
    if (!grid->fault.empty()) return true;
    if (!progress || block_->Random() % 32 == 0) progress |= Resume(true);
    if (!grid->fault.empty()) return true;
    ended_ = block_->live() == 0;
    return ended_ || progress || block_->RunOneLater();
  }

 private:
  static constexpr uint32_t kWarpThreads = 32;

  // The slow warps or the others.
  bool Resume(bool slow) {
    bool progress = false;
    for (const uint32_t i : order_) {
      Thread& thread = block_->all()[i];
      if (block_->Slow(i / kWarpThreads) != slow || thread.fiber->ended()) continue;
      if (thread.ready != nullptr && !(*thread.ready)()) continue;
      grid->here = &thread;
      thread.fiber->Resume();
      if (!grid->fault.empty()) return true;
      if (thread.fiber->ended()) block_->ThreadEnded();
      progress = true;
      if (!block_->copies_late() && block_->Random() % 64 == 0) block_->RunOneLater();
    }
    return progress;
  }

  std::unique_ptr<Block> block_;
  std::vector<uint32_t> order_;
  bool ended_ = false;
};

std::string Deadlock(const std::vector<Resident>& resident) {
  std::string text = "deadlock:";
  for (const Resident& block : resident) {
    const Dim3 at = block.block().index();
    text += " block (" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " +
            std::to_string(at.z) + "):" + block.block().Waiting();
  }
  return text;
}

// Until all have ended, or one has faulted.
void RunBlocks(Grid& g, uint64_t seed, std::vector<Resident>& resident) {
  const Dim3 blocks = g.shape.grid;
  uint32_t next = 0;
  while (g.fault.empty() && (next < blocks.count() || !resident.empty())) {
    while (resident.size() < kResident && next < blocks.count()) {
      resident.emplace_back(
          Dim3{next % blocks.x, next / blocks.x % blocks.y, next / (blocks.x * blocks.y)}, g.shape,
          seed + next);
      ++next;
    }
    bool progress = false;
    for (Resident& block : resident) {
      progress |= block.Turn();
      if (!g.fault.empty()) return;
    }
    if (!progress) {
      g.fault = Deadlock(resident);
      return;
    }
    std::erase_if(resident, [](const Resident& block) { return block.ended(); });
  }
}

}  // namespace

void SetSeed(uint64_t seed) { next_seed = seed; }

std::string RunGrid(const GridShape& shape, const std::function<void()>& body) {
  Grid g{shape, &body, nullptr, Check(shape)};
  if (g.fault.empty()) {
    grid = &g;
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | kFlush);
    next_seed += 0x1000;
    std::vector<Resident> resident;
    RunBlocks(g, next_seed << 20, resident);
    for (Resident& block : resident) block.Abandon();
    _mm_setcsr(before);
    grid = nullptr;
  }
  if (!g.fault.empty()) {
    std::fprintf(stderr, "emulated kernel: %s\n", g.fault.c_str());
    failure = g.fault;
  }
  return g.fault;
}

std::string TakeFailure() { return std::exchange(failure, ""); }

Thread& Here() { return *grid->here; }
Dim3 GridDim() { return grid->shape.grid; }

void FaultGrid(const std::string& why) {
  const Thread& here = *grid->here;
  const Dim3 at = here.block->index();
  grid->fault = why + " (block " + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " +
                std::to_string(at.z) + ", thread " + std::to_string(here.flat) + ")";
  throw GivenUp{};
}

void LeaveIfFaulted() {
  if (!grid->fault.empty()) throw GivenUp{};
}

}  // namespace reprise::cuda::emulator
