#include "worker/engine/timed_executor.h"

#include <algorithm>
#include <chrono>

#include "common/clock.h"

namespace reprise::worker {

int64_t TimedStepBegin(int64_t now_ns, int64_t due_ns, double hidden_ms) {
  const bool hidden =
      due_ns > 0 && static_cast<double>(now_ns - due_ns) <= hidden_ms * kMillisecond;
  return hidden ? std::min(now_ns, due_ns) : now_ns;
}

StatusOr<std::unique_ptr<TimedExecutor>> TimedExecutor::Create(const TimedOptions& options) {
  RETURN_IF_ERROR(ValidateTimedModel(options.model));
  if (options.chunk_tokens_max < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_tokens_max is ", options.chunk_tokens_max, ", at least 1 is needed"));
  }
  return std::unique_ptr<TimedExecutor>(new TimedExecutor(options));
}

TimedExecutor::TimedExecutor(const TimedOptions& options) : options_(options) {
  info_.model_name = options.name;
  info_.kv_format = TimedFormat(options.model);
  info_.vocab_size = options.model.vocab_size;
  info_.context_tokens = options.model.context_tokens;
  info_.chunk_tokens_max = options.chunk_tokens_max;
  info_.two_forms = options.model.two_forms;
}

void TimedExecutor::AttachPool(uint8_t* base, int32_t pages) {
  base_ = base;
  pages_ = pages;
}

uint8_t* TimedExecutor::Segment(int32_t page, uint32_t layer) const {
  const size_t segment = size_t{options_.model.row_bytes} * options_.model.block_tokens;
  return base_ + (static_cast<size_t>(page) * options_.model.layers + layer) * segment;
}

Status TimedExecutor::CheckItem(const StepItem& item) const {
  const int64_t rows = item.first_position + static_cast<int64_t>(item.tokens.size());
  const auto held = static_cast<int64_t>(item.pages.size()) * options_.model.block_tokens;
  if (item.tokens.empty() || item.first_position < 0 || rows > held) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows [", item.first_position, ", ", rows, ") do not fit in ",
                     item.pages.size(), " pages of ", options_.model.block_tokens, " tokens"));
  }
  for (const int32_t page : item.pages) {
    if (page < 0 || page >= pages_) {
      return absl::InvalidArgumentError(
          absl::StrCat("page ", page, " is outside the pool of ", pages_));
    }
  }
  return absl::OkStatus();
}

void TimedExecutor::WriteLayer(const StepItem& item, uint32_t layer) const {
  const TimedModel& model = options_.model;
  for (size_t i = 0; i < item.tokens.size(); ++i) {
    const int64_t position = item.first_position + static_cast<int64_t>(i);
    const auto block = static_cast<size_t>(position / model.block_tokens);
    const auto row = static_cast<size_t>(position % model.block_tokens);
    uint8_t* const bytes = Segment(item.pages[block], layer) + row * model.row_bytes;
    WriteTimedRow(model, item.tokens[i], position, FormAt(item, position), layer,
                  {bytes, model.row_bytes});
  }
}

uint64_t TimedExecutor::FoldOf(const StepItem& item) const {
  const TimedModel& model = options_.model;
  TimedFold fold(model);
  int64_t left = item.first_position + static_cast<int64_t>(item.tokens.size());
  for (size_t block = 0; left > 0; ++block, left -= model.block_tokens) {
    const auto rows = static_cast<size_t>(std::min<int64_t>(left, model.block_tokens));
    for (uint32_t layer = 0; layer < model.layers; ++layer) {
      fold.Add({Segment(item.pages[block], layer), rows * model.row_bytes});
    }
  }
  return fold.Value();
}

void TimedExecutor::WaitUntil(int64_t until_ns) {
  MutexLock lock(mu_);
  for (;;) {
    const TimeNs left = until_ns - RealClock().NowNs();
    if (left <= 0) return;
    timer_.WaitFor(mu_, std::chrono::nanoseconds(left));
  }
}

Status TimedExecutor::Run(std::span<const StepItem> items, const LayerDone& layer_done) {
  size_t prompt_tokens = 0;
  for (const StepItem& item : items) {
    RETURN_IF_ERROR(CheckItem(item));
    if (item.tokens.size() > 1) prompt_tokens += item.tokens.size();
  }
  const TimeNs start = TimedStepBegin(RealClock().NowNs(), due_ns_, options_.hidden_ms);
  const double step_ns =
      (options_.step_ms + options_.prefill_ms_per_token * static_cast<double>(prompt_tokens)) *
      kMillisecond;
  due_ns_ = start + static_cast<TimeNs>(step_ns);
  const uint32_t layers = options_.model.layers;
  for (uint32_t layer = 0; layer < layers; ++layer) {
    for (const StepItem& item : items) WriteLayer(item, layer);
    if (step_ns > 0) WaitUntil(start + static_cast<TimeNs>(step_ns * (layer + 1) / layers));
    if (layer_done) layer_done(layer);
  }
  folds_.assign(items.size(), 0);
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].wants_output) folds_[i] = FoldOf(items[i]);
  }
  return absl::OkStatus();
}

SampledToken TimedExecutor::Sample(size_t item, const SampleInput& input) {
  return TimedSample(options_.model, folds_[item], input);
}

}  // namespace reprise::worker
