// The attention kernel by itself: heads with keys of their own, or absorbed queries over latents.
// Owns its scratch; one thread.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_KERNEL_ATTENDER_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_KERNEL_ATTENDER_H_

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"
#include "worker/parallel/context/attender.h"

namespace reprise::parallel {

class KernelAttender final : public Attender {
 public:
  struct Options {
    int64_t heads = 1;
    float scale = 1;
    int64_t positions_max = 0;  // all key positions lie below
    kernels::ThreadPool* pool = nullptr;
  };
  KernelAttender(const kernels::CpuOps& ops, const Options& options)
      : ops_(ops), options_(options) {}

  void Attend(const kernels::PagedKv& kv, std::span<const kernels::AttentionItem> items) override;

 private:
  const kernels::CpuOps& ops_;
  const Options options_;
  std::vector<std::byte> scratch_;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_KERNEL_ATTENDER_H_
