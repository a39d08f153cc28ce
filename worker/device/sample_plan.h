// The samples of a step as the sampling kernel takes them (kernels/cuda/sample.h). Planned on the
// host before the step runs: parameters by row of logits, and what penalties, biases and bars do to
// single tokens. Owned by the DeviceStep; one thread.
//
// Invariants:
// 1. Row o of the logits is output o; where an output is sampled more than once, or is wanted on
//    the host besides, copies of it stand behind all outputs, because the kernel changes what it
//    samples.
// 2. What the kernel does not do is left to the host, alone: biases that name a token twice, and
//    more alternatives than kSampledTopMax. Its row stays as the model gave it.
#ifndef REPRISE_WORKER_DEVICE_SAMPLE_PLAN_H_
#define REPRISE_WORKER_DEVICE_SAMPLE_PLAN_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/limits.h"
#include "kernels/cuda/sample.h"
#include "worker/engine/executor.h"

namespace reprise::worker {

// Alternatives that there is room for in every row.
inline constexpr int32_t kSampledTopMax = limits::kTopLogprobsMax;

class SamplePlan {
 public:
  struct Place {
    int64_t output = 0;
    int64_t row = -1;  // that the kernel samples; -1: sampled on the host
  };

  // `output_of` says which output an item gives. `outputs` rows of logits are computed, which may
  // be more than the items give. Nothing of the samples is kept.
  void Plan(std::span<const StepSample> samples, std::span<const int64_t> output_of,
            int64_t outputs);

  const std::vector<cuda::SampleRow>& rows() const { return rows_; }    // outputs, then copies
  const std::vector<cuda::TokenEdit>& edits() const { return edits_; }  // of all rows
  const std::vector<int32_t>& copied() const { return copied_; }        // output of each copy
  const std::vector<int64_t>& on_host() const { return on_host_; }      // outputs, ascending
  const Place& place(size_t sample) const { return places_[sample]; }

 private:
  void PlanRow(const SampleInput& input, cuda::SampleRow* row);

  std::vector<Place> places_;  // by sample
  std::vector<cuda::SampleRow> rows_;
  std::vector<cuda::TokenEdit> edits_;
  std::vector<int32_t> copied_;
  std::vector<int64_t> on_host_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_SAMPLE_PLAN_H_
