// Runs a kernel's grid on the CPU: every thread a fiber, some blocks at a time, in an order drawn
// from the seed. For proving kernels where there is no card: what they compute, and that their
// barriers, copies and matrix work do not rely on luck. One grid at a time per operating-system
// thread.
#ifndef REPRISE_KERNELS_CUDA_EMULATOR_GRID_H_
#define REPRISE_KERNELS_CUDA_EMULATOR_GRID_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "kernels/cuda/emulator/block.h"

namespace reprise::cuda::emulator {

struct GridShape {
  Dim3 grid;
  Dim3 block;
  size_t shared_bytes = 0;
};

inline constexpr size_t kSharedBytesMax = 232448;  // a block's, on compute capability 9.0
inline constexpr uint32_t kBlockThreadsMax = 1024;

// Of the grids that this thread runs from now on.
void SetSeed(uint64_t seed);

// `body` is run by every thread of the grid. Empty, or what a card would have done wrong: a
// deadlock with who waits for what, or a fault.
std::string RunGrid(const GridShape& shape, const std::function<void()>& body);

// Of the last grid of this thread that failed; kept until it is asked for.
std::string TakeFailure();

Dim3 GridDim();
// Gives up the grid: leaves the calling thread of the kernel by an exception, which runs
// destructors, and every other one when it goes on.
[[noreturn]] void FaultGrid(const std::string& why);
void LeaveIfFaulted();

}  // namespace reprise::cuda::emulator

#endif  // REPRISE_KERNELS_CUDA_EMULATOR_GRID_H_
