// What an executor of a model folder says of itself and how it computes, and the check of a step
// before it: the same for one process and for the ranks of a group. Pure; any thread.
#ifndef REPRISE_WORKER_MODEL_MODEL_SETUP_H_
#define REPRISE_WORKER_MODEL_MODEL_SETUP_H_

#include <cstdint>
#include <span>
#include <string>

#include "common/status.h"
#include "worker/engine/executor.h"
#include "worker/model/model_folder.h"
#include "worker/model/transformer.h"
#include "worker/model/weights.h"

namespace reprise::worker {

struct ModelExecutorOptions {
  std::string model_dir;
  std::string kv_dtype = "auto";  // auto (f32 for f32 models, else bf16), f32, bf16, f16
  int threads = 1;
  std::string isa = "auto";  // auto (the widest this machine has), avx512, avx2, scalar
  int block_tokens = 64;
  int chunk_tokens = 0;    // prompt tokens a step may hold; 0: AutoChunk
  int64_t piece_macs = 0;  // multiply-adds between two ticks; 0: 125 ms of them
};

struct ModelSetup {
  ExecutorInfo info;
  kernels::Isa isa = kernels::Isa::kScalar;
  kernels::DType kv_dtype = kernels::DType::kBF16;
};

// Refuses an unknown isa, one that this machine lacks and sizes out of range, by name: all that can
// be told before the folder is read.
Status CheckModelOptions(const ModelExecutorOptions& options);
// What the folder alone says: name, vocabulary, context, and the format without fingerprint and
// class.
ExecutorInfo DescribeModel(const ModelFolder& folder, kv::ElementCodec codec, int block_tokens);
// Of the whole model; `weights` may be a share's. Without the sums of all tensors the format's
// fingerprint is left zero. Refuses an unknown dtype as well.
StatusOr<ModelSetup> SetUpModel(const ModelFolder& folder, const ModelWeights& weights,
                                const ModelExecutorOptions& options);

// INVALID_ARGUMENT names the item of the step and what is out of range.
Status CheckStep(const ExecutorInfo& info, int32_t pages, std::span<const StepItem> items);

struct ChunkBound {
  int32_t tokens = 0;
  ChunkCost cost;
};
// Rows of prompt that keep one layer of the model below 250 ms on a slow, shared machine. Latent
// models take at least 256 wherever they are: each of their chunks expands all keys before it,
// which is dearer than attending in the latents' space below some 170 rows (docs/models.md), and
// ticks come within a layer.
ChunkBound AutoChunk(const ModelConfig& config, kernels::Isa isa, int threads);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_MODEL_SETUP_H_
