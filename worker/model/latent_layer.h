// The latent attention of one layer by itself, over a pool of its own: for tests against the
// reference (latent_reference.h) and for benchmarks of this part. One thread; it owns its compute
// threads.
#ifndef REPRISE_WORKER_MODEL_LATENT_LAYER_H_
#define REPRISE_WORKER_MODEL_LATENT_LAYER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"
#include "worker/model/attention_block.h"
#include "worker/model/model_config.h"
#include "worker/model/rope_rows.h"
#include "worker/model/step.h"
#include "worker/model/weights.h"

namespace reprise::worker {

struct LatentLayerOptions {
  kernels::Isa isa = kernels::BestIsa();
  int threads = 1;
  kernels::DType kv_dtype = kernels::DType::kBF16;
  int64_t block_tokens = 64;
  int64_t pages = 1;
};

class LatentLayer {
 public:
  // `weights` must outlive it. Precondition: config.latent.
  LatentLayer(const ModelConfig& config, const LayerWeights& weights,
              const LatentLayerOptions& options);

  // The rows of the next step, in order, each run with the page table of its sequence.
  void SetRuns(std::vector<RowRun> runs);
  // Queries and KV rows from x [rows, hidden], as it comes out of the layer's norm.
  void Project(const kernels::F32& x) { attention_->Project(step_, weights_, x); }
  // [rows, heads * value_dim], before the output projection; valid until the next call.
  kernels::F32 Attend();

  void SetTick(std::function<void()> tick) { step_.pace.SetTick(std::move(tick)); }
  // Of the pool: page p lies at p * (bytes / pages).
  std::span<std::byte> memory() { return memory_; }

  // One sequence of rows [0, x.rows) in pages 0, 1, ..., those from `prompt_end` on in step form.
  kernels::F32 Run(const kernels::F32& x, int64_t prompt_end);

 private:
  const ModelConfig config_;
  const LayerWeights& weights_;
  kernels::ThreadPool pool_;
  Scratch scratch_;
  StepContext step_;
  const std::unique_ptr<AttentionBlock> attention_;
  RopeRows rope_;
  std::vector<std::byte> memory_;
  std::vector<int32_t> all_pages_;
  RowBuffer attended_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_LATENT_LAYER_H_
