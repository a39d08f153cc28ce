#include "worker/model/offline.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace reprise::worker {
namespace {

constexpr size_t kChunkTokens = 256;  // whose logits are in memory at a time

}  // namespace

StatusOr<std::unique_ptr<OfflineModel>> OfflineModel::Open(const ModelExecutorOptions& options,
                                                           int64_t context_tokens_max) {
  std::unique_ptr<OfflineModel> model(new OfflineModel);
  ASSIGN_OR_RETURN(model->executor_, ModelExecutor::Create(options));
  const ExecutorInfo& info = model->executor_->info();
  int64_t tokens = info.context_tokens;
  if (context_tokens_max > 0) tokens = std::min(tokens, context_tokens_max);
  const int64_t block = info.kv_format.block_tokens;
  const int64_t pages = (tokens + block - 1) / block;
  model->pages_.resize(static_cast<size_t>(pages));
  std::iota(model->pages_.rbegin(), model->pages_.rend(), 0);  // descending: no order is assumed
  model->pool_.resize(static_cast<size_t>(pages) * info.kv_format.block_bytes());
  model->executor_->AttachPool(model->pool_.data(), static_cast<int32_t>(pages));
  return model;
}

Status OfflineModel::ForEachRow(std::span<const int32_t> tokens, size_t chunk_tokens,
                                int64_t prompt_end, const RowDone& row_done) {
  for (size_t first = 0; first < tokens.size(); first += chunk_tokens) {
    const StepItem item{tokens.subspan(first, std::min(chunk_tokens, tokens.size() - first)),
                        static_cast<int64_t>(first), pages_, true, prompt_end};
    RETURN_IF_ERROR(executor_->RunAll({&item, 1}));
    for (size_t i = 0; i < item.tokens.size(); ++i) {
      row_done(first + i, executor_->logits(static_cast<int64_t>(i)));
    }
  }
  return absl::OkStatus();
}

StatusOr<std::vector<float>> OfflineModel::ForwardAll(std::span<const int32_t> tokens,
                                                      int64_t chunk_tokens, int64_t prompt_end) {
  std::vector<float> logits;
  logits.reserve(tokens.size() * static_cast<size_t>(vocab()));
  const size_t chunk = chunk_tokens > 0 ? static_cast<size_t>(chunk_tokens) : tokens.size();
  RETURN_IF_ERROR(
      ForEachRow(tokens, chunk, prompt_end, [&logits](size_t, std::span<const float> row) {
        logits.insert(logits.end(), row.begin(), row.end());
      }));
  return logits;
}

StatusOr<std::vector<int32_t>> OfflineModel::Greedy(std::span<const int32_t> prompt,
                                                    int64_t count) {
  SamplingParams params;
  params.temperature = 0;
  std::vector<int32_t> generated;
  std::span<const int32_t> next = prompt;
  int64_t position = 0;
  while (static_cast<int64_t>(generated.size()) < count) {
    const StepItem item{next, position, pages_, true};
    RETURN_IF_ERROR(executor_->Run({&item, 1}, nullptr));
    const auto index = static_cast<uint32_t>(generated.size());
    const SampledToken token = executor_->Sample(0, {&params, 0, index, prompt, generated});
    position += static_cast<int64_t>(next.size());
    generated.push_back(token.id);
    next = std::span<const int32_t>(generated).last(1);
  }
  return generated;
}

StatusOr<double> OfflineModel::NegativeLogLikelihood(std::span<const int32_t> tokens) {
  double nll = 0;
  RETURN_IF_ERROR(
      ForEachRow(tokens, kChunkTokens, INT64_MAX, [&](size_t position, std::span<const float> row) {
        if (position + 1 == tokens.size()) return;
        nll -= LogSoftmax(row, tokens[position + 1]);
      }));
  return nll;
}

Status OfflineModel::Read(std::span<const int32_t> tokens) {
  return ForEachRow(tokens, kChunkTokens, INT64_MAX, [](size_t, std::span<const float>) {});
}

double LogSoftmax(std::span<const float> logits, int32_t id) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - max);
  return static_cast<double>(logits[static_cast<size_t>(id)]) - max - std::log(sum);
}

}  // namespace reprise::worker
