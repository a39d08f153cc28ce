#include "worker/model/latent_layer.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace reprise::worker {
namespace {

kernels::PagedKv PoolOf(const ModelConfig& config, const LatentLayerOptions& options) {
  kernels::PagedKv kv = KvShape(config);
  kv.dtype = options.kv_dtype;
  kv.block_tokens = options.block_tokens;
  kv.page_stride_bytes = SegmentBytes(kv);
  return kv;
}

}  // namespace

LatentLayer::LatentLayer(const ModelConfig& config, const LayerWeights& weights,
                         const LatentLayerOptions& options)
    : config_(config),
      weights_(weights),
      pool_(options.threads),
      scratch_(pool_),
      step_{kernels::Select(options.isa),
            scratch_,
            Pace(Pace::PieceOf(options.isa, options.threads)),
            PoolOf(config, options),
            {},
            {},
            0},
      attention_(MakeLatentAttention(config)),
      rope_(config),
      memory_(static_cast<size_t>(step_.kv.page_stride_bytes * options.pages)),
      all_pages_(static_cast<size_t>(options.pages)) {
  step_.kv.base = memory_.data();
  std::iota(all_pages_.begin(), all_pages_.end(), 0);
}

void LatentLayer::SetRuns(std::vector<RowRun> runs) {
  std::vector<int64_t> positions;
  for (const RowRun& run : runs) {
    for (int64_t i = 0; i < run.rows; ++i) positions.push_back(run.first_position + i);
  }
  step_.rows = static_cast<int64_t>(positions.size());
  step_.runs = std::move(runs);
  step_.rope = rope_.Fill(positions);
  attention_->Reserve(step_, weights_, step_.rows);
}

kernels::F32 LatentLayer::Attend() {
  const kernels::F32 attended = attended_.Rows(step_.rows, config_.heads * config_.value_dim());
  attention_->Attend(step_, weights_, attended);
  return attended;
}

kernels::F32 LatentLayer::Run(const kernels::F32& x, int64_t prompt_end) {
  const int64_t prompt = std::clamp<int64_t>(prompt_end, 0, x.rows);
  std::vector<RowRun> runs;
  if (prompt > 0) runs.push_back({0, prompt, 0, all_pages_.data(), true});
  if (prompt < x.rows) {
    runs.push_back({prompt, x.rows - prompt, prompt, all_pages_.data(), false});
  }
  SetRuns(std::move(runs));
  Project(x);
  return Attend();
}

}  // namespace reprise::worker
