// A discrete-event model of pipelines with FIFO stages, in DejaVu's setting: static microbatches,
// no chunked prefill, a finished microbatch is replaced at once. It tells what the closed form of
// split.h cannot: the cost of prompts that arrive while other microbatches generate. Pure functions
// over values; any thread.
//
// Choices, which docs/planner.md repeats:
// 1. D stages; a prompt takes Y/D and a token t/D on each. On p prompt machines a prompt takes m
// Y/p
//    on each, on d token machines a token takes t/d: the work stays, the slices grow.
// 2. As many microbatches are in flight as the pipeline has stages; all the load is there at time 0
//    and starts in order. Handing a prompt's KV over takes no time beyond m.
// 3. A microbatch of n tokens takes one prompt pass and n token passes.
#ifndef REPRISE_COORDINATOR_PLANNER_PIPELINE_MODEL_H_
#define REPRISE_COORDINATOR_PLANNER_PIPELINE_MODEL_H_

#include <cstdint>
#include <vector>

#include "coordinator/planner/split.h"

namespace reprise::planner {

struct PipelineLoad {
  double prompt_s = 0;          // Y
  double token_s = 0;           // t
  double stream_overhead = 1;   // m, of the split only
  std::vector<int> new_tokens;  // of each microbatch, >= 1
};

// Seconds until the last microbatch ends. `stages`, both parts of `split` >= 1.
double SimulateMixed(int stages, const PipelineLoad& load);
double SimulateSplit(const Split& split, const PipelineLoad& load);

struct SimulatedGain {
  Split split;  // the one of all splits that ends first
  double mixed_s = 0;
  double split_s = 0;
  double gain() const { return mixed_s / split_s; }
};
// `machines` >= 2.
SimulatedGain SimulateBestSplit(int machines, const PipelineLoad& load);

struct LengthOptions {
  int count = 400;
  double mean = 100;   // of the distribution before rounding and capping
  double sigma = 0.8;  // of the logarithm
  int tokens_max = 1000;
  uint64_t seed = 1;
};
// Lognormal, rounded, between 1 and tokens_max; the same on every machine.
std::vector<int> LognormalLengths(const LengthOptions& options);

}  // namespace reprise::planner

#endif  // REPRISE_COORDINATOR_PLANNER_PIPELINE_MODEL_H_
