#include "worker/model/make_model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/json.h"
#include "common/limits.h"
#include "kernels/ops.h"
#include "kernels/philox.h"
#include "worker/model/byte_tokenizer.h"
#include "worker/model/folder_writer.h"
#include "worker/model/presets.h"

namespace reprise::worker {
namespace {

using kernels::DType;

constexpr uint64_t kChunkElements = uint64_t{1} << 18;  // what is in memory at a time

struct StoredType {
  absl::string_view name;  // of the option
  TensorType tensor;
  absl::string_view config;  // in config.json
  DType dtype;
};
constexpr StoredType kStoredTypes[] = {
    {"bf16", TensorType::kBF16, "bfloat16", DType::kBF16},
    {"f16", TensorType::kF16, "float16", DType::kF16},
    {"f32", TensorType::kF32, "float32", DType::kF32},
};

// value = center + deviation * (nearly normal, variance 1)
struct Distribution {
  float center;
  float deviation;
};

// Products keep the variance of their input; those that add to the residual stream are divided by
// sqrt(2 layers), one for each addition. Rows of the embedding have length 2, so that the logits of
// a normed state spread by about 2: neither flat nor certain.
Distribution DistributionOf(const TensorSpec& spec, const ModelConfig& config) {
  if (absl::EndsWith(spec.name, "norm.weight")) return {1, 0.1f};
  if (absl::EndsWith(spec.name, ".bias")) return {0, 0.1f};
  if (absl::EndsWith(spec.name, "e_score_correction_bias")) return {0, 0.05f};
  const auto fan_in = static_cast<double>(spec.shape.back());
  double deviation = 1 / __builtin_sqrt(fan_in);
  const auto ends = [&](absl::string_view suffix) { return absl::EndsWith(spec.name, suffix); };
  if (ends("embed_tokens.weight") || spec.name == "lm_head.weight" || ends(".gate.weight")) {
    deviation *= 2;
  }
  if (ends("o_proj.weight") || ends("down_proj.weight") || ends(".w2.weight")) {
    deviation /= __builtin_sqrt(2 * static_cast<double>(config.layers));
  }
  return {0, static_cast<float>(deviation)};
}

// Fills `out` with elements first, first + 1, ... (first a multiple of 4) of one tensor. The sum of
// four independent bytes is nearly normal and needs no libm: mean 510, variance 4 (256^2 - 1) / 12.
void Generate(const Distribution& d, uint64_t seed, uint32_t tensor, uint64_t first,
              std::vector<float>* out) {
  constexpr float kPerDeviation = 1.0f / 147.8f;
  const float scale = d.deviation * kPerDeviation;
  for (size_t i = 0; i < out->size(); i += 4) {
    const uint64_t at = (first + i) / 4;
    const auto words =
        kernels::Philox4x32({static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32), tensor, 0},
                            {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
    for (size_t j = 0; j < std::min<size_t>(4, out->size() - i); ++j) {
      const uint32_t w = words[j];
      const uint32_t sum = (w & 255) + (w >> 8 & 255) + (w >> 16 & 255) + (w >> 24);
      (*out)[i + j] = d.center + scale * static_cast<float>(static_cast<int32_t>(sum) - 510);
    }
  }
}

uint64_t Elements(const TensorSpec& spec) {
  uint64_t n = 1;
  for (const uint64_t dim : spec.shape) n *= dim;
  return n;
}

class Writer {
 public:
  Writer(const ModelConfig& config, const MakeModelOptions& options, const StoredType& type,
         const MakeModelProgress& progress)
      : config_(config),
        options_(options),
        type_(type),
        progress_(progress),
        ops_(kernels::Select(kernels::BestIsa())),
        specs_(ModelTensors(config)) {
    for (const TensorSpec& spec : specs_) total_ += BytesOf(spec);
  }

  Status WriteWeights() {
    if (options_.shards == 1) return WriteShard("model.safetensors", 0, specs_.size());
    JsonWriter map;
    size_t first = 0;
    uint64_t before = 0;
    for (int shard = 0; shard < options_.shards; ++shard) {
      const uint64_t until =
          total_ / static_cast<uint64_t>(options_.shards) * static_cast<uint64_t>(shard + 1);
      size_t last = first;
      for (; last < specs_.size() && (before < until || shard + 1 == options_.shards); ++last) {
        before += BytesOf(specs_[last]);
      }
      const std::string name =
          absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, options_.shards);
      RETURN_IF_ERROR(WriteShard(name, first, last));
      for (; first < last; ++first) map.Field(specs_[first].name, name);
    }
    const std::string metadata = JsonWriter().Field("total_size", total_).Take();
    return WriteModelFile(
        options_.dir, "model.safetensors.index.json",
        JsonWriter().Raw("metadata", metadata).Raw("weight_map", map.Take()).Take() + "\n");
  }

 private:
  uint64_t BytesOf(const TensorSpec& spec) const {
    return Elements(spec) * static_cast<uint64_t>(SizeOf(type_.dtype));
  }

  // Tensors [first, last) of the list.
  Status WriteShard(const std::string& name, size_t first, size_t last) {
    std::vector<TensorEntry> tensors;
    for (size_t i = first; i < last; ++i) {
      tensors.push_back({specs_[i].name, type_.tensor, specs_[i].shape});
    }
    TensorFileWriter out(absl::StrCat(options_.dir, "/", name), tensors);
    std::vector<float> values;
    std::vector<uint8_t> stored;
    for (size_t i = first; i < last && out.ok(); ++i) {
      const Distribution distribution = DistributionOf(specs_[i], config_);
      const uint64_t n = Elements(specs_[i]);
      for (uint64_t at = 0; at < n && out.ok(); at += kChunkElements) {
        values.resize(std::min(kChunkElements, n - at));
        stored.resize(values.size() * static_cast<size_t>(SizeOf(type_.dtype)));
        Generate(distribution, options_.seed, static_cast<uint32_t>(i), at, &values);
        ops_.convert(values.data(), DType::kF32, stored.data(), type_.dtype,
                     static_cast<int64_t>(values.size()));
        out.Append(stored);
        done_ += stored.size();
        if (progress_) progress_(done_, total_);
      }
    }
    return out.Close();
  }

  const ModelConfig& config_;
  const MakeModelOptions& options_;
  const StoredType& type_;
  const MakeModelProgress& progress_;
  const kernels::CpuOps& ops_;
  const std::vector<TensorSpec> specs_;
  uint64_t total_ = 0;
  uint64_t done_ = 0;
};

StatusOr<StoredType> TypeNamed(const std::string& name) {
  for (const StoredType& type : kStoredTypes) {
    if (type.name == name) return type;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("dtype \"", name, "\" is not one of bf16, f16, f32"));
}

}  // namespace

Status MakeModel(const MakeModelOptions& options, const MakeModelProgress& progress) {
  ASSIGN_OR_RETURN(ModelConfig config, PresetConfig(options.preset));
  return MakeModelOf(std::move(config), options, progress);
}

Status MakeModelOf(ModelConfig config, const MakeModelOptions& options,
                   const MakeModelProgress& progress) {
  ASSIGN_OR_RETURN(const StoredType type, TypeNamed(options.dtype));
  if (options.shards < 1 || options.shards > static_cast<int>(limits::kModelShardsMax)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shards is ", options.shards, ", the range is 1 to ", limits::kModelShardsMax));
  }
  if (config.vocab < kByteTokenizerVocabMin) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocabulary of ", config.vocab, ", the bytes need ", kByteTokenizerVocabMin));
  }
  config.dtype = std::string(type.config);
  const std::string config_json = ConfigJson(config);
  RETURN_IF_ERROR(ParseModelConfig(config_json).status());
  RETURN_IF_ERROR(PrepareModelFolder(options.dir));

  Writer writer(config, options, type, progress);
  RETURN_IF_ERROR(WriteModelFile(options.dir, "tokenizer.json", ByteTokenizerJson(config.vocab)));
  JsonWriter generation;
  if (config.bos_id.has_value()) generation.Field("bos_token_id", *config.bos_id);
  generation.Raw("eos_token_id", absl::StrCat("[", absl::StrJoin(config.eos_ids, ", "), "]"));
  RETURN_IF_ERROR(WriteModelFile(options.dir, "generation_config.json", generation.Take() + "\n"));
  RETURN_IF_ERROR(writer.WriteWeights());
  return WriteModelFile(options.dir, "config.json", config_json);
}

}  // namespace reprise::worker
