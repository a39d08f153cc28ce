// The emulated device's streams: what is queued happens at once, in the calling thread, unless the
// stream is being captured. Device memory is host memory.
#ifndef REPRISE_KERNELS_CUDA_EMULATOR_QUEUE_H_
#define REPRISE_KERNELS_CUDA_EMULATOR_QUEUE_H_

#include <functional>

#include "kernels/cuda/emulator/grid.h"

namespace reprise::cuda::emulator {

// A kernel. Returns a cudaError_t (device/runtime.h); a kernel that fails makes all later calls
// fail.
int Enqueue(void* stream, const GridShape& shape, std::function<void()> body);

// Clears a sticky error, as a new process would.
void ResetDevice();
// From the next kernel on the device has failed, with this cause: for tests of what becomes of its
// users.
void BreakDevice();

}  // namespace reprise::cuda::emulator

#endif  // REPRISE_KERNELS_CUDA_EMULATOR_QUEUE_H_
