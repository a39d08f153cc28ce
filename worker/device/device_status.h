// Errors of the device as Status. Pure.
#ifndef REPRISE_WORKER_DEVICE_DEVICE_STATUS_H_
#define REPRISE_WORKER_DEVICE_DEVICE_STATUS_H_

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "kernels/cuda/device/runtime.h"

namespace reprise::worker {

// RESOURCE_EXHAUSTED when its memory is spent. Anything else leaves a device that nothing can be
// computed on any more: UNAVAILABLE.
inline Status DeviceStatus(int error, absl::string_view what) {
  if (error == 0) return absl::OkStatus();
  const std::string text = absl::StrCat(what, ": ", cuda::ErrorText(error));
  return error == cuda::kErrorMemory ? absl::ResourceExhaustedError(text)
                                     : absl::UnavailableError(text);
}

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_DEVICE_STATUS_H_
