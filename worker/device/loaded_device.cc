#include "worker/device/loaded_device.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/log.h"
#include "kernels/cuda/numerics.h"
#include "kernels/fp8_row.h"
#include "kvstore/block/kv_part.h"
#include "worker/device/device_numerics.h"
#include "worker/device/sample_check.h"
#include "worker/model/model_folder.h"
#include "worker/model/model_setup.h"

namespace reprise::worker {
namespace {

constexpr int64_t kAlignedTo = 8;
// Left to the driver, and for the allocator's rounding.
constexpr int64_t kReservedBytes = int64_t{256} << 20;

Status CheckDims(const ModelConfig& c) {
  struct Dim {
    absl::string_view name;
    int64_t value;
  };
  std::vector<Dim> dims = {{"hidden_size", c.hidden}, {"head_dim", c.head_dim}};
  if (c.latent) {
    dims.push_back({"kv_lora_rank", c.latent->kv_rank});
    dims.push_back({"qk_rope_head_dim", c.latent->rope_dim});
    dims.push_back({"qk_nope_head_dim", c.latent->nope_dim});
    dims.push_back({"v_head_dim", c.latent->value_dim});
  }
  if (c.mixture) dims.push_back({"moe_intermediate_size", c.mixture->intermediate});
  for (const Dim& dim : dims) {
    if (dim.value % kAlignedTo == 0) continue;
    return absl::UnimplementedError(absl::StrCat("the device's kernels take a ", dim.name,
                                                 " that is a multiple of ", kAlignedTo,
                                                 ", the model's is ", dim.value));
  }
  if (c.latent && c.latent->kv_rank > 512) {
    return absl::UnimplementedError(
        absl::StrCat("the device's kernels take a kv_lora_rank of at most 512, the model's is ",
                     c.latent->kv_rank));
  }
  return absl::OkStatus();
}

Status CheckOptions(const DeviceOptions& options) {
  if (options.block_tokens != cuda::kPageRows) {
    return absl::InvalidArgumentError(absl::StrCat(
        "block_tokens is ", options.block_tokens, ", the device's kernels take ", cuda::kPageRows));
  }
  if (options.kv_dtype != "auto" && options.kv_dtype != "bf16" && options.kv_dtype != "fp8") {
    return absl::InvalidArgumentError(absl::StrCat("kv_dtype is \"", options.kv_dtype,
                                                   "\", the device's kernels take bf16 and fp8"));
  }
  return absl::OkStatus();
}

Status CheckFp8(const ModelConfig& c) {
  if (c.latent && c.latent->kv_rank == kernels::kFp8LatentDim &&
      c.latent->rope_dim == kernels::kFp8RotatedDim) {
    return absl::OkStatus();
  }
  const std::string found = c.latent
                                ? absl::StrCat("latents of ", c.latent->kv_rank, " with ",
                                               c.latent->rope_dim, " rotated values")
                                : absl::StrCat(c.kv_heads, " key and value heads of ", c.head_dim);
  return absl::InvalidArgumentError(
      absl::StrCat("kv_dtype \"fp8\" is for latents of ", kernels::kFp8LatentDim, " with ",
                   kernels::kFp8RotatedDim, " rotated values, the model has ", found));
}

Status CheckDevice(const cuda::DeviceInfo& device, bool emulated) {
  if (device.emulated == emulated) return absl::OkStatus();
  return absl::FailedPreconditionError(
      emulated ? "this build computes on a card (it was built with --config=cuda); it has no "
                 "emulated device"
               : "this build has no GPU back end (it was built without --config=cuda); "
                 "--device=emulated does what a card would on the CPU, slowly");
}

// Stripes are nodes of the tree over the kernels' own leaves.
static_assert(kv::kLeafPositions * kDeviceStripeLeaves == cuda::kPromptLeaf);
Status CheckSplitOnDevice(const kv::GroupSplit& split) {
  if (split.context == 1 || split.stripe_leaves % kDeviceStripeLeaves == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("context ranks on devices take stripes of a multiple of ", kDeviceStripeLeaves,
                   " leaves, the group's have ", split.stripe_leaves));
}

// What a rank holds and how its part of a page is laid out.
struct Holding {
  ModelConfig config;  // ConfigOfShare
  ModelShare share;
  kv::KvFormat format;
};

// What a context rank takes besides: keys of others, and partial results of its rows
// (context_attention.h, invariant 3), in powers of two.
int64_t ContextBytes(const Holding& own, const kv::GroupSplit& split, int64_t rows) {
  if (split.context == 1) return 0;
  const auto segment = static_cast<int64_t>(own.format.segment_bytes());
  const int64_t tokens = kv::kLeafPositions * split.stripe_leaves;
  const int64_t ring = 3 * 2 * (tokens / cuda::kPageRows) * segment;
  const int64_t all = (own.config.context / cuda::kPageRows + 1) * segment;
  const int64_t value = own.config.latent ? own.config.latent->kv_rank : own.config.head_dim;
  const int64_t partial = own.config.heads * (value + 1) * static_cast<int64_t>(sizeof(float));
  const int nodes = 2 * static_cast<int>(split.context) + 2 +
                    std::bit_width(static_cast<uint64_t>(own.config.context / tokens));
  return 2 * (ring + std::min(all, kContextGatherBytes) + rows * partial * nodes);
}

// Weights, pool and scratch against what is free. `pool_bytes` are of whole pages.
Status CheckMemory(const Holding& own, const DeviceKernels& kernels, const cuda::DeviceInfo& device,
                   const ExecutorInfo& info, const kv::GroupSplit& split, int64_t pool_bytes) {
  const int32_t chunk = info.chunk_tokens_max;
  const int64_t weights = DeviceWeightBytes(own.config, own.share);
  const int64_t scratch =
      DeviceModel::ScratchBytes(own.config, kernels, chunk, own.config.context) +
      ContextBytes(own, split, chunk);
  const int64_t left = device.free_bytes - kReservedBytes - weights - scratch;
  const auto page = static_cast<int64_t>(own.format.block_bytes());
  const int64_t pages =
      std::max<int64_t>(1, pool_bytes / static_cast<int64_t>(info.kv_format.block_bytes()));
  const int64_t pool = std::max(page * pages, page);
  if (left >= pool) return absl::OkStatus();
  const std::string fits =
      left >= page ? absl::StrCat("a pool of ", left >> 20, " MiB would fit")
                   : std::string("no pool would fit: a smaller model or chunk is needed");
  return absl::ResourceExhaustedError(
      absl::StrCat(device.name, " has ", device.free_bytes >> 20, " MiB free; weights take ",
                   weights >> 20, " MiB, scratch for ", chunk, " rows ", scratch >> 20,
                   " MiB, the KV pool ", pool >> 20, " MiB: ", fits));
}

// Sums over tensor ranks have an order of their own.
StatusOr<Digest256> ClassOf(const ModelConfig& config, const DeviceKernels& kernels,
                            const cuda::DeviceInfo& device, const kv::GroupSplit& split) {
  ASSIGN_OR_RETURN(const Digest256 alone, DeviceNumericsClass(config, kernels, device));
  if (split.tensor == 1) return alone;
  return Sha256()
      .Update(absl::StrCat("reprise.cuda.tensor-ranks.v1 ", split.tensor))
      .Update(alone)
      .Finish();
}

// Where it does not draw as the host does, the host draws.
Status CheckSampling(DeviceKernels* kernels) {
  if (!kernels->sample) return absl::OkStatus();
  ASSIGN_OR_RETURN(kernels->sample, DrawsAsTheHost());
  if (!kernels->sample) LogWarning("device_draws_otherwise", {{"instead", "the host draws"}});
  return absl::OkStatus();
}

void LogDevice(const cuda::DeviceInfo& device, const DeviceKernels& kernels) {
  const std::vector<std::string> unproven = UnprovenIn(kernels);
  if (!unproven.empty()) {
    LogWarning("unproven_kernels", {{"kernels", absl::StrJoin(unproven, ",")}});
  }
  LogInfo("device", {{"name", device.name}, {"kernels", kernels.Text()}});
}

}  // namespace

StatusOr<LoadedDevice> LoadOnDevice(const DeviceOptions& options, const kv::GroupSplit& split,
                                    uint32_t rank) {
  RETURN_IF_ERROR(CheckOptions(options));
  RETURN_IF_ERROR(CheckSplitOnDevice(split));
  cuda::DeviceInfo device;
  if (const int e = cuda::FindDevice(&device); e != 0) {
    return absl::FailedPreconditionError(absl::StrCat("no device: ", cuda::ErrorText(e)));
  }
  RETURN_IF_ERROR(CheckDevice(device, options.emulated));
  ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(options.model_dir));
  LoadedDevice loaded;
  loaded.config = folder.config();
  RETURN_IF_ERROR(CheckDims(loaded.config));
  const bool fp8 = options.kv_dtype == "fp8";
  if (fp8) RETURN_IF_ERROR(CheckFp8(loaded.config));
  ASSIGN_OR_RETURN(loaded.share, ShareOf(loaded.config, split, rank));
  Holding own = {.config = ConfigOfShare(loaded.config, loaded.share), .share = loaded.share};
  loaded.kernels = ChooseKernels(own.config, device, fp8, options.unproven_kernels);

  ExecutorInfo& info = loaded.info;
  info = DescribeModel(folder, fp8 ? kv::ElementCodec::kFp8Mla : kv::ElementCodec::kBF16,
                       options.block_tokens);
  info.two_forms = loaded.kernels.two_forms();
  info.chunk_tokens_max =
      std::min(options.chunk_tokens > 0 ? options.chunk_tokens : kDeviceChunkTokens,
               static_cast<int32_t>(loaded.config.context));
  RETURN_IF_ERROR(kv::CheckSplit(info.kv_format, split));
  own.format = kv::FormatOfPart(info.kv_format, kv::PartOfRank(info.kv_format, split, rank));
  RETURN_IF_ERROR(CheckMemory(own, loaded.kernels, device, info, split, options.pool_bytes));
  ASSIGN_OR_RETURN(DeviceWeights weights,
                   LoadDeviceWeights(folder, own.share, rank == 0 ? Sums::kOfAll : Sums::kOfShare,
                                     &loaded.fingerprint));
  loaded.model = std::make_unique<DeviceModel>(own.config, own.share, std::move(weights),
                                               loaded.kernels, device);
  RETURN_IF_ERROR(loaded.model->Open());

  if (rank == 0) info.kv_format.model_fingerprint = loaded.fingerprint.Digest();
  ASSIGN_OR_RETURN(info.kv_format.numerics_class,
                   ClassOf(loaded.config, loaded.kernels, device, split));
  if (rank == 0) RETURN_IF_ERROR(kv::ValidateFormat(info.kv_format));
  RETURN_IF_ERROR(CheckSampling(&loaded.kernels));
  LogDevice(device, loaded.kernels);
  return loaded;
}

}  // namespace reprise::worker
