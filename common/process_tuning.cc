#include "common/process_tuning.h"

#include <malloc.h>

#include "absl/synchronization/mutex.h"

namespace reprise {
namespace {

constexpr int kMiB = 1 << 20;

}  // namespace

void TuneProcess() {
  mallopt(M_TRIM_THRESHOLD, 64 * kMiB);  // free memory kept at the top of the heap
  mallopt(M_TOP_PAD, 4 * kMiB);          // taken from the kernel at a time
  mallopt(M_MMAP_THRESHOLD, 32 * kMiB);  // blocks from here on come from the kernel one by one
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
}

}  // namespace reprise
