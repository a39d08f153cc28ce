// The parameters of reprise plan: flags, presets, a model folder, and what they mean to the planner
// library. Owned by the subcommand; one thread.
#ifndef REPRISE_CLI_PLAN_OPTIONS_H_
#define REPRISE_CLI_PLAN_OPTIONS_H_

#include <cstdint>
#include <string>

#include "common/flags.h"
#include "common/status.h"
#include "coordinator/planner/kv_layout.h"
#include "coordinator/planner/pipeline_model.h"
#include "coordinator/planner/split.h"
#include "coordinator/planner/swap.h"

namespace reprise::cli {

struct PlanOptions {
  std::string preset = "opt-66b";
  std::string model;  // a folder; wins over the preset
  // 0, or -1 where 0 means something: as the preset or the folder has it.
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t kv_layers = 0;
  int64_t head_dim = 0;
  int64_t latent = -1;
  int64_t rope = -1;
  int64_t element_bytes = 0;
  int64_t weight_bytes = 0;

  int64_t token_slots = 32'768;
  int64_t group = 4;
  int32_t machines = 4;
  int64_t machine_bytes = 160'000'000'000;
  int32_t batch = 1;
  int64_t prompt_tokens = 500;
  int64_t new_tokens = 1'000;
  double prompt_ms = 700;
  double token_ms = 50;
  double stream_overhead = 1.02;
  double link_gb_per_s = 24;
  int32_t microbatches = 400;
  double sigma = 0.8;
  int64_t seed = 1;
  bool json = false;

  void Declare(FlagSet& flags);
};

// The preset or the folder's config.json, then the flags over it; validated.
StatusOr<planner::ModelShape> PlanShape(const PlanOptions& options);

planner::SplitInput PlanSplitInput(const PlanOptions& options, const planner::ModelShape& shape);
planner::SwapInput PlanSwapInput(const PlanOptions& options, const planner::ModelShape& shape);
// Lengths are lognormal around new_tokens, or all new_tokens when sigma is 0.
planner::PipelineLoad PlanLoad(const PlanOptions& options);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_PLAN_OPTIONS_H_
