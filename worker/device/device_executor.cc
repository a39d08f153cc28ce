#include "worker/device/device_executor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/log.h"
#include "worker/device/device_numerics.h"
#include "worker/engine/sampling_ops.h"
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

Status CheckOptions(const DeviceExecutorOptions& options) {
  if (options.block_tokens != cuda::kPageRows) {
    return absl::InvalidArgumentError(absl::StrCat(
        "block_tokens is ", options.block_tokens, ", the device's kernels take ", cuda::kPageRows));
  }
  if (options.kv_dtype != "auto" && options.kv_dtype != "bf16") {
    return absl::InvalidArgumentError(
        absl::StrCat("kv_dtype is \"", options.kv_dtype, "\", the device's kernels take bf16"));
  }
  return absl::OkStatus();
}

Status CheckDevice(const cuda::DeviceInfo& device, bool emulated) {
  if (device.emulated == emulated) return absl::OkStatus();
  return absl::FailedPreconditionError(
      emulated ? "this build computes on a card (it was built with --config=cuda); it has no "
                 "emulated device"
               : "this build has no GPU back end (it was built without --config=cuda); "
                 "--device=emulated does what a card would on the CPU, slowly");
}

// Weights, pool and scratch against what is free.
Status CheckMemory(const ModelConfig& c, const DeviceKernels& kernels,
                   const cuda::DeviceInfo& device, const ExecutorInfo& info, int64_t pool_bytes) {
  const int32_t chunk = info.chunk_tokens_max;
  const int64_t weights = DeviceWeightBytes(c);
  const int64_t scratch = DeviceModel::ScratchBytes(c, kernels, chunk, c.context);
  const int64_t left = device.free_bytes - kReservedBytes - weights - scratch;
  const auto page = static_cast<int64_t>(info.kv_format.block_bytes());
  const int64_t pool = std::max(page, pool_bytes);
  if (left >= pool) return absl::OkStatus();
  const std::string fits =
      left >= page ? absl::StrCat("a pool of ", left >> 20, " MiB would fit")
                   : std::string("no pool would fit: a smaller model or chunk is needed");
  return absl::ResourceExhaustedError(
      absl::StrCat(device.name, " has ", device.free_bytes >> 20, " MiB free; weights take ",
                   weights >> 20, " MiB, scratch for ", chunk, " rows ", scratch >> 20,
                   " MiB, the KV pool ", pool >> 20, " MiB: ", fits));
}

Status CheckSamples(const StepWishes& wishes) {
  for (size_t i = 0; i < wishes.samples.size(); ++i) {
    const size_t item = wishes.samples[i].item;
    if (item < wishes.items.size() && wishes.items[item].wants_output) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("sample ", i, " is of step item ", item, ", which gives no output"));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<DeviceExecutor>> DeviceExecutor::Create(
    const DeviceExecutorOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  cuda::DeviceInfo device;
  if (const int e = cuda::FindDevice(&device); e != 0) {
    return absl::FailedPreconditionError(absl::StrCat("no device: ", cuda::ErrorText(e)));
  }
  RETURN_IF_ERROR(CheckDevice(device, options.emulated));
  ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(options.model_dir));
  const ModelConfig& config = folder.config();
  RETURN_IF_ERROR(CheckDims(config));
  const DeviceKernels kernels = ChooseKernels(config, device, options.unproven_kernels);
  ExecutorInfo info = DescribeModel(folder, kv::ElementCodec::kBF16, options.block_tokens);
  info.two_forms = kernels.two_forms();
  info.chunk_tokens_max =
      std::min(options.chunk_tokens > 0 ? options.chunk_tokens : kDeviceChunkTokens,
               static_cast<int32_t>(config.context));
  RETURN_IF_ERROR(CheckMemory(config, kernels, device, info, options.pool_bytes));
  ModelFingerprint fingerprint;
  kernels::DType dtype = kernels::DType::kBF16;
  ASSIGN_OR_RETURN(DeviceWeights weights, LoadDeviceWeights(folder, &fingerprint, &dtype));
  auto model = std::make_unique<DeviceModel>(config, std::move(weights), kernels, device);
  RETURN_IF_ERROR(model->Open());

  info.kv_format.model_fingerprint = fingerprint.Digest();
  ASSIGN_OR_RETURN(info.kv_format.numerics_class, DeviceNumericsClass(config, kernels, device));
  RETURN_IF_ERROR(kv::ValidateFormat(info.kv_format));
  const std::vector<std::string> unproven = UnprovenIn(kernels);
  if (!unproven.empty()) {
    LogWarning("unproven_kernels", {{"kernels", absl::StrJoin(unproven, ",")}});
  }
  LogInfo("device", {{"name", device.name}, {"kernels", kernels.Text()}});
  return std::unique_ptr<DeviceExecutor>(
      new DeviceExecutor(std::move(info), kernels, std::move(model)));
}

DeviceExecutor::DeviceExecutor(ExecutorInfo info, const DeviceKernels& kernels,
                               std::unique_ptr<DeviceModel> model)
    : info_(std::move(info)), kernels_(kernels), model_(std::move(model)) {
  sample_scratch_.resize(static_cast<size_t>(info_.vocab_size));
}

void DeviceExecutor::SetTick(Tick tick) {
  tick_ = tick;
  model_->SetTick(std::move(tick));
}

void DeviceExecutor::AttachPool(uint8_t* base, int32_t pages) {
  base_ = base;
  pages_ = pages;
  // Pages that are there already have been written by somebody else.
  replaced_.assign(static_cast<size_t>(pages), 1);
  attached_ = model_->MakePool(pages);
}

void DeviceExecutor::OnPagesReplaced(std::span<const int32_t> pages) {
  for (const int32_t page : pages) replaced_[static_cast<size_t>(page)] = 1;
}

// Pages of the step that hold rows before it. What the step itself writes need not be copied.
Status DeviceExecutor::CopyReplaced(std::span<const StepItem> items) {
  const auto bytes = static_cast<size_t>(model_->page_bytes());
  for (const StepItem& item : items) {
    const int64_t end = item.first_position + static_cast<int64_t>(item.tokens.size());
    for (int64_t first = 0; first < end; first += cuda::kPageRows) {
      const auto page =
          static_cast<size_t>(item.pages[static_cast<size_t>(first / cuda::kPageRows)]);
      if (replaced_[page] == 0) continue;
      replaced_[page] = 0;
      if (first >= item.first_position) continue;
      RETURN_IF_ERROR(DeviceStatus(cuda::CopyIn(model_->pool() + page * bytes, base_ + page * bytes,
                                                bytes, model_->stream()),
                                   "copying a page"));
    }
  }
  return absl::OkStatus();
}

void DeviceExecutor::KeepRows(uint32_t layer, const uint16_t* first, const uint16_t* second) {
  const kv::KvFormat& format = info_.kv_format;
  const size_t segment = format.segment_bytes();
  const std::vector<cuda::KvSlot>& slots = model_->slots();
  size_t part = 0;  // where it begins in a segment
  for (const kv::RowField& field : format.fields) {
    const uint16_t* from = &field == &format.fields.front() ? first : second;
    const size_t head_bytes = size_t{field.elements} * sizeof(uint16_t);
    for (const cuda::KvSlot& slot : slots) {
      uint8_t* to = base_ + static_cast<size_t>(slot.page) * format.block_bytes() +
                    layer * segment + part + static_cast<size_t>(slot.row) * head_bytes;
      for (uint32_t head = 0; head < field.heads; ++head) {
        std::memcpy(to + head * format.block_tokens * head_bytes, from, head_bytes);
        from += field.elements;
      }
    }
    part += field.heads * format.block_tokens * head_bytes;
  }
  const SegmentPacker& whole = model_->segments();
  for (size_t i = 0; i < whole.pages().size(); ++i) {
    std::memcpy(
        base_ + static_cast<size_t>(whole.pages()[i]) * format.block_bytes() + layer * segment,
        whole.segment(layer, i), segment);
  }
}

std::optional<uint32_t> DeviceExecutor::SegmentPart(int32_t page, uint32_t layer) {
  const SegmentPacker& whole = model_->segments();
  const auto found = std::find(whole.pages().begin(), whole.pages().end(), page);
  if (found == whole.pages().end()) return std::nullopt;
  return whole.part(layer, static_cast<size_t>(found - whole.pages().begin()));
}

Status DeviceExecutor::Step(const StepWishes& wishes, const LayerDone& layer_done) {
  RETURN_IF_ERROR(attached_);
  RETURN_IF_ERROR(CheckStep(info_, pages_, wishes.items));
  RETURN_IF_ERROR(CheckSamples(wishes));
  RETURN_IF_ERROR(CopyReplaced(wishes.items));
  RETURN_IF_ERROR(model_->Forward(wishes));
  for (uint32_t layer = 0; layer < info_.kv_format.layers; ++layer) {
    const uint16_t* first = nullptr;
    const uint16_t* second = nullptr;
    RETURN_IF_ERROR(model_->AwaitRows(layer, &first, &second));
    KeepRows(layer, first, second);
    if (layer_done) layer_done(layer);
    if (tick_) tick_();
  }
  return model_->AwaitOutputs();
}

Status DeviceExecutor::Run(std::span<const StepItem> items, const LayerDone& layer_done) {
  output_of_item_.clear();
  int64_t outputs = 0;
  for (const StepItem& item : items) output_of_item_.push_back(item.wants_output ? outputs++ : -1);
  return Step({.items = items}, layer_done);
}

Status DeviceExecutor::RunAll(std::span<const StepItem> items) {
  output_of_item_.clear();
  return Step({.items = items, .all_outputs = true}, nullptr);
}

SampledToken DeviceExecutor::Sample(size_t item, const SampleInput& input) {
  if (item >= output_of_item_.size() || output_of_item_[item] < 0) return {};
  return SampleOnHost(model_->logits(output_of_item_[item]), input);
}

Status DeviceExecutor::RunAndSample(std::span<const StepItem> items,
                                    std::span<const StepSample> samples,
                                    const LayerDone& layer_done,
                                    std::vector<SampledToken>* tokens) {
  if (info_.vocab_size > cuda::kSampleVocabMax) {
    return Executor::RunAndSample(items, samples, layer_done, tokens);
  }
  tokens->clear();
  drawn_ = 0;
  output_of_item_.clear();
  RETURN_IF_ERROR(Step({.items = items, .samples = samples}, layer_done));
  for (size_t i = 0; i < samples.size(); ++i) {
    std::optional<SampledToken> drawn = model_->drawn(i);
    drawn_ += drawn ? 1 : 0;
    tokens->push_back(drawn ? *std::move(drawn)
                            : SampleOnHost(model_->sample_logits(i), samples[i].input));
  }
  return absl::OkStatus();
}

SampledToken DeviceExecutor::SampleOnHost(std::span<const float> logits, const SampleInput& input) {
  std::copy(logits.begin(), logits.end(), sample_scratch_.begin());
  return SampleWith(kernels::Select(kernels::BestIsa()), sample_scratch_, input);
}

}  // namespace reprise::worker
