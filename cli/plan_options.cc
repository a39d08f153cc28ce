#include "cli/plan_options.h"

#include <algorithm>
#include <filesystem>

#include "common/limits.h"
#include "worker/model/model_config.h"

namespace reprise::cli {
namespace {

constexpr int64_t kBytesMax = int64_t{1} << 50;

// Of config.json; the weights' size is that of their declared type, 2 bytes when there is none. KV
// is 16 bit, as the worker's pages are unless told otherwise.
StatusOr<planner::ModelShape> ShapeOfFolder(const std::string& dir) {
  ASSIGN_OR_RETURN(const worker::ModelConfig config, worker::LoadModelConfig(dir));
  return planner::ModelShape{
      .name = std::filesystem::path(dir).lexically_normal().string(),
      .layers = config.layers,
      .heads = config.heads,
      .weight_bytes = config.parameters() * (config.dtype == "float32" ? 4 : 2),
      .kv = {.kv_layers = config.layers, .kv_heads = config.kv_heads, .head_dim = config.head_dim}};
}

void Override(int64_t flag, int64_t* value) {
  if (flag > 0) *value = flag;
}

}  // namespace

void PlanOptions::Declare(FlagSet& flags) {
  std::vector<std::string> presets;
  for (const planner::ModelShape& shape : planner::PresetShapes()) presets.push_back(shape.name);
  flags.AddChoice("preset", &preset, presets, "the model");
  flags.Add("model", &model, "a model folder, whose config.json is read instead of a preset");
  flags.AddRange("layers", &layers, 0, limits::kLayersMax, "of the model; 0: as the model has");
  flags.AddRange("heads", &heads, 0, limits::kAttentionHeadsMax, "query heads; 0: as above");
  flags.AddRange("kv-heads", &kv_heads, 0, limits::kAttentionHeadsMax, "KV heads; 0: as above");
  flags.AddRange("kv-layers", &kv_layers, 0, limits::kLayersMax,
                 "layers that own rows (fewer with CLA, MLKV); 0: as above");
  flags.AddRange("head-dim", &head_dim, 0, limits::kHeadDimMax, "of keys and values; 0: as above");
  flags.AddRange("latent", &latent, -1, limits::kHiddenSizeMax,
                 "MLA latent elements, 0 for heads; -1: as above");
  flags.AddRange("rope", &rope, -1, limits::kHiddenSizeMax,
                 "MLA rotated key elements; -1: as above");
  flags.AddRange("element-bytes", &element_bytes, 0, 4, "of the KV; 0: as above");
  flags.AddBytes("weight-bytes", &weight_bytes, 0, kBytesMax, "all weights; 0: as above");
  flags.AddRange("token-slots", &token_slots, 1, int64_t{1} << 40,
                 "tokens whose KV is held, for the memory table");
  flags.AddRange("group", &group, 1, 1024,
                 "query heads a KV head of the table's GQA, layers that share in its MLKV");
  flags.AddRange("machines", &machines, 1, static_cast<int32_t>(limits::kNodesMax),
                 "D: stages of the pipeline");
  flags.AddBytes("machine-bytes", &machine_bytes, 1 << 20, kBytesMax,
                 "M: device memory of one machine");
  flags.AddRange("batch", &batch, 1, 1 << 20, "sequences of one microbatch");
  flags.AddRange("prompt-tokens", &prompt_tokens, 1, limits::kContextTokensMax, "of a sequence");
  flags.AddRange("new-tokens", &new_tokens, 1, limits::kContextTokensMax,
                 "N: generated for a sequence; the mean of lognormal lengths");
  flags.AddRange("prompt-ms", &prompt_ms, 1e-3, 1e9,
                 "Y: one microbatch's prompt through all machines");
  flags.AddRange("token-ms", &token_ms, 1e-3, 1e9, "t: one token step through all machines");
  flags.AddRange("stream-overhead", &stream_overhead, 1.0, 1.999,
                 "m: what streaming the KV away adds to a prompt");
  flags.AddRange("link-gb-per-s", &link_gb_per_s, 1e-3, 1e5,
                 "between host and device of one machine, 10^9 bytes a second");
  flags.AddRange("microbatches", &microbatches, 1, 10'000, "of the simulated run");
  flags.AddRange("sigma", &sigma, 0.0, 3.0, "of the logarithm of generated lengths; 0: all equal");
  flags.AddRange("seed", &seed, int64_t{0}, INT64_MAX, "of the lengths");
  flags.Add("json", &json, "one JSON object instead of tables");
}

StatusOr<planner::ModelShape> PlanShape(const PlanOptions& o) {
  ASSIGN_OR_RETURN(planner::ModelShape shape,
                   o.model.empty() ? planner::PresetShape(o.preset) : ShapeOfFolder(o.model));
  Override(o.layers, &shape.layers);
  if (o.layers > 0) shape.kv.kv_layers = o.layers;
  Override(o.heads, &shape.heads);
  Override(o.kv_layers, &shape.kv.kv_layers);
  Override(o.kv_heads, &shape.kv.kv_heads);
  Override(o.head_dim, &shape.kv.head_dim);
  Override(o.element_bytes, &shape.kv.element_bytes);
  Override(o.weight_bytes, &shape.weight_bytes);
  if (o.latent >= 0) shape.kv.latent = o.latent;
  if (o.rope >= 0) shape.kv.rope = o.rope;
  if (o.latent == 0 && o.rope < 0) shape.kv.rope = 0;
  RETURN_IF_ERROR(planner::ValidateShape(shape));
  return shape;
}

planner::SplitInput PlanSplitInput(const PlanOptions& o, const planner::ModelShape& shape) {
  const double row_bytes = static_cast<double>(planner::BytesPerToken(shape.kv)) /
                           static_cast<double>(shape.layers) * o.batch;
  return {.machines = o.machines,
          .machine_bytes = static_cast<double>(o.machine_bytes),
          .layers = static_cast<int>(shape.layers),
          .weight_bytes_per_layer =
              static_cast<double>(shape.weight_bytes) / static_cast<double>(shape.layers),
          .prompt_kv_bytes_per_layer = row_bytes * static_cast<double>(o.prompt_tokens),
          .new_kv_bytes_per_layer = row_bytes * static_cast<double>(o.new_tokens),
          .prompt_s = o.prompt_ms / 1e3,
          .token_s = o.token_ms / 1e3,
          .new_tokens = static_cast<double>(o.new_tokens),
          .stream_overhead = o.stream_overhead};
}

planner::SwapInput PlanSwapInput(const PlanOptions& o, const planner::ModelShape& shape) {
  return {.stages = o.machines,
          .batch = o.batch,
          .kv_bytes_per_token = static_cast<double>(planner::BytesPerToken(shape.kv)),
          .link_bytes_per_s = o.link_gb_per_s * planner::kGB,
          .token_s = o.token_ms / 1e3,
          .prompt_tokens = o.prompt_tokens,
          .new_tokens = o.new_tokens};
}

planner::PipelineLoad PlanLoad(const PlanOptions& o) {
  planner::PipelineLoad load{.prompt_s = o.prompt_ms / 1e3,
                             .token_s = o.token_ms / 1e3,
                             .stream_overhead = o.stream_overhead,
                             .new_tokens = {}};
  if (o.sigma == 0) {
    load.new_tokens.assign(static_cast<size_t>(o.microbatches), static_cast<int>(o.new_tokens));
  } else {
    load.new_tokens = planner::LognormalLengths(
        {.count = o.microbatches,
         .mean = static_cast<double>(o.new_tokens),
         .sigma = o.sigma,
         .tokens_max = static_cast<int>(std::min<int64_t>(10 * o.new_tokens, 1 << 20)),
         .seed = static_cast<uint64_t>(o.seed)});
  }
  return load;
}

}  // namespace reprise::cli
