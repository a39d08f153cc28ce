#include "worker/engine/core/swap_plan.h"

#include <limits>

namespace reprise::worker {
namespace {

double Seconds(double amount, double per_s) {
  return per_s > 0 ? amount / per_s : std::numeric_limits<double>::infinity();
}

}  // namespace

SwapVerdict PlanSwapOut(const SwapOutInput& input) {
  if (input.slots_total == 0 || input.rows == 0) return SwapVerdict::kOff;
  const double swap_s =
      Seconds(static_cast<double>(input.pages) * input.page_bytes, input.swap_bytes_per_s);
  if (swap_s >= Seconds(static_cast<double>(input.rows), input.prefill_rows_per_s)) {
    return SwapVerdict::kSlow;
  }
  return input.slots_wanted > input.slots_free ? SwapVerdict::kSlots : SwapVerdict::kYes;
}

SwapVerdict PlanRotation(const RotationInput& input) {
  const size_t turns = input.turns.size();
  if (input.slots_total == 0 || turns < 2) return SwapVerdict::kOff;
  int64_t all = 0;
  bool hidden = true;
  for (size_t i = 0; i < turns; ++i) {
    const Microbatch& at = input.turns[i];
    if (at.pages + input.turns[(i + 1) % turns].pages > input.pool_pages) {
      return SwapVerdict::kRoom;
    }
    all += at.pages;
    const double moved = static_cast<double>(at.pages + at.sequences) * input.page_bytes;
    hidden &= Seconds(moved, input.swap_bytes_per_s) <= input.step_s;
  }
  if (all > input.slots_total) return SwapVerdict::kSlots;
  return hidden ? SwapVerdict::kYes : SwapVerdict::kSlow;
}

}  // namespace reprise::worker
