// How a rank of a context-parallel group computes its part of a step: every rank runs the same
// forward pass on the rows at positions it owns (worker/parallel/context/stripes.h), keeps their
// KV, and attends together with the others. Logits come out on the rank that owns their row, in the
// bits one rank alone would have made. Owned by whoever runs the rank, outlives its use by a model;
// one thread.
//
// Invariants:
// 1. All ranks are given the same steps, page tables aside: those are each rank's own, a row of the
//    cache being Stripes::LocalRow of its position.
// 2. A layer is one exchange (latents: one for each form that the step has), in which a rank
//    without rows takes part.
// 3. After an error nothing a forward pass gives is to be used; status() keeps the first.
#ifndef REPRISE_WORKER_MODEL_CONTEXT_PARALLEL_H_
#define REPRISE_WORKER_MODEL_CONTEXT_PARALLEL_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "worker/parallel/communicator.h"
#include "worker/parallel/context/context_attention.h"

namespace reprise::worker {

// Rows of one sequence and form that all ranks compute together.
struct SharedRun {
  int64_t first_position = 0;
  int64_t rows = 0;
  const int32_t* pages = nullptr;  // this rank's
  int64_t row = 0;                 // where this rank's part begins in its step
  bool prompt = true;
};

enum class Form : uint8_t { kBoth, kPrompt, kStep };

class ContextParallel {
 public:
  // Precondition: stripes are over the communicator's ranks.
  ContextParallel(parallel::Communicator& communicator,
                  std::unique_ptr<parallel::ContextCompute> compute,
                  const parallel::Stripes& stripes, const parallel::ContextRules& rules)
      : rank_(communicator.rank()),
        rules_(rules),
        compute_(std::move(compute)),
        attention_(communicator, *compute_, stripes, RealClock()) {}

  int rank() const { return rank_; }
  const parallel::Stripes& stripes() const { return attention_.stripes(); }
  bool Owns(int64_t position) const { return stripes().OwnerOfPosition(position) == rank_; }
  const Status& status() const { return status_; }
  const parallel::ContextStats& stats() const { return attention_.stats(); }

  // Of the step that follows: all its exchanges end by then.
  void SetDeadline(TimeNs deadline_ns) { deadline_ns_ = deadline_ns; }
  // The queries of the layers that follow.
  void SetQueries(std::vector<SharedRun> runs);
  // Whether any rank has rows of this form.
  bool Has(Form form) const;
  // Rows of the form, of call.q into call.out; call.plan is left open. key_macs: see CostShape.
  void Attend(Form form, parallel::ContextCall call, double key_macs);

 private:
  const parallel::ContextPlan& PlanFor(Form form, const parallel::ContextCall& call,
                                       double key_macs);

  const int rank_;
  const parallel::ContextRules rules_;
  const std::unique_ptr<parallel::ContextCompute> compute_;
  parallel::ContextAttention attention_;
  Status status_;
  TimeNs deadline_ns_ = INT64_MAX;
  std::vector<SharedRun> runs_;
  std::array<std::optional<parallel::ContextPlan>, 3> plans_;  // by form, of runs_
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_CONTEXT_PARALLEL_H_
