// The emulated device's streams: what is queued happens in the thread that queues or awaits it, as
// early or as late as the program allows: at once, or when somebody waits for it (a stream, an
// event, memory that is freed). What the first hides, a host that reads or overwrites what is still
// under way, streams that do not wait for each other, shows as poison or other bits in the second.
// Device memory is host memory.
#ifndef REPRISE_KERNELS_CUDA_EMULATOR_QUEUE_H_
#define REPRISE_KERNELS_CUDA_EMULATOR_QUEUE_H_

#include <functional>

#include "kernels/cuda/emulator/grid.h"

namespace reprise::cuda::emulator {

// A kernel. Returns a cudaError_t (device/runtime.h); a kernel that fails makes all later calls
// fail.
int Enqueue(void* stream, const GridShape& shape, std::function<void()> body);

// From now on, for all streams: at once (false, as it begins) or late.
void SetLate(bool late);

// Clears a sticky error, as a new process would.
void ResetDevice();
// From the next kernel on the device has failed, with this cause: for tests of what becomes of its
// users.
void BreakDevice();

}  // namespace reprise::cuda::emulator

#endif  // REPRISE_KERNELS_CUDA_EMULATOR_QUEUE_H_
