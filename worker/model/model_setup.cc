#include "worker/model/model_setup.h"

#include <algorithm>
#include <filesystem>

#include "common/limits.h"
#include "worker/model/numerics_class.h"

namespace reprise::worker {
namespace {

using kernels::DType;
using kernels::Isa;

constexpr int kThreadsMax = 256;
constexpr int32_t kChunkTokensMax = 512;
constexpr double kExpandedChunkTokensMin = 256;

StatusOr<Isa> ResolveIsa(const std::string& name) {
  if (name == "auto") return kernels::BestIsa();
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (name != kernels::IsaName(isa)) continue;
    if (kernels::Supported(isa)) return isa;
    return absl::FailedPreconditionError(
        absl::StrCat("isa ", name, " is not supported by this machine, which has up to ",
                     kernels::IsaName(kernels::BestIsa())));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("isa \"", name, "\" is not one of auto, scalar, avx2, avx512"));
}

struct KvType {
  DType dtype;
  kv::ElementCodec codec;
};

StatusOr<KvType> ResolveKvType(const std::string& name, DType model) {
  constexpr KvType kF32{DType::kF32, kv::ElementCodec::kF32};
  constexpr KvType kBF16{DType::kBF16, kv::ElementCodec::kBF16};
  constexpr KvType kF16{DType::kF16, kv::ElementCodec::kF16};
  if (name == "auto") return model == DType::kF32 ? kF32 : kBF16;
  if (name == "f32") return kF32;
  if (name == "bf16") return kBF16;
  if (name == "f16") return kF16;
  if (name == "fp8") {
    return absl::InvalidArgumentError(
        "kv_dtype \"fp8\" is for workers on a device (--device=gpu or emulated); a CPU's kernels "
        "take f32, bf16 and f16");
  }
  return absl::InvalidArgumentError(
      absl::StrCat("kv_dtype \"", name, "\" is not one of auto, f32, bf16, f16"));
}

Status CheckRange(absl::string_view name, int value, int min, int max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, ", the range is ", min, " to ", max));
}

Status CheckOptions(const ModelExecutorOptions& options) {
  RETURN_IF_ERROR(CheckRange("threads", options.threads, 1, kThreadsMax));
  RETURN_IF_ERROR(CheckRange("block_tokens", options.block_tokens, 1, limits::kBlockTokensMax));
  return CheckRange("chunk_tokens", options.chunk_tokens, 0, limits::kPromptTokensMax);
}

std::string FolderName(const std::string& dir) {
  const std::filesystem::path path = std::filesystem::path(dir).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

kv::KvFormat FormatOf(const ModelConfig& config, kv::ElementCodec codec, int block_tokens) {
  kv::KvFormat format;
  if (codec == kv::ElementCodec::kFp8Mla) {
    format.fields = {kv::Fp8MlaField()};
  } else if (config.latent) {
    format.fields = {{"c_kv", 1, static_cast<uint32_t>(config.latent->kv_rank), false},
                     {"k_rope", 1, static_cast<uint32_t>(config.latent->rope_dim), true}};
  } else {
    const auto heads = static_cast<uint32_t>(config.kv_heads);
    const auto elements = static_cast<uint32_t>(config.head_dim);
    format.fields = {{"k", heads, elements, true}, {"v", heads, elements, false}};
  }
  format.layers = static_cast<uint32_t>(config.layers);
  format.block_tokens = static_cast<uint32_t>(block_tokens);
  format.codec = codec;
  return format;
}

Status CheckItem(const ExecutorInfo& info, int32_t pages, const StepItem& item) {
  if (item.tokens.empty()) return absl::InvalidArgumentError("it holds no tokens");
  const int64_t context = info.context_tokens;
  const auto n = static_cast<int64_t>(item.tokens.size());
  if (item.first_position < 0 || item.first_position > context ||
      n > context - item.first_position) {
    return absl::InvalidArgumentError(absl::StrCat("positions ", item.first_position, " + ", n,
                                                   " exceed the context of ", context));
  }
  for (const int32_t id : item.tokens) {
    if (id < 0 || id >= info.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", id, " is outside the vocabulary of ", info.vocab_size));
    }
  }
  const int64_t block = info.kv_format.block_tokens;
  const int64_t blocks = (item.first_position + n + block - 1) / block;
  if (static_cast<int64_t>(item.pages.size()) < blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("its page table has ", item.pages.size(), " of ", blocks, " pages"));
  }
  for (const int32_t page : item.pages.first(static_cast<size_t>(blocks))) {
    if (page < 0 || page >= pages) {
      return absl::InvalidArgumentError(
          absl::StrCat("page ", page, " is outside the pool of ", pages));
    }
  }
  return absl::OkStatus();
}

}  // namespace

ChunkBound AutoChunk(const ModelConfig& config, Isa isa, int threads) {
  const int64_t q = config.heads * config.head_dim;
  const int64_t kv = config.latent ? config.latent->kv_rank + config.latent->rope_dim
                                   : 2 * config.kv_heads * config.head_dim;
  int64_t inner = config.intermediate;
  if (config.mixture) {
    inner = std::max(inner, config.mixture->per_token * config.mixture->intermediate +
                                config.mixture->shared_intermediate);
  }
  const double weights =
      static_cast<double>(config.hidden * (2 * q + kv) + 3 * config.hidden * inner);
  const double fit = kLayerSeconds * SlowMacsPerSecond(isa, threads) / weights;
  ChunkBound bound;
  bound.tokens = static_cast<int32_t>(std::clamp(fit, config.latent ? kExpandedChunkTokensMin : 1.0,
                                                 static_cast<double>(kChunkTokensMax)));
  if (!config.latent) {
    bound.cost = {.max = std::max(fit, 1.0), .doubles_at = weights / (2 * static_cast<double>(q))};
  }
  return bound;
}

Status CheckModelOptions(const ModelExecutorOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  return ResolveIsa(options.isa).status();
}

ExecutorInfo DescribeModel(const ModelFolder& folder, kv::ElementCodec codec, int block_tokens) {
  const ModelConfig& config = folder.config();
  ExecutorInfo info;
  info.model_name = FolderName(folder.dir());
  info.kv_format = FormatOf(config, codec, block_tokens);
  info.vocab_size = static_cast<int32_t>(config.vocab);
  info.context_tokens = static_cast<int32_t>(config.context);
  return info;
}

StatusOr<ModelSetup> SetUpModel(const ModelFolder& folder, const ModelWeights& weights,
                                const ModelExecutorOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ModelSetup setup;
  ASSIGN_OR_RETURN(setup.isa, ResolveIsa(options.isa));
  ASSIGN_OR_RETURN(const KvType kv_type, ResolveKvType(options.kv_dtype, weights.dtype));
  setup.kv_dtype = kv_type.dtype;
  const ModelConfig& config = folder.config();
  ExecutorInfo& info = setup.info;
  info = DescribeModel(folder, kv_type.codec, options.block_tokens);
  if (weights.fingerprint.complete()) {
    info.kv_format.model_fingerprint = weights.fingerprint.Digest();
  }
  info.kv_format.numerics_class =
      NumericsClass(config, {.isa = setup.isa, .weights = weights.dtype, .kv = kv_type.dtype});
  RETURN_IF_ERROR(kv::ValidateFormat(info.kv_format));
  info.two_forms = config.latent.has_value();
  if (options.chunk_tokens != 0) {
    info.chunk_tokens_max = options.chunk_tokens;
  } else {
    const ChunkBound bound = AutoChunk(config, setup.isa, options.threads);
    info.chunk_tokens_max = bound.tokens;
    info.chunk_cost = bound.cost;
  }
  return setup;
}

Status CheckStep(const ExecutorInfo& info, int32_t pages, std::span<const StepItem> items) {
  if (items.empty()) return absl::InvalidArgumentError("a step needs at least one item");
  for (size_t i = 0; i < items.size(); ++i) {
    const Status status = CheckItem(info, pages, items[i]);
    if (!status.ok()) return Annotate(status, absl::StrCat("step item ", i));
  }
  return absl::OkStatus();
}

}  // namespace reprise::worker
