// Heads with keys and values of their own: MHA, GQA and MQA, with a norm of queries and keys where
// the family has one. Prompt and step form are the same arithmetic.
#include <cstring>

#include "worker/model/attention_block.h"

namespace reprise::worker {
namespace {

using kernels::F32;

class HeadsAttention final : public AttentionBlock {
 public:
  explicit HeadsAttention(const ModelConfig& config)
      : config_(config),
        q_cols_(config.heads * config.head_dim),
        kv_cols_(config.kv_heads * config.head_dim),
        qkv_cols_(q_cols_ + 2 * kv_cols_),
        attention_(config.heads, static_cast<float>(config.attention_scale()), config.context) {}

  void Reserve(StepContext& step, const LayerWeights& layer, int64_t rows) override {
    qkv_.Rows(rows, qkv_cols_);
    lse_.Rows(rows, config_.heads);
    step.scratch.Reserve(kernels::LinearScratchBytes(rows, layer.heads->qkv.matrix));
    step.scratch.Reserve(attention_.ScratchBytes(step));
  }

  void Project(StepContext& step, const LayerWeights& layer, F32 normed) override {
    const Projection& w = layer.heads->qkv;
    const F32 qkv = qkv_.Rows(step.rows, qkv_cols_);
    Linear(step, normed, w.matrix, w.bias, qkv);
    NormHeads(step, layer.heads->q_norm, Columns(qkv, 0, q_cols_));
    NormHeads(step, layer.heads->k_norm, Columns(qkv, q_cols_, kv_cols_));
    // q and k lie side by side: one call rotates the heads of both.
    step.ops.rope_apply(step.scratch.None(), step.rope, config_.head_dim,
                        Columns(qkv, 0, q_cols_ + kv_cols_));
    for (const RowRun& run : step.runs) {
      const F32 rows = RowsAt(qkv, run.row, run.rows);
      step.ops.write_kv({step.kv, run.pages, CacheRow(step, run.first_position),
                         Columns(rows, q_cols_, kv_cols_),
                         Columns(rows, q_cols_ + kv_cols_, kv_cols_)});
    }
  }

  void Keep(std::span<const int64_t> rows) override {
    float* data = qkv_.Rows(0, qkv_cols_).data;
    for (size_t i = 0; i < rows.size(); ++i) {
      std::memmove(data + static_cast<int64_t>(i) * qkv_cols_, data + rows[i] * qkv_cols_,
                   static_cast<size_t>(q_cols_) * sizeof(float));
    }
  }

  void Attend(StepContext& step, const LayerWeights&, F32 attended) override {
    const F32 q = Columns(qkv_.Rows(step.rows, qkv_cols_), 0, q_cols_);
    if (step.context != nullptr) {
      StepAttender attender(step, config_.heads, static_cast<float>(config_.attention_scale()),
                            config_.context);
      step.context->AttendOnHost(
          Form::kBoth,
          {.kv = step.kv, .heads = config_.heads, .q = q, .out = attended, .attender = &attender},
          0);
      return;
    }
    attention_.Attend(step, step.runs, q, attended, lse_.Rows(step.rows, config_.heads));
  }

 private:
  void NormHeads(StepContext& step, const std::vector<float>& weight, const F32& heads) const {
    if (weight.empty()) return;
    for (int64_t at = 0; at < heads.cols; at += config_.head_dim) {
      const F32 head = Columns(heads, at, config_.head_dim);
      step.ops.rms_norm(step.scratch.None(), head, weight.data(),
                        static_cast<float>(config_.rms_eps), head);
    }
  }

  const ModelConfig config_;
  const int64_t q_cols_;    // heads * head_dim
  const int64_t kv_cols_;   // kv_heads * head_dim
  const int64_t qkv_cols_;  // both, k and v
  RowBuffer qkv_;
  RowBuffer lse_;  // written by attention and not read: nothing merges
  RunAttention attention_;
};

}  // namespace

std::unique_ptr<AttentionBlock> MakeHeadsAttention(const ModelConfig& config) {
  return std::make_unique<HeadsAttention>(config);
}

std::unique_ptr<AttentionBlock> MakeAttentionBlock(const ModelConfig& config) {
  return config.latent ? MakeLatentAttention(config) : MakeHeadsAttention(config);
}

kernels::PagedKv KvShape(const ModelConfig& config) {
  kernels::PagedKv kv;
  if (config.latent) {
    kv.layout = kernels::KvLayout::kLatent;
    kv.kv_heads = 1;
    kv.key_dim = config.latent->kv_rank + config.latent->rope_dim;
    kv.value_dim = config.latent->kv_rank;
  } else {
    kv.kv_heads = config.kv_heads;
    kv.key_dim = kv.value_dim = config.head_dim;
  }
  return kv;
}

}  // namespace reprise::worker
