#include "coordinator/planner/split.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/limits.h"

namespace reprise::planner {
namespace {

Status CheckPositive(const char* name, double value) {
  if (std::isfinite(value) && value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, ", it must be above 0"));
}

}  // namespace

Status ValidateSplitInput(const SplitInput& in) {
  if (in.machines < 1 || in.machines > static_cast<int>(limits::kNodesMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("machines is ", in.machines, ", the range is 1 to ", limits::kNodesMax));
  }
  if (in.layers < 1 || in.layers > limits::kLayersMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("layers is ", in.layers, ", the range is 1 to ", limits::kLayersMax));
  }
  RETURN_IF_ERROR(CheckPositive("machine_bytes", in.machine_bytes));
  RETURN_IF_ERROR(CheckPositive("weight_bytes_per_layer", in.weight_bytes_per_layer));
  RETURN_IF_ERROR(CheckPositive("prompt_kv_bytes_per_layer", in.prompt_kv_bytes_per_layer));
  RETURN_IF_ERROR(CheckPositive("new_kv_bytes_per_layer", in.new_kv_bytes_per_layer));
  RETURN_IF_ERROR(CheckPositive("prompt_s", in.prompt_s));
  RETURN_IF_ERROR(CheckPositive("token_s", in.token_s));
  RETURN_IF_ERROR(CheckPositive("new_tokens", in.new_tokens));
  if (!(in.stream_overhead >= 1 && in.stream_overhead < 2)) {
    return absl::InvalidArgumentError(
        absl::StrCat("stream_overhead is ", in.stream_overhead, ", the range is 1 to below 2"));
  }
  return absl::OkStatus();
}

double MixedSeconds(const SplitInput& in) {
  const double d = in.machines;
  return in.prompt_s + in.new_tokens * in.token_s + (d - 1) * (in.prompt_s - in.token_s) / d;
}

double SplitSeconds(const SplitInput& in, const Split& split) {
  const double d = in.machines;
  return std::max(in.new_tokens * d * in.token_s / split.token_machines,
                  in.stream_overhead * d * in.prompt_s / split.prompt_machines);
}

double WinRatioMin(int machines, double stream_overhead) {
  const double d = machines;
  const double divisor = d * (2 - stream_overhead) - 1;
  return divisor > 0 ? (d - 1) / divisor : std::numeric_limits<double>::infinity();
}

StatusOr<int> PromptMachinesMin(const SplitInput& in) {
  const double per_layer = in.prompt_kv_bytes_per_layer + in.weight_bytes_per_layer;
  const double layers_per_machine = std::floor(in.machine_bytes / per_layer);
  if (layers_per_machine < 1) {
    return absl::ResourceExhaustedError(absl::StrCat("one layer's weights and prompt KV take ",
                                                     per_layer, " bytes, a machine has ",
                                                     in.machine_bytes));
  }
  return static_cast<int>(std::ceil(in.layers / layers_per_machine));
}

StatusOr<int> TokenMachinesMin(const SplitInput& in) {
  const double kv = in.layers * (in.prompt_kv_bytes_per_layer + in.new_kv_bytes_per_layer);
  if (kv >= in.machine_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the KV of the microbatches in flight takes ",
                                                     kv, " bytes of every token machine, one has ",
                                                     in.machine_bytes));
  }
  const double machines =
      std::ceil(in.layers * in.weight_bytes_per_layer / (in.machine_bytes - kv));
  if (machines > static_cast<double>(limits::kNodesMax)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "weights need ", machines, " token machines, the limit is ", limits::kNodesMax));
  }
  return static_cast<int>(machines);
}

StatusOr<SplitPlan> PlanSplit(const SplitInput& in) {
  RETURN_IF_ERROR(ValidateSplitInput(in));
  SplitPlan plan;
  ASSIGN_OR_RETURN(plan.prompt_machines_min, PromptMachinesMin(in));
  ASSIGN_OR_RETURN(plan.token_machines_min, TokenMachinesMin(in));
  if (plan.prompt_machines_min + plan.token_machines_min > in.machines) {
    return absl::ResourceExhaustedError(absl::StrCat("a split needs ", plan.prompt_machines_min,
                                                     " prompt and ", plan.token_machines_min,
                                                     " token machines, there are ", in.machines));
  }
  const double prompt_work = in.stream_overhead * in.prompt_s;
  const double token_work = in.new_tokens * in.token_s;
  plan.ideal_token_machines = in.machines * token_work / (prompt_work + token_work);
  plan.ideal_prompt_machines = in.machines - plan.ideal_token_machines;
  plan.mixed_fits = plan.token_machines_min <= in.machines;
  plan.mixed_s = MixedSeconds(in);
  plan.win_ratio_min = WinRatioMin(in.machines, in.stream_overhead);
  // It falls and Ip rises with Dt, so the best feasible integer is a neighbour of the ideal, or the
  // feasible one nearest to it.
  plan.split_s = std::numeric_limits<double>::infinity();
  for (const double neighbour :
       {std::floor(plan.ideal_token_machines), std::ceil(plan.ideal_token_machines)}) {
    const int token = std::clamp(static_cast<int>(neighbour), plan.token_machines_min,
                                 in.machines - plan.prompt_machines_min);
    const Split split{in.machines - token, token};
    const double seconds = SplitSeconds(in, split);
    if (seconds < plan.split_s) {
      plan.split = split;
      plan.split_s = seconds;
    }
  }
  return plan;
}

}  // namespace reprise::planner
