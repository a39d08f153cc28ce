#include "worker/model/transformer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace reprise::worker {
namespace {

using kernels::F32;

kernels::PagedKv PoolOf(const ModelConfig& config, const TransformerOptions& options) {
  kernels::PagedKv kv = KvShape(config);
  kv.dtype = options.kv_dtype;
  kv.block_tokens = options.block_tokens;
  kv.page_stride_bytes = SegmentBytes(kv) * config.layers;
  return kv;
}

}  // namespace

Transformer::Transformer(const ModelConfig& config, ModelWeights weights,
                         const TransformerOptions& options)
    : config_(config),
      weights_(std::move(weights)),
      ops_(kernels::Select(options.isa)),
      pool_(options.threads),
      scratch_(pool_),
      step_{ops_,
            scratch_,
            Pace(options.piece_macs > 0 ? options.piece_macs
                                        : Pace::PieceOf(options.isa, options.threads)),
            PoolOf(config, options),
            {},
            {},
            0},
      attention_(MakeAttentionBlock(config)),
      feed_forward_(config),
      rope_(config),
      first_stage_(options.first_stage),
      last_stage_(options.last_stage) {}

void Transformer::SetRanks(const ModelRanks& ranks) {
  step_.tensor.communicator = ranks.tensor;
  step_.context = ranks.context;
  pipeline_ = ranks.pipeline;
  sending_.reset();
}

void Transformer::AttachPool(std::byte* base) { step_.kv.base = base; }

void Transformer::Reserve(int64_t rows) {
  if (rows <= reserved_rows_) return;
  reserved_rows_ = rows;
  for (RowBuffer* buffer : {&x_, &normed_}) buffer->Rows(rows, config_.hidden);
  attended_.Rows(rows, config_.heads * config_.value_dim());
  rope_.Reserve(rows);
  if (last_stage_) scratch_.Reserve(kernels::LinearScratchBytes(rows, weights_.head()));
  for (const LayerWeights& layer : weights_.layers) {
    scratch_.Reserve(kernels::LinearScratchBytes(rows, layer.o.matrix));
    attention_->Reserve(step_, layer, rows);
    feed_forward_.Reserve(step_, layer, rows);
  }
}

// Positions [begin, end), all of one form: `row` is the first of them here, and moves behind them.
void Transformer::PlanRun(const StepItem& item, int64_t begin, int64_t end, int64_t* row) {
  if (begin == end) return;
  const bool prompt = begin < item.prompt_end;
  if (step_.context == nullptr) {
    step_.runs.push_back({*row, end - begin, begin, item.pages.data(), prompt});
    *row += end - begin;
    return;
  }
  shared_runs_.push_back({begin, end - begin, item.pages.data(), *row, prompt});
  const parallel::Stripes& stripes = step_.context->stripes();
  for (const parallel::PositionRange& own : stripes.OwnedIn(step_.context->rank(), {begin, end})) {
    step_.runs.push_back({*row, own.size(), own.begin, item.pages.data(), prompt});
    *row += own.size();
  }
}

// An item's rows of prompt form, then those of step form.
void Transformer::PlanRuns(const StepItem& item, int64_t row) {
  const int64_t end = item.first_position + static_cast<int64_t>(item.tokens.size());
  const int64_t prompt_end = std::clamp<int64_t>(item.prompt_end, item.first_position, end);
  PlanRun(item, item.first_position, prompt_end, &row);
  PlanRun(item, prompt_end, end, &row);
}

void Transformer::PlanStep(std::span<const StepItem> items, Outputs outputs) {
  ids_.clear();
  positions_.clear();
  output_rows_.clear();
  step_.runs.clear();
  shared_runs_.clear();
  shared_outputs_.clear();
  for (const StepItem& item : items) {
    PlanRuns(item, static_cast<int64_t>(ids_.size()));
    for (size_t i = 0; i < item.tokens.size(); ++i) {
      const int64_t position = item.first_position + static_cast<int64_t>(i);
      const bool last = i + 1 == item.tokens.size();
      const bool wanted = outputs == Outputs::kAll || (last && item.wants_output);
      if (wanted && outputs == Outputs::kWanted) {
        shared_outputs_.push_back({position, 1, item.pages.data(),
                                   static_cast<int64_t>(output_rows_.size()),
                                   position < item.prompt_end});
      }
      if (!Owns(position)) continue;
      if (wanted) output_rows_.push_back(static_cast<int64_t>(ids_.size()));
      ids_.push_back(item.tokens[i]);
      positions_.push_back(position);
    }
  }
  step_.rows = static_cast<int64_t>(ids_.size());
  if (step_.context != nullptr) step_.context->SetQueries(shared_runs_);
  if (outputs == Outputs::kAll) shared_outputs_ = shared_runs_;
  Reserve(step_.rows);
}

Status Transformer::Forward(std::span<const StepItem> items, Outputs outputs,
                            const Executor::LayerDone& layer_done, TimeNs deadline_ns) {
  PlanStep(items, outputs);
  step_.status = absl::OkStatus();
  step_.tensor.deadline_ns = deadline_ns;
  if (step_.context != nullptr) step_.context->SetDeadline(deadline_ns);
  step_.rope = rope_.Fill(positions_);
  if (first_stage_) {
    GatherRows(ops_, weights_.embedding, ids_, x_.Rows(step_.rows, config_.hidden));
  } else {
    RETURN_IF_ERROR(ReceiveRows());
  }
  for (int64_t index = 0; index < config_.layers; ++index) {
    const LayerWeights& layer = weights_.layers[static_cast<size_t>(index)];
    step_.kv.layer = index;
    attention_->Project(step_, layer, Norm(layer.attention_norm));
    if (layer_done) layer_done(static_cast<uint32_t>(index));
    if (last_stage_ && index + 1 == config_.layers) KeepOutputRows();
    if (step_.rows > 0 || step_.context != nullptr) AttendAndMix(layer);
    if (step_.context != nullptr) step_.status.Update(step_.context->status());
    RETURN_IF_ERROR(step_.status);
  }
  if (!last_stage_) return SendRows();
  if (step_.rows > 0) ComputeLogits();
  return absl::OkStatus();
}

Status Transformer::ReceiveRows() {
  const F32 x = x_.Rows(step_.rows, config_.hidden);
  return pipeline_->Recv(
      pipeline_->rank() - 1,
      {reinterpret_cast<uint8_t*>(x.data), static_cast<size_t>(x.rows * x.cols) * sizeof(float)},
      step_.tensor.deadline_ns);
}

// The next stage receives while this one computes its next rows.
Status Transformer::SendRows() {
  RETURN_IF_ERROR(Settle(step_.tensor.deadline_ns));
  const F32 x = x_.Rows(step_.rows, config_.hidden);
  const F32 sent = sent_.Rows(step_.rows, config_.hidden);
  const size_t bytes = static_cast<size_t>(x.rows * x.cols) * sizeof(float);
  if (bytes > 0) std::memcpy(sent.data, x.data, bytes);
  ASSIGN_OR_RETURN(
      sending_, pipeline_->Start({.to = pipeline_->rank() + 1,
                                  .send = {reinterpret_cast<const uint8_t*>(sent.data), bytes}}));
  return absl::OkStatus();
}

Status Transformer::Settle(TimeNs deadline_ns) {
  if (!sending_) return absl::OkStatus();
  return pipeline_->Wait(*std::exchange(sending_, std::nullopt), deadline_ns);
}

F32 Transformer::Norm(const std::vector<float>& weight) {
  const F32 normed = normed_.Rows(step_.rows, config_.hidden);
  ops_.rms_norm(scratch_.None(), x_.Rows(step_.rows, config_.hidden), weight.data(),
                static_cast<float>(config_.rms_eps), normed);
  return normed;
}

// After the last layer's KV rows only rows that give logits are of use: moves those to the front,
// each as a run of its own. A row's bits do not depend on the company it keeps.
void Transformer::KeepOutputRows() {
  if (step_.context != nullptr) step_.context->SetQueries(shared_outputs_);
  if (static_cast<int64_t>(output_rows_.size()) == step_.rows) return;
  kept_runs_.clear();
  const F32 x = x_.Rows(step_.rows, config_.hidden);
  size_t run = 0;
  for (size_t i = 0; i < output_rows_.size(); ++i) {
    const int64_t row = output_rows_[i];
    while (row >= step_.runs[run].row + step_.runs[run].rows) ++run;
    const auto to = static_cast<int64_t>(i);
    kept_runs_.push_back({to, 1, positions_[static_cast<size_t>(row)], step_.runs[run].pages,
                          step_.runs[run].prompt});
    std::memmove(x.row(to), x.row(row), static_cast<size_t>(config_.hidden) * sizeof(float));
  }
  attention_->Keep(output_rows_);
  step_.runs.swap(kept_runs_);
  step_.rows = static_cast<int64_t>(output_rows_.size());
}

// Attention, its output projection, and the second half of the layer, all added to the residual
// stream.
void Transformer::AttendAndMix(const LayerWeights& layer) {
  const F32 x = x_.Rows(step_.rows, config_.hidden);
  const F32 attended = attended_.Rows(step_.rows, config_.heads * config_.value_dim());
  attention_->Attend(step_, layer, attended);
  if (step_.rows == 0) return;  // the other ranks needed this one's keys
  LinearRowParallel(step_, attended, layer.o, x, x);
  feed_forward_.Add(step_, layer, Norm(layer.mlp_norm), x);
}

void Transformer::ComputeLogits() {
  const kernels::PackedWeights& head = weights_.head();
  const F32 logits = logits_.Rows(step_.rows, head.n());
  Linear(step_, Norm(weights_.final_norm), head, {}, logits);
  last_logits_ = logits.data;
}

std::span<const float> Transformer::logits(int64_t output) const {
  const int64_t vocab = weights_.head().n();
  return {last_logits_ + output * vocab, static_cast<size_t>(vocab)};
}

}  // namespace reprise::worker
