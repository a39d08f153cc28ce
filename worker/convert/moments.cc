#include "worker/convert/moments.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include "kernels/cpu/thread_pool.h"
#include "worker/model/attention_block.h"
#include "worker/model/offline.h"
#include "worker/model/rope_rows.h"
#include "worker/model/step.h"

namespace reprise::convert {
namespace {

using kernels::F32;

// The rows of one sequence that starts at position 0, as a model left them in its cache.
class CacheReader {
 public:
  explicit CacheReader(worker::OfflineModel& model)
      : model_(model),
        config_(model.executor().config()),
        ops_(kernels::Select(kernels::BestIsa())),
        pool_(1),
        scratch_(pool_),
        rope_(config_),
        dims_(config_.kv_heads * config_.head_dim) {}

  // Adds z z^T of the first `rows` positions; only the lower half is written.
  void AddTo(int64_t layer, int64_t rows, Matrix* sum) {
    const F32 keys = keys_.Rows(rows, dims_);
    const F32 values = values_.Rows(rows, dims_);
    ops_.read_kv(scratch_.None(), {PoolAt(layer), model_.pages().data(), 0, keys, values});
    TurnBack(rows, keys);
    std::vector<double> z(static_cast<size_t>(2 * dims_));
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(keys.row(r), dims_, z.begin());
      std::copy_n(values.row(r), dims_, z.begin() + dims_);
      for (int64_t i = 0; i < 2 * dims_; ++i) {
        double* to = sum->row(i);
        const double factor = z[static_cast<size_t>(i)];
        for (int64_t j = 0; j <= i; ++j) to[j] += factor * z[static_cast<size_t>(j)];
      }
    }
  }

 private:
  kernels::PagedKv PoolAt(int64_t layer) const {
    kernels::PagedKv kv = worker::KvShape(config_);
    // The kernels write through this pointer where they are told to; here they read.
    kv.base = reinterpret_cast<std::byte*>(const_cast<uint8_t*>(model_.pool().data()));
    kv.dtype = kernels::DType::kF32;
    kv.block_tokens = model_.executor().info().kv_format.block_tokens;
    kv.page_stride_bytes = SegmentBytes(kv) * config_.layers;
    kv.layer = layer;
    return kv;
  }

  void TurnBack(int64_t rows, const F32& keys) {
    std::vector<int64_t> positions(static_cast<size_t>(rows));
    std::iota(positions.begin(), positions.end(), int64_t{0});
    const kernels::RopeTable table = rope_.Fill(positions);
    const int64_t half = table.half;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t head = 0; head < config_.kv_heads; ++head) {
        float* k = keys.row(r) + head * config_.head_dim;
        for (int64_t i = 0; i < half; ++i) {
          const float cos = table.cos[r * half + i];
          const float sin = table.sin[r * half + i];
          const float x = k[i];
          const float y = k[i + half];
          k[i] = x * cos + y * sin;
          k[i + half] = y * cos - x * sin;
        }
      }
    }
  }

  worker::OfflineModel& model_;
  const worker::ModelConfig config_;
  const kernels::CpuOps& ops_;
  kernels::ThreadPool pool_;
  worker::Scratch scratch_;
  worker::RopeRows rope_;
  const int64_t dims_;  // of all keys, and of all values
  worker::RowBuffer keys_, values_;
};

void FinishMean(int64_t count, Matrix* sum) {
  for (int64_t i = 0; i < sum->rows(); ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      sum->at(i, j) /= static_cast<double>(count);
      sum->at(j, i) = sum->at(i, j);
    }
  }
}

}  // namespace

StatusOr<std::vector<Matrix>> KeyValueMoments(const std::string& dir,
                                              std::span<const int32_t> tokens,
                                              const TextOptions& options) {
  ASSIGN_OR_RETURN(
      const std::unique_ptr<worker::OfflineModel> model,
      worker::OfflineModel::Open({.model_dir = dir, .kv_dtype = "f32", .threads = options.threads},
                                 options.window_tokens));
  const worker::ModelConfig& config = model->executor().config();
  const int64_t numbers = 2 * config.kv_heads * config.head_dim;
  const auto count = static_cast<int64_t>(tokens.size());
  if (count < numbers) {
    return absl::InvalidArgumentError(absl::StrCat("the calibration text has ", count,
                                                   " tokens, this model's ", numbers,
                                                   " keys and values need as many at least"));
  }
  const int64_t window = std::min(config.context, options.window_tokens);
  std::vector<Matrix> moments(static_cast<size_t>(config.layers), Matrix(numbers, numbers));
  CacheReader reader(*model);
  for (int64_t first = 0; first < count; first += window) {
    const int64_t rows = std::min(window, count - first);
    RETURN_IF_ERROR(
        model->Read(tokens.subspan(static_cast<size_t>(first), static_cast<size_t>(rows))));
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      reader.AddTo(layer, rows, &moments[static_cast<size_t>(layer)]);
    }
  }
  for (Matrix& sum : moments) FinishMean(count, &sum);
  return moments;
}

}  // namespace reprise::convert
