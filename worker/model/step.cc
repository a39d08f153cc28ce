#include "worker/model/step.h"

#include <algorithm>

namespace reprise::worker {
namespace {

kernels::ConstF32 ConstRowsAt(const kernels::ConstF32& m, int64_t first, int64_t rows) {
  return {m.data == nullptr ? nullptr : m.data + first * m.row_stride, rows, m.cols, m.row_stride};
}

void Compute(StepContext& step, const kernels::LinearArgs& args) {
  const int64_t row_macs = args.weights->n() * args.weights->k();
  const int64_t at_once = step.pace.UnitsAtOnce(row_macs, args.x.rows);
  kernels::LinearArgs piece = args;
  for (int64_t row = 0; row < args.x.rows; row += at_once) {
    const int64_t rows = std::min(at_once, args.x.rows - row);
    piece.x = ConstRowsAt(args.x, row, rows);
    piece.residual = ConstRowsAt(args.residual, row, rows);
    piece.y = RowsAt(args.y, row, rows);
    step.ops.linear(step.scratch.With(kernels::LinearScratchBytes(rows, *args.weights)), piece);
    step.pace.Did(rows * row_macs);
  }
}

// Rows of items, gathered until they make a piece.
class AttentionPieces {
 public:
  AttentionPieces(StepContext& step, const kernels::AttentionArgs& args, int64_t scratch_bytes)
      : step_(step),
        args_(args),
        exec_(step.scratch.With(scratch_bytes)),
        items_(step.attention_pieces) {
    items_.clear();
  }

  void Add(const kernels::AttentionItem& item) {
    int64_t keys = 0;
    for (int64_t i = 0; i < item.n_segments; ++i) keys += item.segments[i].rows;
    const int64_t head_macs = keys * (args_.kv.key_dim + args_.kv.value_dim);
    const int64_t row_macs = head_macs * args_.q_heads;
    const int64_t at_once = step_.pace.UnitsAtOnce(row_macs, item.q.rows);
    for (int64_t row = 0; row < item.q.rows; row += at_once) {
      const int64_t rows = std::min(at_once, item.q.rows - row);
      const kernels::AttentionItem part = RowsOf(item, row, rows);
      if (row_macs > step_.pace.piece() && args_.kv.kv_heads == 1) {
        AddHeads(part, head_macs);
        continue;
      }
      if (macs_ + rows * row_macs > step_.pace.piece()) Flush();
      items_.push_back(part);
      macs_ += rows * row_macs;
    }
  }

  void Flush() {
    if (items_.empty()) return;
    Call(args_.q_heads, items_);
    step_.pace.Did(macs_);
    items_.clear();
    macs_ = 0;
  }

 private:
  kernels::AttentionItem RowsOf(const kernels::AttentionItem& item, int64_t row,
                                int64_t rows) const {
    kernels::AttentionItem part = item;
    part.q = ConstRowsAt(item.q, row, rows);
    part.out = RowsAt(item.out, row, rows);
    part.first_position += row;
    part.lse += row * args_.q_heads;
    return part;
  }

  // One row.
  void AddHeads(const kernels::AttentionItem& item, int64_t head_macs) {
    const int64_t at_once = step_.pace.UnitsAtOnce(head_macs, args_.q_heads);
    for (int64_t head = 0; head < args_.q_heads; head += at_once) {
      const int64_t heads = std::min(at_once, args_.q_heads - head);
      kernels::AttentionItem part = item;
      part.q.data += head * args_.kv.key_dim;
      part.q.cols = heads * args_.kv.key_dim;
      part.out.data += head * args_.kv.value_dim;
      part.out.cols = heads * args_.kv.value_dim;
      part.lse += head;
      Call(heads, {&part, 1});
      step_.pace.Did(heads * head_macs);
    }
  }

  void Call(int64_t heads, std::span<const kernels::AttentionItem> items) {
    kernels::AttentionArgs args = args_;
    args.q_heads = heads;
    args.items = items.data();
    args.n_items = static_cast<int64_t>(items.size());
    step_.ops.attention(exec_, args);
  }

  StepContext& step_;
  const kernels::AttentionArgs args_;
  const kernels::Exec exec_;
  std::vector<kernels::AttentionItem>& items_;
  int64_t macs_ = 0;
};

const float* BiasOrNull(const std::vector<float>& bias) {
  return bias.empty() ? nullptr : bias.data();
}

}  // namespace

void Linear(StepContext& step, const kernels::F32& x, const kernels::PackedWeights& weights,
            const std::vector<float>& bias, const kernels::F32& y) {
  Compute(step, {.x = x, .weights = &weights, .bias = BiasOrNull(bias), .residual = {}, .y = y});
}

void LinearRowParallel(StepContext& step, const kernels::F32& x, const Projection& weights,
                       const kernels::ConstF32& residual, const kernels::F32& y) {
  kernels::LinearArgs args{.x = x,
                           .weights = &weights.matrix,
                           .bias = BiasOrNull(weights.bias),
                           .residual = residual,
                           .k_slices = weights.k_slices,
                           .slice_k = weights.slice_k,
                           .y = y};
  if (!weights.split()) return Compute(step, args);
  if (!step.status.ok()) return;
  args.bias = nullptr;
  args.residual = {};
  args.y = step.share.Rows(y.rows, y.cols);
  Compute(step, args);
  step.status = step.tensor.communicator->AllReduce(
      {args.y.data, static_cast<size_t>(y.rows * y.cols)}, step.tensor.deadline_ns);
  if (!step.status.ok()) return;
  step.ops.add(step.scratch.None(), {args.y, BiasOrNull(weights.bias), residual, y});
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
  Attention(step,
            {.kv = step.kv,
             .q_heads = heads_,
             .scale = scale_,
             .items = items_.data(),
             .n_items = static_cast<int64_t>(items_.size())},
            ScratchBytes(step));
}

void Attention(StepContext& step, const kernels::AttentionArgs& args, int64_t scratch_bytes) {
  AttentionPieces pieces(step, args, scratch_bytes);
  for (int64_t i = 0; i < args.n_items; ++i) pieces.Add(args.items[i]);
  pieces.Flush();
}

void StepAttender::Attend(const kernels::PagedKv& kv,
                          std::span<const kernels::AttentionItem> items) {
  Attention(step_,
            {.kv = kv,
             .q_heads = heads_,
             .scale = scale_,
             .items = items.data(),
             .n_items = static_cast<int64_t>(items.size())},
            kernels::AttentionScratchBytes(step_.scratch.threads(), kv, context_));
}

}  // namespace reprise::worker
