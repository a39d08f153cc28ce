// What the threads of one emulated block share: shared memory, barriers, meetings of a warp, tensor
// core work and copies under way. Owned by the grid while the block runs; threads are fibers, so
// nothing here is entered by two at once.
//
// Invariants:
// 1. Everything asynchronous happens as late as the program allows or as early, as the seed has it:
//    a kernel that relies on luck gives other bits for another seed, or reads poison.
// 2. What a card would leave undefined is a Fault that names it.
#ifndef REPRISE_KERNELS_CUDA_EMULATOR_BLOCK_H_
#define REPRISE_KERNELS_CUDA_EMULATOR_BLOCK_H_

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/emulator/fiber.h"
#include "kernels/cuda/emulator/matrix_unit.h"
#include "kernels/cuda/emulator/shared_memory.h"

namespace reprise::cuda::emulator {

struct Dim3 {
  uint32_t x = 1;
  uint32_t y = 1;
  uint32_t z = 1;
  uint32_t count() const { return x * y * z; }
};

class Block;

// One thread of a kernel.
struct Thread {
  Block* block = nullptr;
  uint32_t flat = 0;  // in the block
  Dim3 index;
  std::unique_ptr<Fiber> fiber;
  // What it waits for; null while it can go on.
  const std::function<bool()>* ready = nullptr;
  const char* waits_for = "";

  uint32_t warp() const { return flat / 32; }
  uint32_t lane() const { return flat % 32; }
};

using LaneValues = std::array<uint64_t, 32>;

class Block {
 public:
  Block(Dim3 index, Dim3 threads, size_t shared_bytes, uint64_t seed);

  Dim3 index() const { return index_; }
  Dim3 threads() const { return threads_; }
  SharedMemory& shared() { return shared_; }
  uint64_t Random();

  // ---- of the calling thread ----

  // Lets others run until ready() holds.
  void WaitUntil(const char* what, const std::function<bool()>& ready);
  // Gives up the whole grid: does not return.
  [[noreturn]] void Fault(const std::string& why);

  // Of all threads that have not ended.
  void SyncAll();
  void NamedBarrier(uint32_t id, uint32_t threads, bool wait);
  // Lanes of `mask` show each other a value; all must come, to the same `what`.
  LaneValues Meet(uint32_t mask, uint64_t value, const char* what);

  void InitMbarrier(uint32_t address, uint32_t arrivals);
  void ArriveMbarrier(uint32_t address, uint32_t expect_bytes);
  bool PhaseEnded(uint32_t address, uint32_t parity);
  void WaitMbarrier(uint32_t address, uint32_t parity);
  // By the copy engine.
  void CompleteBytes(uint32_t address, uint32_t bytes);

  // Happens some time from now; in some blocks not before nothing else can.
  void Later(std::function<void()> work) { later_.push_back(std::move(work)); }

  // fence.proxy.async. It covers what other threads stored, too, which a card's need not.
  void FenceAsync() { shared_.Fence(); }

  // ---- matrix work ----

  MatrixUnit& matrix_unit(const Thread& thread) { return matrix_units_[thread.warp() / 4]; }
  void IssueMatrix(const MatrixOp& op);
  void CommitMatrix();
  // Until at most `left` of this thread's groups are under way.
  void WaitMatrix(size_t left);

  // ---- of the grid ----

  std::vector<Thread>& all() { return all_; }
  void ThreadEnded() { --live_; }
  uint32_t live() const { return live_; }
  bool copies_late() const { return copies_late_; }
  // A warp that goes on, but for luck, only when no other can: of a card, any may be so slow.
  bool Slow(uint32_t warp) const { return (slow_ >> warp & 1) != 0; }
  bool RunOneLater();  // false: nothing is under way
  // Who waits for what.
  std::string Waiting() const;

 private:
  struct Barrier {
    uint32_t expected = 0;
    uint32_t arrived = 0;
    uint64_t generation = 0;
  };
  struct Mbarrier {
    uint32_t arrivals = 0;  // a phase's
    int64_t pending = 0;
    int64_t bytes = 0;
    uint32_t phase = 0;
  };
  struct Meeting {
    uint32_t mask = 0;
    uint32_t arrived = 0;
    const char* what = "";
    LaneValues values = {};
  };
  Mbarrier& At(uint32_t address);
  bool ReleaseAll(uint64_t generation);
  void RunMatrix(MatrixUnit& unit, size_t groups);
  void EndPhase(Mbarrier& barrier);

  const Dim3 index_;
  const Dim3 threads_;
  SharedMemory shared_;
  uint64_t random_;
  bool lazy_;  // matrix work happens when somebody waits for it, not when it is committed
  bool copies_late_;
  uint32_t slow_;  // warps
  std::vector<Thread> all_;
  uint32_t live_ = 0;
  Barrier all_barrier_;
  std::array<Barrier, 16> barriers_;
  std::map<uint32_t, Mbarrier> mbarriers_;
  std::vector<std::vector<std::shared_ptr<Meeting>>> meetings_;  // by warp
  std::vector<MatrixUnit> matrix_units_;                         // by four warps
  std::vector<std::function<void()>> later_;
};

// The thread that runs now. Precondition: a kernel runs.
Thread& Here();

}  // namespace reprise::cuda::emulator

#endif  // REPRISE_KERNELS_CUDA_EMULATOR_BLOCK_H_
