// Which experts each row goes to on the device (RouteArgs of kernels/ops.h): ids and weights have
// the CPU's bits. Device pointers, owned by the caller. Threads: any; work is queued on the stream.
#ifndef REPRISE_KERNELS_CUDA_ROUTE_H_
#define REPRISE_KERNELS_CUDA_ROUTE_H_

#include <cstdint>

#include "kernels/cuda/device/runtime.h"

namespace reprise::cuda {

inline constexpr int kRouteExpertsMax = 1024;

struct RouteArgs {
  const float* logits = nullptr;  // [rows, experts]
  int64_t logits_stride = 0;
  int64_t rows = 0;
  int experts = 0;              // at most kRouteExpertsMax
  bool sigmoid = false;         // else softmax
  const float* bias = nullptr;  // [experts] or null: of the choice alone
  int groups = 1;               // divides experts
  int groups_kept = 1;
  int per_row = 0;  // at most the experts of groups_kept groups
  bool normalize = false;
  float scale = 1;
  int32_t* ids = nullptr;    // [rows, per_row], ascending
  float* weights = nullptr;  // as ids
};

// 0: queued; a cudaError_t else, kErrorInvalidValue for what breaks a limit above.
int Route(const RouteArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_ROUTE_H_
