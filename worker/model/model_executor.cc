#include "worker/model/model_executor.h"

#include <algorithm>
#include <utility>

#include "worker/engine/sampling_ops.h"
#include "worker/model/model_folder.h"

namespace reprise::worker {
namespace {

// Step rows beside a prompt chunk that scratch is made for at start; more make it grow.
constexpr int64_t kStepRows = 64;

}  // namespace

StatusOr<std::unique_ptr<ModelExecutor>> ModelExecutor::Create(
    const ModelExecutorOptions& options) {
  RETURN_IF_ERROR(CheckModelOptions(options));
  ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(options.model_dir));
  ASSIGN_OR_RETURN(ModelWeights weights, LoadModelWeights(folder));
  ASSIGN_OR_RETURN(ModelSetup setup, SetUpModel(folder, weights, options));
  const TransformerOptions model_options{.isa = setup.isa,
                                         .threads = options.threads,
                                         .kv_dtype = setup.kv_dtype,
                                         .block_tokens = options.block_tokens,
                                         .piece_macs = options.piece_macs};
  return std::unique_ptr<ModelExecutor>(
      new ModelExecutor(std::move(setup.info), folder.config(), std::move(weights), model_options));
}

ModelExecutor::ModelExecutor(ExecutorInfo info, const ModelConfig& config, ModelWeights weights,
                             const TransformerOptions& options)
    : info_(std::move(info)), model_(config, std::move(weights), options) {
  model_.Reserve(std::min(info_.chunk_tokens_max, info_.context_tokens) + kStepRows);
  sample_scratch_.resize(static_cast<size_t>(info_.vocab_size));
}

void ModelExecutor::AttachPool(uint8_t* base, int32_t pages) {
  model_.AttachPool(reinterpret_cast<std::byte*>(base));
  attached_ = true;
  pages_ = pages;
}

Status ModelExecutor::Run(std::span<const StepItem> items, const LayerDone& layer_done) {
  if (!attached_) return absl::FailedPreconditionError("no KV pool is attached");
  RETURN_IF_ERROR(CheckStep(info_, pages_, items));
  output_of_item_.clear();
  int64_t outputs = 0;
  for (const StepItem& item : items) output_of_item_.push_back(item.wants_output ? outputs++ : -1);
  return model_.Forward(items, Transformer::Outputs::kWanted, layer_done);
}

Status ModelExecutor::RunAll(std::span<const StepItem> items) {
  if (!attached_) return absl::FailedPreconditionError("no KV pool is attached");
  RETURN_IF_ERROR(CheckStep(info_, pages_, items));
  output_of_item_.clear();
  return model_.Forward(items, Transformer::Outputs::kAll, nullptr);
}

SampledToken ModelExecutor::Sample(size_t item, const SampleInput& input) {
  if (item >= output_of_item_.size() || output_of_item_[item] < 0) return {};
  const std::span<const float> logits = model_.logits(output_of_item_[item]);
  std::copy(logits.begin(), logits.end(), sample_scratch_.begin());
  return SampleWith(model_.ops(), sample_scratch_, input);
}

StatusOr<std::unique_ptr<Executor>> MakeModelExecutor(const ModelExecutorOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<ModelExecutor> executor, ModelExecutor::Create(options));
  return executor;
}

}  // namespace reprise::worker
