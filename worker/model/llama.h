// The Llama forward pass, written once against kernels/ops.h: any mix of prompt chunks and step
// rows of any number of sequences, layer by layer, over a paged KV pool. Owns its weights, its
// compute threads and its scratch; one thread at a time.
//
// Invariants:
// 1. Every row's arithmetic is that row's alone: projections, norms and rotation work row by row in
//    the kernels' fixed order, attention reads rows [0, position] of its own sequence. So logits
//    and KV rows do not depend on the batch, the chunks, the page size, the threads or the Isa.
// 2. o_proj and down_proj, the row-parallel products, sum k in 8 slices: a tensor-parallel split of
//    2, 4 or 8 will have the same bits.
// 3. Scratch grows to the largest step seen and is reused: a step of known size allocates nothing.
#ifndef REPRISE_WORKER_MODEL_LLAMA_H_
#define REPRISE_WORKER_MODEL_LLAMA_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"
#include "worker/engine/executor.h"
#include "worker/model/model_config.h"
#include "worker/model/weights.h"

namespace reprise::worker {

struct LlamaOptions {
  kernels::Isa isa = kernels::Isa::kScalar;  // must be supported
  int threads = 1;                           // counts the caller
  kernels::DType kv_dtype = kernels::DType::kBF16;
  int64_t block_tokens = 64;
};

class Llama {
 public:
  Llama(const ModelConfig& config, LlamaWeights weights, const LlamaOptions& options);

  const ModelConfig& config() const { return config_; }
  const LlamaWeights& weights() const { return weights_; }
  const kernels::CpuOps& ops() const { return ops_; }

  // Page p starts at base + p * block_bytes, segments in layer order, each K then V as
  // [kv_heads][block_tokens][head_dim].
  void AttachPool(std::byte* base);

  // Makes scratch for steps of `rows` rows.
  void Reserve(int64_t rows);

  enum class Outputs {
    kWanted,  // the last row of each item that wants it
    kAll,     // every row of every item
  };

  // Precondition: ids in the vocabulary, positions below config().context, page tables that cover
  // them. `layer_done(l)` is called as soon as layer l's KV rows of the whole batch are written,
  // while the rest of that layer is still to be computed.
  void Forward(std::span<const StepItem> items, Outputs outputs,
               const Executor::LayerDone& layer_done);

  // Of the last Forward, in order of items and rows.
  int64_t outputs() const { return static_cast<int64_t>(output_rows_.size()); }
  std::span<const float> logits(int64_t output) const;

 private:
  void PlanStep(std::span<const StepItem> items, Outputs outputs);
  void ProjectAndStore(int64_t layer);
  void KeepOutputRows();
  void AttendAndMix(int64_t layer);
  void ComputeLogits();

  kernels::F32 Rows(std::vector<float>& buffer, int64_t cols) const;
  kernels::F32 QkvPart(int64_t first_row, int64_t rows, int64_t first_col, int64_t cols);
  kernels::Exec exec();

  const ModelConfig config_;
  const LlamaWeights weights_;
  const kernels::CpuOps& ops_;
  const int64_t q_cols_;    // heads * head_dim
  const int64_t kv_cols_;   // kv_heads * head_dim
  const int64_t qkv_cols_;  // both, k and v
  const std::vector<double> inv_freq_;
  kernels::ThreadPool pool_;
  kernels::PagedKv kv_;

  // The step being computed; rows of all items one after the other.
  int64_t rows_ = 0;
  int64_t reserved_rows_ = 0;
  std::span<const StepItem> items_;
  std::vector<int32_t> ids_;                   // [rows]
  std::vector<int64_t> positions_;             // [rows]
  std::vector<int64_t> output_rows_;           // ascending
  std::vector<kernels::KeySegment> segments_;  // one per attention item
  std::vector<kernels::KeySegment> kept_segments_;
  std::vector<kernels::AttentionItem> attention_;
  std::vector<float> x_;         // [rows, hidden], the residual stream
  std::vector<float> normed_;    // [rows, hidden]
  std::vector<float> qkv_;       // [rows, qkv_cols]
  std::vector<float> attended_;  // [rows, q_cols]
  std::vector<float> lse_;       // [rows, heads], written by attention and not read: nothing merges
  std::vector<float> gate_up_;   // [rows, 2 * intermediate]
  std::vector<float> cos_, sin_;  // [rows, head_dim / 2]
  std::vector<float> logits_;     // [outputs, vocab]
  std::vector<std::byte> scratch_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_LLAMA_H_
