// cos and sin of the rows of a step, kept from step to step for their memory. One thread.
#ifndef REPRISE_WORKER_MODEL_ROPE_ROWS_H_
#define REPRISE_WORKER_MODEL_ROPE_ROWS_H_

#include <cstdint>
#include <vector>

#include "kernels/ops.h"
#include "worker/model/model_config.h"
#include "worker/model/rope_frequencies.h"
#include "worker/model/step.h"

namespace reprise::worker {

class RopeRows {
 public:
  explicit RopeRows(const ModelConfig& config)
      : half_(config.rotary_dim() / 2),
        amplitude_(static_cast<float>(config.rope_scaling.amplitude)),
        inv_freq_(RopeInverseFrequencies(config)) {}

  void Reserve(int64_t rows) {
    for (RowBuffer* buffer : {&cos_, &sin_}) buffer->Rows(rows, half_);
  }

  // Valid until the next call.
  kernels::RopeTable Fill(const std::vector<int64_t>& positions) {
    const auto rows = static_cast<int64_t>(positions.size());
    const kernels::F32 cos = cos_.Rows(rows, half_);
    const kernels::F32 sin = sin_.Rows(rows, half_);
    kernels::FillRopeTable(positions.data(), rows, inv_freq_.data(), half_, cos.data, sin.data);
    if (amplitude_ != 1) {
      for (const kernels::F32& table : {cos, sin}) {
        for (int64_t i = 0; i < rows * half_; ++i) table.data[i] *= amplitude_;
      }
    }
    return {cos.data, sin.data, half_};
  }

 private:
  const int64_t half_;
  const float amplitude_;
  const std::vector<double> inv_freq_;
  RowBuffer cos_, sin_;  // [rows, half]
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_ROPE_ROWS_H_
