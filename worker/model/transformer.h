// The forward pass of every supported family, written once against kernels/ops.h: any mix of prompt
// chunks and step rows of any number of sequences, layer by layer, over a paged KV pool. What the
// families differ in are its two parts: attention_block.h and feed_forward.h. Owns its weights, its
// compute threads and its scratch; one thread at a time.
//
// Invariants:
// 1. Every row's arithmetic is that row's alone: projections, norms, rotation and experts work row
//    by row in the kernels' fixed order, attention reads rows [0, position] of its own sequence. So
//    logits and KV rows do not depend on the batch, the chunks, the page size, the threads or the
//    Isa; where a family has two forms (latent attention), a row's form follows from its position.
// 2. o_proj and down_proj, the row-parallel products, sum k in 8 slices, which tensor ranks share
//    (model_share.h): logits and KV rows do not depend on the split either.
// 3. After a rank failed, Forward returns why, and memory that was under way is quiet.
// 4. Scratch grows to the largest step seen and is reused: a step of known size allocates nothing.
#ifndef REPRISE_WORKER_MODEL_TRANSFORMER_H_
#define REPRISE_WORKER_MODEL_TRANSFORMER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"
#include "worker/engine/executor.h"
#include "worker/model/attention_block.h"
#include "worker/model/feed_forward.h"
#include "worker/model/model_config.h"
#include "worker/model/rope_rows.h"
#include "worker/model/step.h"
#include "worker/model/weights.h"
#include "worker/parallel/communicator.h"

namespace reprise::worker {

struct TransformerOptions {
  kernels::Isa isa = kernels::Isa::kScalar;  // must be supported
  int threads = 1;                           // counts the caller
  kernels::DType kv_dtype = kernels::DType::kBF16;
  int64_t block_tokens = 64;
  int64_t piece_macs = 0;   // work between ticks, multiply-adds; 0: as the pace has it
  bool first_stage = true;  // embeds; else activations come from the previous stage
  bool last_stage = true;   // gives logits; else activations go to the next stage
};

// The other ranks of a group, by the communicators this rank shares with them; they outlive the
// Transformer's use of them. Null: there are no others of that kind.
struct ModelRanks {
  parallel::Communicator* tensor = nullptr;
  parallel::Communicator* pipeline = nullptr;  // rank r is stage r
  // This rank computes only the rows whose positions it owns, and has their logits.
  HostContextParallel* context = nullptr;
};

class Transformer {
 public:
  // `config` and `weights` are the whole model's, or a share's (ConfigOfShare).
  Transformer(const ModelConfig& config, ModelWeights weights, const TransformerOptions& options);

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }
  const kernels::CpuOps& ops() const { return ops_; }

  // Page p starts at base + p * block_bytes, segments in layer order (kernels::PagedKv).
  void AttachPool(std::byte* base);

  // Called on the computing thread between pieces of a layer (worker/model/pace.h).
  void SetTick(std::function<void()> tick) { step_.pace.SetTick(std::move(tick)); }

  // For the steps of one epoch of the group.
  void SetRanks(const ModelRanks& ranks);

  // Makes scratch for steps of `rows` rows.
  void Reserve(int64_t rows);

  enum class Outputs {
    kWanted,  // the last row of each item that wants it
    kAll,     // every row of every item
  };

  // Precondition: ids in the vocabulary, positions below config().context, page tables that cover
  // them. `layer_done(l)` is called as soon as layer l's KV rows of the whole batch are written,
  // while the rest of that layer is still to be computed. All ranks make the same calls, and
  // whatever one of them waits for another ends by the deadline; without others nothing fails.
  Status Forward(std::span<const StepItem> items, Outputs outputs,
                 const Executor::LayerDone& layer_done, TimeNs deadline_ns = INT64_MAX);
  // Waits until the next stage has what the last Forward gave.
  Status Settle(TimeNs deadline_ns);

  // Of the last Forward, in order of items and rows; values of the last stage, where the vocabulary
  // is split those of this rank's part.
  int64_t outputs() const { return last_stage_ ? static_cast<int64_t>(output_rows_.size()) : 0; }
  std::span<const float> logits(int64_t output) const;

 private:
  void PlanStep(std::span<const StepItem> items, Outputs outputs);
  void PlanRuns(const StepItem& item, int64_t row);
  void PlanRun(const StepItem& item, int64_t begin, int64_t end, int64_t* row);
  bool Owns(int64_t position) const {
    return step_.context == nullptr || step_.context->Owns(position);
  }
  void KeepOutputRows();
  void AttendAndMix(const LayerWeights& layer);
  void ComputeLogits();
  Status ReceiveRows();
  Status SendRows();
  kernels::F32 Norm(const std::vector<float>& weight);

  const ModelConfig config_;
  const ModelWeights weights_;
  const kernels::CpuOps& ops_;
  kernels::ThreadPool pool_;
  Scratch scratch_;
  StepContext step_;  // the step being computed; rows of all items one after the other
  const std::unique_ptr<AttentionBlock> attention_;
  FeedForward feed_forward_;

  int64_t reserved_rows_ = 0;
  std::vector<int32_t> ids_;          // [rows]
  std::vector<int64_t> positions_;    // [rows]
  std::vector<int64_t> output_rows_;  // ascending
  std::vector<RowRun> kept_runs_;
  std::vector<SharedRun> shared_runs_;     // of a group's step: all ranks' rows,
  std::vector<SharedRun> shared_outputs_;  // and those that give logits when not all do
  RowBuffer x_;                            // [rows, hidden], the residual stream
  RowBuffer normed_;                       // [rows, hidden]
  RowBuffer attended_;                     // [rows, heads * value_dim]
  RopeRows rope_;
  RowBuffer logits_;  // [outputs, vocab]
  const float* last_logits_ = nullptr;

  const bool first_stage_;
  const bool last_stage_;
  parallel::Communicator* pipeline_ = nullptr;
  RowBuffer sent_;  // [rows, hidden], under way to the next stage
  std::optional<parallel::ExchangeId> sending_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_TRANSFORMER_H_
