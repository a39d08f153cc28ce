#include "worker/device/sample_plan.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"

namespace reprise::worker {
namespace {

bool OnHost(const SamplingParams& params) {
  if (params.top_logprobs > kSampledTopMax) return true;
  absl::flat_hash_set<int32_t> biased;
  return std::any_of(params.logit_bias.begin(), params.logit_bias.end(),
                     [&](const auto& bias) { return !biased.insert(bias.first).second; });
}

// What becomes of single tokens, each named once.
std::vector<cuda::TokenEdit> EditsOf(const SampleInput& input) {
  const SamplingParams& p = *input.params;
  std::vector<cuda::TokenEdit> edits;
  absl::flat_hash_map<int32_t, size_t> place_of;
  const auto edit = [&](int32_t id) -> cuda::TokenEdit& {
    const auto [place, is_new] = place_of.try_emplace(id, edits.size());
    if (is_new) edits.push_back({.id = id});
    return edits[place->second];
  };
  const bool repetition = p.repetition_penalty != 1;
  if (repetition) {
    for (const int32_t id : input.prompt) ++edit(id).prompt;
  }
  if (repetition || p.presence_penalty != 0 || p.frequency_penalty != 0) {
    for (const int32_t id : input.generated) ++edit(id).output;
  }
  for (const auto& [id, bias] : p.logit_bias) edit(id).bias = bias;
  if (static_cast<int64_t>(input.index) < p.min_tokens) {
    for (const int32_t id : p.stop_ids) edit(id).barred = 1;
    for (const int32_t id : p.eos_ids) edit(id).barred = 1;
  }
  return edits;
}

}  // namespace

void SamplePlan::PlanRow(const SampleInput& input, cuda::SampleRow* row) {
  const SamplingParams& p = *input.params;
  const std::vector<cuda::TokenEdit> edits = EditsOf(input);
  *row = {.seed = p.seed,
          .index = input.index,
          .branch = input.branch,
          .temperature = p.temperature,
          .top_k = p.top_k,
          .top_p = p.top_p,
          .min_p = p.min_p,
          .repetition = p.repetition_penalty,
          .presence = p.presence_penalty,
          .frequency = p.frequency_penalty,
          .first_edit = static_cast<int64_t>(edits_.size()),
          .edits = static_cast<int32_t>(edits.size()),
          .top = p.top_logprobs};
  edits_.insert(edits_.end(), edits.begin(), edits.end());
}

void SamplePlan::Plan(std::span<const StepSample> samples, std::span<const int64_t> output_of,
                      int64_t outputs) {
  places_.clear();
  edits_.clear();
  copied_.clear();
  on_host_.clear();
  rows_.assign(static_cast<size_t>(outputs), {.on_host = 1});
  std::vector<uint8_t> taken(static_cast<size_t>(outputs));
  for (const StepSample& sample : samples) {
    const int64_t output = output_of[sample.item];
    places_.push_back({output, -1});
    uint8_t& here = taken[static_cast<size_t>(output)];
    if (!OnHost(*sample.input.params) || here != 0) continue;
    here = 1;
    on_host_.push_back(output);
  }
  std::sort(on_host_.begin(), on_host_.end());
  for (size_t i = 0; i < samples.size(); ++i) {
    if (OnHost(*samples[i].input.params)) continue;
    Place& place = places_[i];
    place.row = place.output;
    if (taken[static_cast<size_t>(place.output)] != 0) {
      place.row = static_cast<int64_t>(rows_.size());
      rows_.emplace_back();
      copied_.push_back(static_cast<int32_t>(place.output));
    }
    taken[static_cast<size_t>(place.output)] = 1;
    PlanRow(samples[i].input, &rows_[static_cast<size_t>(place.row)]);
  }
}

}  // namespace reprise::worker
