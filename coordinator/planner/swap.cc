#include "coordinator/planner/swap.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "common/limits.h"

namespace reprise::planner {
namespace {

constexpr int kResident = 2;
constexpr int kStagesMin = 4;
constexpr int kBatchMax = 1 << 20;

Status Validate(const SwapInput& in) {
  if (in.stages < 1 || in.stages > static_cast<int>(limits::kNodesMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("stages is ", in.stages, ", the range is 1 to ", limits::kNodesMax));
  }
  if (in.batch < 1 || in.batch > kBatchMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch is ", in.batch, ", the range is 1 to ", kBatchMax));
  }
  if (in.prompt_tokens < 1 || in.new_tokens < 1 || in.prompt_tokens > limits::kContextTokensMax ||
      in.new_tokens > limits::kContextTokensMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt_tokens is ", in.prompt_tokens, " and new_tokens ", in.new_tokens,
                     ", the range is 1 to ", limits::kContextTokensMax));
  }
  for (const double value : {in.kv_bytes_per_token, in.link_bytes_per_s, in.token_s}) {
    if (!std::isfinite(value) || value <= 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "kv_bytes_per_token, link_bytes_per_s and token_s must be above 0, found ", value));
    }
  }
  return absl::OkStatus();
}

Status Refusal(const SwapInput& in, const SwapPlan& plan) {
  if (in.stages < kStagesMin) {
    return absl::FailedPreconditionError(
        absl::StrCat("two resident microbatches of double batch take the room of ", kStagesMin,
                     " stages' microbatches, there are ", in.stages, " stages"));
  }
  if (plan.last_transfer_s <= in.token_s) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat(
      "at %d tokens a microbatch takes %.4g ms to swap in, a step takes %.4g ms; the link hides "
      "contexts up to %d tokens",
      in.prompt_tokens + in.new_tokens, plan.last_transfer_s * 1e3, in.token_s * 1e3,
      plan.hidden_tokens));
}

}  // namespace

double SwapTransferSeconds(const SwapInput& in, int64_t context_tokens) {
  return static_cast<double>(context_tokens) * 2 * in.batch * in.kv_bytes_per_token /
         in.link_bytes_per_s;
}

StatusOr<SwapPlan> PlanSwap(const SwapInput& in) {
  RETURN_IF_ERROR(Validate(in));
  SwapPlan plan;
  const int64_t longest = in.prompt_tokens + in.new_tokens;
  const double sequence_bytes =
      static_cast<double>(longest) * in.kv_bytes_per_token / in.stages;  // of one stage
  plan.last_transfer_s = SwapTransferSeconds(in, longest);
  plan.hidden_tokens = static_cast<int64_t>(
      std::min(in.token_s / SwapTransferSeconds(in, 1), static_cast<double>(INT64_MAX / 2)));
  plan.resident_bytes = kResident * 2 * in.batch * sequence_bytes;
  plan.unswapped_bytes = in.stages * in.batch * sequence_bytes;
  double swapped_s = 0;
  for (int64_t i = 1; i <= in.new_tokens; ++i) {
    swapped_s += std::max(in.token_s, SwapTransferSeconds(in, in.prompt_tokens + i));
  }
  plan.speedup = 2 * static_cast<double>(in.new_tokens) * in.token_s / swapped_s;
  plan.refusal = Refusal(in, plan);
  return plan;
}

}  // namespace reprise::planner
