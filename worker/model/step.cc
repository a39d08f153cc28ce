#include "worker/model/step.h"

namespace reprise::worker {
namespace {

constexpr int kRowParallelSlices = 8;

void Compute(StepContext& step, const kernels::LinearArgs& args) {
  step.ops.linear(step.scratch.With(kernels::LinearScratchBytes(args.x.rows, *args.weights)), args);
}

const float* BiasOrNull(const std::vector<float>& bias) {
  return bias.empty() ? nullptr : bias.data();
}

}  // namespace

void Linear(StepContext& step, const kernels::F32& x, const kernels::PackedWeights& weights,
            const std::vector<float>& bias, const kernels::F32& y) {
  Compute(step, {.x = x, .weights = &weights, .bias = BiasOrNull(bias), .residual = {}, .y = y});
}

void LinearRowParallel(StepContext& step, const kernels::F32& x,
                       const kernels::PackedWeights& weights, const std::vector<float>& bias,
                       const kernels::ConstF32& residual, const kernels::F32& y) {
  Compute(step, {.x = x,
                 .weights = &weights,
                 .bias = BiasOrNull(bias),
                 .residual = residual,
                 .k_slices = kRowParallelSlices,
                 .y = y});
}

void RunAttention::Attend(StepContext& step, std::span<const RowRun> runs, const kernels::F32& q,
                          const kernels::F32& out, const kernels::F32& lse) {
  segments_.clear();
  items_.clear();
  for (const RowRun& run : runs) {
    segments_.push_back({run.pages, run.first_position + run.rows, 0, kernels::MaskKind::kCausal});
  }
  for (size_t i = 0; i < runs.size(); ++i) {
    const RowRun& run = runs[i];
    const int64_t at = run.row - runs.front().row;
    items_.push_back({RowsAt(q, at, run.rows), run.first_position, &segments_[i], 1,
                      RowsAt(out, at, run.rows), lse.row(at)});
  }
  step.ops.attention(step.scratch.With(ScratchBytes(step)),
                     {.kv = step.kv,
                      .q_heads = heads_,
                      .scale = scale_,
                      .items = items_.data(),
                      .n_items = static_cast<int64_t>(items_.size())});
}

}  // namespace reprise::worker
