#include "worker/model/feed_forward.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/limits.h"

namespace reprise::worker {
namespace {

using kernels::ConstF32;
using kernels::F32;

static_assert(limits::kExpertsMax <= kernels::kExpertsMax);

}  // namespace

void FeedForward::Reserve(StepContext& step, const LayerWeights& layer, int64_t rows) {
  const auto reserve = [&](const MlpWeights& w) {
    gate_up_.Rows(rows, w.gate_up.matrix.n());
    for (const Projection* p : {&w.gate_up, &w.down}) {
      step.scratch.Reserve(kernels::LinearScratchBytes(rows, p->matrix));
    }
  };
  if (layer.mlp) return reserve(*layer.mlp);
  const MixtureWeights& w = *layer.mixture;
  reserve(w.experts.front());
  if (w.shared) reserve(*w.shared);
  logits_.Rows(rows, config_.mixture->experts);
  for (RowBuffer* buffer : {&sum_, &taken_, &out_}) buffer->Rows(rows, config_.hidden);
  step.scratch.Reserve(kernels::LinearScratchBytes(rows, w.gate));
}

void FeedForward::Add(StepContext& step, const LayerWeights& layer, F32 normed, F32 x) {
  if (layer.mlp) return Mlp(step, *layer.mlp, normed, x, x);
  AddMixture(step, *layer.mixture, normed, x);
}

void FeedForward::Mlp(StepContext& step, const MlpWeights& w, F32 x, ConstF32 residual, F32 y) {
  const int64_t both = w.gate_up.matrix.n();
  const F32 gate_up = gate_up_.Rows(x.rows, both);
  Linear(step, x, w.gate_up.matrix, w.gate_up.bias, gate_up);
  const F32 gate = Columns(gate_up, 0, both / 2);
  step.ops.swiglu(step.scratch.None(), gate, Columns(gate_up, both / 2, both / 2), gate);
  LinearRowParallel(step, gate, w.down, residual, y);
}

void FeedForward::RouteRows(StepContext& step, const MixtureWeights& w, F32 normed) {
  const ExpertMixture& m = *config_.mixture;
  const F32 logits = logits_.Rows(normed.rows, m.experts);
  Linear(step, normed, w.gate, {}, logits);
  const auto choices = static_cast<size_t>(normed.rows * m.per_token);
  if (ids_.size() < choices) {
    ids_.resize(choices);
    weights_.resize(choices);
  }
  step.ops.route(step.scratch.None(),
                 {.logits = logits,
                  .gating = m.sigmoid ? kernels::Gating::kSigmoid : kernels::Gating::kSoftmax,
                  .bias = w.bias.empty() ? nullptr : w.bias.data(),
                  .groups = m.groups,
                  .groups_kept = m.groups_kept,
                  .per_row = m.per_token,
                  .normalize = m.normalize,
                  .scale = static_cast<float>(m.scale),
                  .ids = ids_.data(),
                  .weights = weights_.data()});
  rows_of_.resize(static_cast<size_t>(m.experts));
  weights_of_.resize(static_cast<size_t>(m.experts));
  for (auto& rows : rows_of_) rows.clear();
  for (auto& weights : weights_of_) weights.clear();
  for (size_t i = 0; i < choices; ++i) {
    const auto expert = static_cast<size_t>(ids_[i]);
    rows_of_[expert].push_back(static_cast<int32_t>(i) / static_cast<int32_t>(m.per_token));
    weights_of_[expert].push_back(weights_[i]);
  }
}

void FeedForward::RunExpert(StepContext& step, const MixtureWeights& w, int64_t expert, F32 normed,
                            F32 out) {
  const std::vector<int32_t>& rows = rows_of_[static_cast<size_t>(expert)];
  const F32 taken = taken_.Rows(out.rows, config_.hidden);
  for (int64_t i = 0; i < out.rows; ++i) {
    std::memcpy(taken.row(i), normed.row(rows[static_cast<size_t>(i)]),
                static_cast<size_t>(config_.hidden) * sizeof(float));
  }
  Mlp(step, w.experts[static_cast<size_t>(expert - w.own.begin)], taken, {}, out);
}

F32 FeedForward::RunExpertsOnRanks(StepContext& step, const MixtureWeights& w, F32 normed) {
  const int ranks = step.tensor.communicator->size();
  const size_t experts = rows_of_.size();
  first_row_.assign(1, 0);
  for (const auto& rows : rows_of_) {
    first_row_.push_back(first_row_.back() + static_cast<int64_t>(rows.size()));
  }
  const auto rows_at = [this](int64_t expert) { return first_row_[static_cast<size_t>(expert)]; };
  const auto row_bytes = static_cast<size_t>(config_.hidden) * sizeof(float);
  std::vector<size_t> sizes;
  for (int rank = 0; rank < ranks; ++rank) {
    const parallel::Chunk theirs = parallel::ChunkOf(experts, rank, ranks);
    sizes.push_back(static_cast<size_t>(first_row_[theirs.end] - first_row_[theirs.begin]) *
                    row_bytes);
  }
  const int64_t first = rows_at(w.own.begin);
  const F32 own = own_out_.Rows(rows_at(w.own.end) - first, config_.hidden);
  for (int64_t expert = w.own.begin; expert < w.own.end; ++expert) {
    const int64_t rows = rows_at(expert + 1) - rows_at(expert);
    if (rows > 0) RunExpert(step, w, expert, normed, RowsAt(own, rows_at(expert) - first, rows));
  }
  const F32 all = all_out_.Rows(first_row_.back(), config_.hidden);
  if (step.status.ok()) {
    step.status = step.tensor.communicator->AllGather(
        {reinterpret_cast<const uint8_t*>(own.data), static_cast<size_t>(own.rows) * row_bytes},
        sizes, {reinterpret_cast<uint8_t*>(all.data), static_cast<size_t>(all.rows) * row_bytes},
        step.tensor.deadline_ns);
  }
  return all;
}

// Experts one after the other, so that each one's weights are read once a step and every row adds
// its experts with ascending ids.
void FeedForward::AddMixture(StepContext& step, const MixtureWeights& w, F32 normed, F32 x) {
  RouteRows(step, w, normed);
  const F32 sum = sum_.Rows(normed.rows, config_.hidden);
  std::fill_n(sum.data, normed.rows * config_.hidden, 0.0F);
  const bool on_ranks = w.own.size() < config_.mixture->experts;
  F32 all;
  if (on_ranks) all = RunExpertsOnRanks(step, w, normed);
  int64_t done = 0;
  for (size_t expert = 0; expert < rows_of_.size(); ++expert) {
    const auto rows = static_cast<int64_t>(rows_of_[expert].size());
    if (rows == 0) continue;
    const F32 out = on_ranks ? RowsAt(all, done, rows) : out_.Rows(rows, config_.hidden);
    if (!on_ranks) RunExpert(step, w, static_cast<int64_t>(expert), normed, out);
    step.ops.add_scaled(step.scratch.None(),
                        {out, rows_of_[expert].data(), weights_of_[expert].data(), sum});
    done += rows;
  }
  if (w.shared) Mlp(step, *w.shared, normed, x, x);
  // x + sum, each row with weight one.
  ids_.resize(std::max(ids_.size(), static_cast<size_t>(normed.rows)));
  weights_.resize(ids_.size());
  std::iota(ids_.begin(), ids_.begin() + normed.rows, 0);
  std::fill_n(weights_.begin(), normed.rows, 1.0F);
  step.ops.add_scaled(step.scratch.None(), {sum, ids_.data(), weights_.data(), x});
}

}  // namespace reprise::worker
