#include "worker/model/llama.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "worker/model/rope_frequencies.h"

namespace reprise::worker {
namespace {

using kernels::F32;

constexpr int64_t kScratchAlignment = 64;
constexpr int kRowParallelSlices = 8;

// The usual 1 / sqrt(head_dim); sqrt is correctly rounded everywhere.
float AttentionScale(int64_t head_dim) {
  return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(head_dim)));
}

template <typename T>
void Grow(std::vector<T>& buffer, int64_t size) {
  if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(static_cast<size_t>(size));
}

const float* BiasOrNull(const std::vector<float>& bias) {
  return bias.empty() ? nullptr : bias.data();
}

}  // namespace

Llama::Llama(const ModelConfig& config, LlamaWeights weights, const LlamaOptions& options)
    : config_(config),
      weights_(std::move(weights)),
      ops_(kernels::Select(options.isa)),
      q_cols_(config.heads * config.head_dim),
      kv_cols_(config.kv_heads * config.head_dim),
      qkv_cols_(q_cols_ + 2 * kv_cols_),
      inv_freq_(RopeInverseFrequencies(config)),
      pool_(options.threads) {
  kv_.dtype = options.kv_dtype;
  kv_.block_tokens = options.block_tokens;
  kv_.kv_heads = config.kv_heads;
  kv_.key_dim = kv_.value_dim = config.head_dim;
  kv_.page_stride_bytes = SegmentBytes(kv_) * config.layers;
}

void Llama::AttachPool(std::byte* base) { kv_.base = base; }

void Llama::Reserve(int64_t rows) {
  if (rows <= reserved_rows_) return;
  reserved_rows_ = rows;
  Grow(x_, rows * config_.hidden);
  Grow(normed_, rows * config_.hidden);
  Grow(qkv_, rows * qkv_cols_);
  Grow(attended_, rows * q_cols_);
  Grow(lse_, rows * config_.heads);
  Grow(gate_up_, rows * 2 * config_.intermediate);
  Grow(cos_, rows * config_.head_dim / 2);
  Grow(sin_, rows * config_.head_dim / 2);
  const LlamaLayerWeights& layer = weights_.layers.front();
  int64_t bytes = kernels::AttentionScratchBytes(pool_.threads(), kv_, config_.context);
  for (const kernels::PackedWeights* w :
       {&layer.qkv, &layer.o, &layer.gate_up, &layer.down, &weights_.head()}) {
    bytes = std::max(bytes, kernels::LinearScratchBytes(rows, *w));
  }
  Grow(scratch_, bytes + kScratchAlignment);
}

kernels::Exec Llama::exec() {
  void* start = scratch_.data();
  size_t space = scratch_.size();
  std::align(kScratchAlignment, 1, start, space);
  return {&pool_, static_cast<std::byte*>(start), static_cast<int64_t>(space)};
}

F32 Llama::Rows(std::vector<float>& buffer, int64_t cols) const {
  return {buffer.data(), rows_, cols, cols};
}

F32 Llama::QkvPart(int64_t first_row, int64_t rows, int64_t first_col, int64_t cols) {
  return {qkv_.data() + first_row * qkv_cols_ + first_col, rows, cols, qkv_cols_};
}

void Llama::PlanStep(std::span<const StepItem> items, Outputs outputs) {
  items_ = items;
  ids_.clear();
  positions_.clear();
  output_rows_.clear();
  segments_.clear();
  for (const StepItem& item : items) {
    for (size_t i = 0; i < item.tokens.size(); ++i) {
      const bool last = i + 1 == item.tokens.size();
      if (outputs == Outputs::kAll || (last && item.wants_output)) {
        output_rows_.push_back(static_cast<int64_t>(ids_.size()));
      }
      ids_.push_back(item.tokens[i]);
      positions_.push_back(item.first_position + static_cast<int64_t>(i));
    }
    segments_.push_back({item.pages.data(), positions_.back() + 1, 0, kernels::MaskKind::kCausal});
  }
  rows_ = static_cast<int64_t>(ids_.size());
  Reserve(rows_);
  attention_.clear();
  int64_t row = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto n = static_cast<int64_t>(items[i].tokens.size());
    attention_.push_back({QkvPart(row, n, 0, q_cols_),
                          items[i].first_position,
                          &segments_[i],
                          1,
                          {attended_.data() + row * q_cols_, n, q_cols_, q_cols_},
                          lse_.data() + row * config_.heads});
    row += n;
  }
}

void Llama::Forward(std::span<const StepItem> items, Outputs outputs,
                    const Executor::LayerDone& layer_done) {
  PlanStep(items, outputs);
  const int64_t half = config_.head_dim / 2;
  kernels::FillRopeTable(positions_.data(), rows_, inv_freq_.data(), half, cos_.data(),
                         sin_.data());
  GatherRows(ops_, weights_.embedding, ids_, Rows(x_, config_.hidden));
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    ProjectAndStore(layer);
    if (layer_done) layer_done(static_cast<uint32_t>(layer));
    if (layer + 1 == config_.layers) KeepOutputRows();
    if (rows_ > 0) AttendAndMix(layer);
  }
  if (rows_ > 0) ComputeLogits();
}

// Norm, q, k and v of all rows, rotation, and the KV rows into the pool.
void Llama::ProjectAndStore(int64_t layer) {
  const LlamaLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const F32 normed = Rows(normed_, config_.hidden);
  ops_.rms_norm(exec(), Rows(x_, config_.hidden), w.attention_norm.data(),
                static_cast<float>(config_.rms_eps), normed);
  ops_.linear(exec(), {.x = normed,
                       .weights = &w.qkv,
                       .bias = BiasOrNull(w.qkv_bias),
                       .residual = {},
                       .y = Rows(qkv_, qkv_cols_)});
  // q and k lie side by side: one call rotates the heads of both.
  ops_.rope_apply(exec(), {cos_.data(), sin_.data(), config_.head_dim / 2}, config_.head_dim,
                  QkvPart(0, rows_, 0, q_cols_ + kv_cols_));
  kv_.layer = layer;
  int64_t row = 0;
  for (const StepItem& item : items_) {
    const auto n = static_cast<int64_t>(item.tokens.size());
    ops_.write_kv({kv_, item.pages.data(), item.first_position, QkvPart(row, n, q_cols_, kv_cols_),
                   QkvPart(row, n, q_cols_ + kv_cols_, kv_cols_)});
    row += n;
  }
}

// After the last layer's KV rows only rows that give logits are of use: moves those to the front,
// each as an attention item of its own. A row's bits do not depend on the company it keeps.
void Llama::KeepOutputRows() {
  if (static_cast<int64_t>(output_rows_.size()) == rows_) return;
  kept_segments_.clear();
  size_t item = 0;
  int64_t item_end = static_cast<int64_t>(items_[0].tokens.size());
  for (size_t i = 0; i < output_rows_.size(); ++i) {
    const int64_t row = output_rows_[i];
    while (row >= item_end) item_end += static_cast<int64_t>(items_[++item].tokens.size());
    kept_segments_.push_back({items_[item].pages.data(), positions_[static_cast<size_t>(row)] + 1,
                              0, kernels::MaskKind::kCausal});
    const auto to = static_cast<int64_t>(i);
    std::memmove(x_.data() + to * config_.hidden, x_.data() + row * config_.hidden,
                 static_cast<size_t>(config_.hidden) * sizeof(float));
    std::memmove(qkv_.data() + to * qkv_cols_, qkv_.data() + row * qkv_cols_,
                 static_cast<size_t>(q_cols_) * sizeof(float));
  }
  segments_.swap(kept_segments_);
  rows_ = static_cast<int64_t>(output_rows_.size());
  attention_.clear();
  for (int64_t i = 0; i < rows_; ++i) {
    const kernels::KeySegment& segment = segments_[static_cast<size_t>(i)];
    attention_.push_back({QkvPart(i, 1, 0, q_cols_),
                          segment.rows - 1,
                          &segment,
                          1,
                          {attended_.data() + i * q_cols_, 1, q_cols_, q_cols_},
                          lse_.data() + i * config_.heads});
  }
}

// Attention, its output projection, and the MLP, all added to the residual stream.
void Llama::AttendAndMix(int64_t layer) {
  const LlamaLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const F32 x = Rows(x_, config_.hidden);
  kv_.layer = layer;
  ops_.attention(exec(), {.kv = kv_,
                          .q_heads = config_.heads,
                          .scale = AttentionScale(config_.head_dim),
                          .items = attention_.data(),
                          .n_items = static_cast<int64_t>(attention_.size())});
  ops_.linear(exec(), {.x = Rows(attended_, q_cols_),
                       .weights = &w.o,
                       .bias = BiasOrNull(w.o_bias),
                       .residual = x,
                       .k_slices = kRowParallelSlices,
                       .y = x});
  const F32 normed = Rows(normed_, config_.hidden);
  ops_.rms_norm(exec(), x, w.mlp_norm.data(), static_cast<float>(config_.rms_eps), normed);
  const int64_t inner = config_.intermediate;
  ops_.linear(exec(), {.x = normed,
                       .weights = &w.gate_up,
                       .bias = BiasOrNull(w.gate_up_bias),
                       .residual = {},
                       .y = Rows(gate_up_, 2 * inner)});
  const F32 gate{gate_up_.data(), rows_, inner, 2 * inner};
  const F32 up{gate_up_.data() + inner, rows_, inner, 2 * inner};
  ops_.swiglu(exec(), gate, up, gate);
  ops_.linear(exec(), {.x = gate,
                       .weights = &w.down,
                       .bias = BiasOrNull(w.down_bias),
                       .residual = x,
                       .k_slices = kRowParallelSlices,
                       .y = x});
}

void Llama::ComputeLogits() {
  const F32 normed = Rows(normed_, config_.hidden);
  ops_.rms_norm(exec(), Rows(x_, config_.hidden), weights_.final_norm.data(),
                static_cast<float>(config_.rms_eps), normed);
  Grow(logits_, rows_ * config_.vocab);
  ops_.linear(exec(), {.x = normed,
                       .weights = &weights_.head(),
                       .residual = {},
                       .y = Rows(logits_, config_.vocab)});
}

std::span<const float> Llama::logits(int64_t output) const {
  return std::span(logits_).subspan(static_cast<size_t>(output * config_.vocab),
                                    static_cast<size_t>(config_.vocab));
}

}  // namespace reprise::worker
