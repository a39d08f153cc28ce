#include "worker/device/device_executor.h"

#include <algorithm>
#include <utility>

#include "worker/engine/sampling_ops.h"
#include "worker/model/model_setup.h"

namespace reprise::worker {
namespace {

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

StatusOr<std::unique_ptr<DeviceExecutor>> DeviceExecutor::Create(const DeviceOptions& options) {
  ASSIGN_OR_RETURN(LoadedDevice loaded, LoadOnDevice(options));
  return std::unique_ptr<DeviceExecutor>(
      new DeviceExecutor(std::move(loaded.info), loaded.kernels, std::move(loaded.model)));
}

DeviceExecutor::DeviceExecutor(ExecutorInfo info, const DeviceKernels& kernels,
                               std::unique_ptr<DeviceModel> model)
    : info_(std::move(info)),
      kernels_(kernels),
      model_(std::move(model)),
      pages_(model_.get(), info_.kv_format) {
  sample_scratch_.resize(static_cast<size_t>(info_.vocab_size));
}

void DeviceExecutor::SetTick(Tick tick) {
  tick_ = tick;
  model_->SetTick(std::move(tick));
}

void DeviceExecutor::AttachPool(uint8_t* base, int32_t pages) {
  attached_ = pages_.Attach(base, pages);
}

void DeviceExecutor::OnPagesReplaced(std::span<const int32_t> pages) {
  for (const int32_t page : pages) pages_.OnReplaced(page);
}

std::optional<uint32_t> DeviceExecutor::SegmentPart(int32_t page, uint32_t layer) {
  const SegmentPacker& whole = model_->segments();
  const auto found = std::find(whole.pages().begin(), whole.pages().end(), page);
  if (found == whole.pages().end()) return std::nullopt;
  return whole.part(layer, static_cast<size_t>(found - whole.pages().begin()));
}

Status DeviceExecutor::Step(const StepWishes& wishes, const LayerDone& layer_done) {
  RETURN_IF_ERROR(attached_);
  RETURN_IF_ERROR(CheckStep(info_, pages_.pages(), wishes.items));
  RETURN_IF_ERROR(CheckSamples(wishes));
  RETURN_IF_ERROR(pages_.GiveReplaced(wishes.items));
  RETURN_IF_ERROR(model_->Forward(wishes));
  for (uint32_t layer = 0; layer < info_.kv_format.layers; ++layer) {
    RETURN_IF_ERROR(pages_.TakeLayer(layer));
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
  if (!kernels_.sample || info_.vocab_size > cuda::kSampleVocabMax) {
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
