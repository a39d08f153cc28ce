// Whether microbatch swapping pays (DejaVu, appendices E and G): every stage keeps the KV of two
// microbatches on its device, prefetches the next one's from host memory and writes the newest step
// back, so that the batch can double. Pure functions over values; any thread.
//
// A stage moves its 1/D of a microbatch's KV during its 1/D of a token's time, so the condition is
// the same for a stage and for the whole pipeline; here it is the pipeline's.
#ifndef REPRISE_COORDINATOR_PLANNER_SWAP_H_
#define REPRISE_COORDINATOR_PLANNER_SWAP_H_

#include <cstdint>

#include "common/status.h"

namespace reprise::planner {

struct SwapInput {
  int stages = 0;                 // D
  int batch = 0;                  // b: of a microbatch, what fits without swapping; doubled with it
  double kv_bytes_per_token = 0;  // C: one sequence, all layers
  double link_bytes_per_s = 0;    // host to device, of one stage
  double token_s = 0;             // t: of one microbatch through all stages, at b and at 2b
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;  // N
};

struct SwapPlan {
  double last_transfer_s = 0;  // at the longest context
  int64_t hidden_tokens = 0;   // contexts up to this many tokens hide behind a step
  double speedup = 0;          // 2 N t / sum over steps of max(t, transfer)
  double resident_bytes = 0;   // per stage: 2 microbatches of 2b at the longest context
  double unswapped_bytes = 0;  // per stage: D microbatches of b
  Status refusal;              // OK: swap. FAILED_PRECONDITION: why not, in numbers
  bool pays() const { return speedup >= 1; }
};

// i 2b C / bandwidth
double SwapTransferSeconds(const SwapInput& input, int64_t context_tokens);

// Refuses when two resident microbatches of 2b need more room than D of b, that is below 4 stages,
// and when the transfer of any step exceeds t: an exposed transfer delays every microbatch behind
// it. Errors only for values out of range.
StatusOr<SwapPlan> PlanSwap(const SwapInput& input);

}  // namespace reprise::planner

#endif  // REPRISE_COORDINATOR_PLANNER_SWAP_H_
