// Self-attention of one layer between its norm and its output projection. Two kinds: heads with
// keys and values of their own (MHA, GQA, MQA), and multi-head latent attention. Owned by the
// Transformer; one thread. Calls come layer by layer: Project, perhaps Keep, Attend.
#ifndef REPRISE_WORKER_MODEL_ATTENTION_BLOCK_H_
#define REPRISE_WORKER_MODEL_ATTENTION_BLOCK_H_

#include <memory>
#include <span>

#include "worker/model/model_config.h"
#include "worker/model/step.h"
#include "worker/model/weights.h"

namespace reprise::worker {

class AttentionBlock {
 public:
  virtual ~AttentionBlock() = default;

  // Makes room for steps of `rows` rows over up to `context` positions.
  virtual void Reserve(StepContext& step, const LayerWeights& layer, int64_t rows) = 0;

  // Queries of all rows, kept for Attend, and their KV rows into the pool.
  virtual void Project(StepContext& step, const LayerWeights& layer, kernels::F32 normed) = 0;

  // Only these rows (ascending) are attended from here on: they are moved to the front.
  virtual void Keep(std::span<const int64_t> rows) = 0;

  // attended [step.rows, heads * value_dim].
  virtual void Attend(StepContext& step, const LayerWeights& layer, kernels::F32 attended) = 0;
};

std::unique_ptr<AttentionBlock> MakeAttentionBlock(const ModelConfig& config);
std::unique_ptr<AttentionBlock> MakeHeadsAttention(const ModelConfig& config);
std::unique_ptr<AttentionBlock> MakeLatentAttention(const ModelConfig& config);

// How the pool's rows lie for this configuration; base, layer, dtype and block size left open.
kernels::PagedKv KvShape(const ModelConfig& config);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_ATTENTION_BLOCK_H_
