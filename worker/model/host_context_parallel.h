// A rank of a context-parallel group that computes on the CPU.
#ifndef REPRISE_WORKER_MODEL_HOST_CONTEXT_PARALLEL_H_
#define REPRISE_WORKER_MODEL_HOST_CONTEXT_PARALLEL_H_

#include <memory>
#include <utility>

#include "kernels/ops.h"
#include "worker/model/context_parallel.h"
#include "worker/parallel/context/host_context_compute.h"

namespace reprise::worker {

// Of a layer: this rank's pool, whose `layer` is the current one, and own rows.
struct HostContextCall {
  kernels::PagedKv kv;
  int64_t heads = 0;
  kernels::ConstF32 q;  // [own rows, heads * query_dim]
  kernels::F32 out;     // [own rows, heads * value_dim]
  parallel::Attender* attender = nullptr;
};

class HostContextParallel final : public ContextParallel {
 public:
  // Precondition: stripes are over the communicator's ranks.
  HostContextParallel(parallel::Communicator& communicator, const kernels::CpuOps& ops,
                      const parallel::Stripes& stripes, const parallel::ContextRules& rules)
      : HostContextParallel(communicator, std::make_unique<parallel::HostContextCompute>(ops),
                            stripes, rules) {}

  // key_macs: see CostShape.
  void AttendOnHost(Form form, const HostContextCall& call, double key_macs) {
    const int64_t value_dim = call.out.cols / call.heads;
    compute_.SetCall(call.kv, call.heads, value_dim, call.attender);
    Attend(form,
           {.pages = parallel::PagesOf(call.kv),
            .block_tokens = call.kv.block_tokens,
            .page_bytes = kernels::SegmentBytes(call.kv),
            .heads = call.heads,
            .query_dim = call.q.cols / call.heads,
            .value_dim = value_dim,
            .q = parallel::BytesOf(call.q),
            .out = parallel::BytesOf(call.out)},
           key_macs);
  }

 private:
  HostContextParallel(parallel::Communicator& communicator,
                      std::unique_ptr<parallel::HostContextCompute> compute,
                      const parallel::Stripes& stripes, const parallel::ContextRules& rules)
      : HostContextParallel(communicator, *compute, std::move(compute), stripes, rules) {}
  HostContextParallel(parallel::Communicator& communicator, parallel::HostContextCompute& compute,
                      std::unique_ptr<parallel::ContextCompute> owned,
                      const parallel::Stripes& stripes, const parallel::ContextRules& rules)
      : ContextParallel(communicator, std::move(owned), stripes, rules), compute_(compute) {}

  parallel::HostContextCompute& compute_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_HOST_CONTEXT_PARALLEL_H_
