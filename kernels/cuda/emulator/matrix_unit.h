// The tensor cores of a warpgroup: wgmma of bf16 into f32, from descriptors of shared memory and
// register fragments, in committed groups. One to four warps; owned by the block.
//
// Layouts are those of the PTX ISA 8.7, section 9.7.15 (asynchronous warpgroup level matrix
// instructions). Accumulation is a card's only in kind: 16 products are added to the accumulator at
// once, in double, and rounded once.
#ifndef REPRISE_KERNELS_CUDA_EMULATOR_MATRIX_UNIT_H_
#define REPRISE_KERNELS_CUDA_EMULATOR_MATRIX_UNIT_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/emulator/shared_memory.h"

namespace reprise::cuda::emulator {

// d (+)= a b, of 64 x n x 16, as one thread issues it.
struct MatrixOp {
  int n = 0;
  float* d = nullptr;           // [n / 2], this thread's
  const uint32_t* a = nullptr;  // [4], this thread's; null: a_descriptor
  uint64_t a_descriptor = 0;
  uint64_t b_descriptor = 0;
  bool a_mn_major = false;
  bool b_mn_major = false;
  bool accumulate = true;  // else d = a b
};

class MatrixUnit {
 public:
  static constexpr uint32_t kThreads = 128;

  // By thread `t` of the warpgroup.
  void Issue(uint32_t t, const MatrixOp& op) { threads_[t].open.push_back(op); }
  void Commit(uint32_t t);
  // Groups that thread t has committed.
  size_t committed(uint32_t t) const { return threads_[t].groups.size(); }
  // All threads have committed `groups` groups.
  bool Committed(size_t groups) const;
  // Runs groups until `groups` are done. Precondition: Committed(groups). Empty, or what is wrong.
  std::string RunUntil(size_t groups, const SharedMemory& shared);
  // Some thread has issued what it has not committed.
  bool open(uint32_t t) const { return !threads_[t].open.empty(); }

 private:
  struct ThreadOps {
    std::vector<MatrixOp> open;
    std::vector<std::vector<MatrixOp>> groups;
  };
  std::string Run(size_t group, size_t op, const SharedMemory& shared);

  std::array<ThreadOps, kThreads> threads_;
  size_t done_ = 0;
};

}  // namespace reprise::cuda::emulator

#endif  // REPRISE_KERNELS_CUDA_EMULATOR_MATRIX_UNIT_H_
