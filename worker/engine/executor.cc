#include "worker/engine/executor.h"

namespace reprise::worker {

Status Executor::RunAndSample(std::span<const StepItem> items, std::span<const StepSample> samples,
                              const LayerDone& layer_done, std::vector<SampledToken>* tokens) {
  tokens->clear();
  RETURN_IF_ERROR(Run(items, layer_done));
  tokens->reserve(samples.size());
  for (const StepSample& sample : samples) tokens->push_back(Sample(sample.item, sample.input));
  return absl::OkStatus();
}

}  // namespace reprise::worker
