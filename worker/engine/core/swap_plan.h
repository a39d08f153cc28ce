// Whether sequences may leave the pool for host memory and disk and come back. Pure; any thread.
//
// A sequence that gives its pages up (PlanSwapOut) is copied out when there are slots and when
//
//   pages x page bytes / swap rate < rows / prefill rate
//
// that is when coming back costs less than computing it again.
//
// More sequences than the pool holds run at a time (PlanRotation) when they take turns as
// microbatches: while one computes, the next one's pages come in and those of the last one go out
// (DejaVu, arXiv 2403.01876, section 4.2.2). With p_g pages and s_g sequences in microbatch g, all
// at their longest:
//
//   room    p_g + p_next(g) <= pool pages, for every g           two microbatches are resident
//   slots   sum of p_g <= slots                                  copies of all are kept
//   hidden  (p_g + s_g) x page bytes / swap rate <= step         all of one comes in, the newest
//                                                                block of each sequence goes out
#ifndef REPRISE_WORKER_ENGINE_CORE_SWAP_PLAN_H_
#define REPRISE_WORKER_ENGINE_CORE_SWAP_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace reprise::worker {

enum class SwapVerdict : uint8_t {
  kYes,
  kOff,    // nowhere to swap to, or nobody to take turns with
  kSlots,  // host memory and disk are full
  kRoom,   // two microbatches do not fit into the pool
  kSlow,   // computing is faster; the link cannot hide the copies behind a step
};

struct SwapOutInput {
  int64_t slots_total = 0;
  int64_t slots_free = 0;
  int64_t slots_wanted = 0;  // for blocks without a copy
  int64_t pages = 0;         // to come back
  int64_t rows = 0;          // to be computed instead
  double page_bytes = 0;
  double swap_bytes_per_s = 0;
  double prefill_rows_per_s = 0;
};
SwapVerdict PlanSwapOut(const SwapOutInput& input);

struct Microbatch {
  int64_t pages = 0;
  int64_t sequences = 0;
};
struct RotationInput {
  std::vector<Microbatch> turns;  // in the order of their turns
  int64_t pool_pages = 0;
  int64_t slots_total = 0;
  double page_bytes = 0;
  double swap_bytes_per_s = 0;
  double step_s = 0;  // of one microbatch; 0: not known yet, so nothing is known to be hidden
};
SwapVerdict PlanRotation(const RotationInput& input);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_SWAP_PLAN_H_
