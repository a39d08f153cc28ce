// NcclDevice by libnccl and the CUDA runtime; exists under --config=cuda only. The caller owns it.
// Any thread.
#ifndef REPRISE_WORKER_PARALLEL_NCCL_REAL_NCCL_H_
#define REPRISE_WORKER_PARALLEL_NCCL_REAL_NCCL_H_

#include <memory>

#include "worker/parallel/nccl/nccl_api.h"

namespace reprise::parallel {

// The card of that number. UNAVAILABLE when there is none, naming CUDA's error, and
// without NCCL's library, which is loaded here.
StatusOr<std::unique_ptr<NcclDevice>> OpenNcclDevice(int device);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_NCCL_REAL_NCCL_H_
