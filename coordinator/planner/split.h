// DejaVu's planner (arXiv 2403.01876, section 4.2.1 and appendix D): how many of D machines compute
// prompts and how many generate tokens, and whether the split beats the mixed pipeline. The paper's
// planner rounds the closed form up and asserts the memory bounds; this one searches the feasible
// integers. Pure functions over values; any thread.
#ifndef REPRISE_COORDINATOR_PLANNER_SPLIT_H_
#define REPRISE_COORDINATOR_PLANNER_SPLIT_H_

#include "common/status.h"

namespace reprise::planner {

// Times are of one microbatch on a pipeline as deep as all machines. KV is of one microbatch.
struct SplitInput {
  int machines = 0;                      // D
  double machine_bytes = 0;              // M
  int layers = 0;                        // L
  double weight_bytes_per_layer = 0;     // W
  double prompt_kv_bytes_per_layer = 0;  // C
  double new_kv_bytes_per_layer = 0;     // K
  double prompt_s = 0;                   // Y
  double token_s = 0;                    // t
  double new_tokens = 0;                 // N
  double stream_overhead = 1;            // m, 1 to 2: what streaming the KV away adds to a prompt
};

struct Split {
  int prompt_machines = 0;
  int token_machines = 0;
  bool operator==(const Split&) const = default;
};

struct SplitPlan {
  double ideal_prompt_machines = 0;  // Dp = D m Y / (m Y + N t)
  double ideal_token_machines = 0;   // Dt = D N t / (m Y + N t)
  int prompt_machines_min = 0;
  int token_machines_min = 0;
  bool mixed_fits = false;  // the mixed pipeline's memory, same bound as the token side's
  Split split;              // the feasible integers with the least split_s
  // Seconds for D microbatches: the mixed pipeline's Ic and the split's max(It, Ip).
  double mixed_s = 0;
  double split_s = 0;
  double win_ratio_min = 0;  // of Y / t, in the ideal; infinity: never
  double gain() const { return mixed_s / split_s; }
};

Status ValidateSplitInput(const SplitInput& input);

// Ic = Y + N t + (D - 1)(Y - t) / D
double MixedSeconds(const SplitInput& input);
// max(N D t / Dt, m D Y / Dp)
double SplitSeconds(const SplitInput& input, const Split& split);
// (D - 1) / (D (2 - m) - 1); infinity when the divisor is not positive.
double WinRatioMin(int machines, double stream_overhead);
// ceil(L / floor(M / (C + W))). RESOURCE_EXHAUSTED when one layer does not fit.
StatusOr<int> PromptMachinesMin(const SplitInput& input);
// ceil(L W / (M - L (C + K))). RESOURCE_EXHAUSTED when KV alone fills a machine, which more
// machines do not cure: a deeper pipeline keeps more microbatches in flight.
StatusOr<int> TokenMachinesMin(const SplitInput& input);

// RESOURCE_EXHAUSTED names the bound that no split of `machines` meets.
StatusOr<SplitPlan> PlanSplit(const SplitInput& input);

}  // namespace reprise::planner

#endif  // REPRISE_COORDINATOR_PLANNER_SPLIT_H_
