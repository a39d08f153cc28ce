#include "worker/model/make_model.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/json.h"
#include "common/limits.h"
#include "common/thread.h"
#include "kernels/ops.h"
#include "kernels/philox.h"
#include "worker/model/byte_tokenizer.h"
#include "worker/model/folder_writer.h"
#include "worker/model/presets.h"

namespace reprise::worker {
namespace {

using kernels::DType;

constexpr uint64_t kPieceElements = uint64_t{1} << 21;  // of one write
constexpr size_t kChunkElements = size_t{1} << 14;      // generated and converted at a time

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
              std::span<float> out) {
  constexpr float kPerDeviation = 1.0f / 147.8f;
  const float scale = d.deviation * kPerDeviation;
  for (size_t i = 0; i < out.size(); i += 4) {
    const uint64_t at = (first + i) / 4;
    const auto words =
        kernels::Philox4x32({static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32), tensor, 0},
                            {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
    for (size_t j = 0; j < std::min<size_t>(4, out.size() - i); ++j) {
      const uint32_t w = words[j];
      const uint32_t sum = (w & 255) + (w >> 8 & 255) + (w >> 16 & 255) + (w >> 24);
      out[i + j] = d.center + scale * static_cast<float>(static_cast<int32_t>(sum) - 510);
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
        specs_(ModelTensors(config)),
        threads_(options.threads > 0
                     ? options.threads
                     : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()))) {
    for (const TensorSpec& spec : specs_) total_ += BytesOf(spec);
  }

  // Threads write to as many files at once as there are threads: a file system takes one write at a
  // time to each.
  Status WriteWeights() {
    const std::vector<Shard> shards = Shards();
    for (size_t first = 0; first < shards.size(); first += static_cast<size_t>(threads_)) {
      const size_t count = std::min(static_cast<size_t>(threads_), shards.size() - first);
      RETURN_IF_ERROR(WriteShards(std::span(shards).subspan(first, count)));
    }
    if (shards.size() == 1) return absl::OkStatus();
    JsonWriter map;
    for (const Shard& shard : shards) {
      for (size_t i = shard.first; i < shard.last; ++i) map.Field(specs_[i].name, shard.name);
    }
    const std::string metadata = JsonWriter().Field("total_size", total_).Take();
    return WriteModelFile(
        options_.dir, "model.safetensors.index.json",
        JsonWriter().Raw("metadata", metadata).Raw("weight_map", map.Take()).Take() + "\n");
  }

 private:
  // Tensors [first, last) of the list, in a file of their own.
  struct Shard {
    std::string name;
    size_t first = 0;
    size_t last = 0;
  };

  // Of about equal size.
  std::vector<Shard> Shards() const {
    if (options_.shards == 1) return {{"model.safetensors", 0, specs_.size()}};
    std::vector<Shard> shards;
    size_t last = 0;
    uint64_t before = 0;
    for (int shard = 0; shard < options_.shards; ++shard) {
      const size_t first = last;
      const uint64_t until =
          total_ / static_cast<uint64_t>(options_.shards) * static_cast<uint64_t>(shard + 1);
      for (; last < specs_.size() && (before < until || shard + 1 == options_.shards); ++last) {
        before += BytesOf(specs_[last]);
      }
      shards.push_back(
          {absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, options_.shards), first,
           last});
    }
    return shards;
  }

  uint64_t BytesOf(const TensorSpec& spec) const {
    return Elements(spec) * static_cast<uint64_t>(SizeOf(type_.dtype));
  }

  // Of one tensor, small enough for one write.
  struct Piece {
    size_t file = 0;
    size_t tensor = 0;
    uint64_t first = 0;  // element
    uint64_t elements = 0;
    uint64_t offset = 0;  // byte in the file's tensors
  };

  std::vector<Piece> PiecesOf(const Shard& shard, size_t file) const {
    std::vector<Piece> pieces;
    uint64_t offset = 0;
    for (size_t i = shard.first; i < shard.last; ++i) {
      const uint64_t n = Elements(specs_[i]);
      for (uint64_t at = 0; at < n; at += kPieceElements) {
        pieces.push_back({file, i, at, std::min(kPieceElements, n - at), offset});
        offset += pieces.back().elements * static_cast<uint64_t>(SizeOf(type_.dtype));
      }
    }
    return pieces;
  }

  // One piece of each shard in turn, so that every file grows from front to back.
  std::vector<Piece> PiecesOf(std::span<const Shard> shards) const {
    std::vector<std::vector<Piece>> of_file;
    size_t longest = 0;
    for (const Shard& shard : shards) {
      of_file.push_back(PiecesOf(shard, of_file.size()));
      longest = std::max(longest, of_file.back().size());
    }
    std::vector<Piece> pieces;
    for (size_t i = 0; i < longest; ++i) {
      for (const std::vector<Piece>& some : of_file) {
        if (i < some.size()) pieces.push_back(some[i]);
      }
    }
    return pieces;
  }

  std::unique_ptr<TensorFileWriter> OpenShard(const Shard& shard) const {
    std::vector<TensorEntry> tensors;
    for (size_t i = shard.first; i < shard.last; ++i) {
      tensors.push_back({specs_[i].name, type_.tensor, specs_[i].shape});
    }
    return std::make_unique<TensorFileWriter>(absl::StrCat(options_.dir, "/", shard.name), tensors);
  }

  Status WriteShards(std::span<const Shard> shards) {
    std::vector<std::unique_ptr<TensorFileWriter>> files;
    for (const Shard& shard : shards) files.push_back(OpenShard(shard));
    const std::vector<Piece> pieces = PiecesOf(shards);
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    const auto work = [&](const MakeModelProgress& progress) {
      std::vector<uint8_t> stored;
      for (size_t i = next++; i < pieces.size() && !failed; i = next++) {
        TensorFileWriter& file = *files[pieces[i].file];
        MakePiece(pieces[i], &stored);
        file.WriteAt(pieces[i].offset, stored);
        if (!file.ok()) failed = true;
        done_ += stored.size();
        if (progress) progress(done_, total_);
      }
    };
    {
      std::vector<Thread> helpers;
      for (int i = 1; i < threads_; ++i) {
        helpers.emplace_back("make-model", [&] { work(nullptr); });
      }
      work(progress_);
    }
    if (progress_) progress_(done_, total_);
    // The one that failed says why; the others only miss what was then left out.
    for (const auto& file : files) {
      if (!file->ok()) return file->Close();
    }
    for (const auto& file : files) RETURN_IF_ERROR(file->Close());
    return absl::OkStatus();
  }

  // The bytes of a piece as they are stored.
  void MakePiece(const Piece& piece, std::vector<uint8_t>* stored) const {
    const auto element_bytes = static_cast<size_t>(SizeOf(type_.dtype));
    const Distribution distribution = DistributionOf(specs_[piece.tensor], config_);
    std::array<float, kChunkElements> values;
    stored->resize(piece.elements * element_bytes);
    for (size_t at = 0; at < piece.elements; at += kChunkElements) {
      const auto chunk = std::span(values).first(std::min(kChunkElements, piece.elements - at));
      Generate(distribution, options_.seed, static_cast<uint32_t>(piece.tensor), piece.first + at,
               chunk);
      ops_.convert(chunk.data(), DType::kF32, stored->data() + at * element_bytes, type_.dtype,
                   static_cast<int64_t>(chunk.size()));
    }
  }

  const ModelConfig& config_;
  const MakeModelOptions& options_;
  const StoredType& type_;
  const MakeModelProgress& progress_;
  const kernels::CpuOps& ops_;
  const std::vector<TensorSpec> specs_;
  const int threads_;
  uint64_t total_ = 0;
  std::atomic<uint64_t> done_{0};
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
  const auto weight_bytes = static_cast<uint64_t>(config.parameters()) * SizeOf(type.dtype);
  RETURN_IF_ERROR(CheckRoom(options.dir, weight_bytes));
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
