// The rows of the step being computed, as the parts of the model see them, and what those parts
// share. Owned by the Transformer, one thread.
#ifndef REPRISE_WORKER_MODEL_STEP_H_
#define REPRISE_WORKER_MODEL_STEP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"
#include "kernels/packed_weights.h"
#include "worker/model/host_context_parallel.h"
#include "worker/model/pace.h"
#include "worker/model/weights.h"
#include "worker/parallel/communicator.h"
#include "worker/parallel/context/attender.h"

namespace reprise::worker {

// Consecutive rows of one sequence, of one form.
struct RowRun {
  int64_t row = 0;  // the first, in the step
  int64_t rows = 0;
  int64_t first_position = 0;
  const int32_t* pages = nullptr;  // page table of the sequence
  bool prompt = true;              // prompt form; else step form
};

// Scratch of the kernels: grows to the largest call seen and is reused.
class Scratch {
 public:
  explicit Scratch(kernels::ThreadPool& pool) : pool_(pool) {}
  void Reserve(int64_t bytes) {
    const auto size = static_cast<size_t>(bytes) + kAlignment;
    if (memory_.size() < size) memory_.resize(size);
  }
  kernels::Exec With(int64_t bytes) {
    Reserve(bytes);
    void* start = memory_.data();
    size_t space = memory_.size();
    std::align(kAlignment, 1, start, space);
    return {&pool_, static_cast<std::byte*>(start), static_cast<int64_t>(space)};
  }
  kernels::Exec None() { return With(0); }
  int64_t threads() const { return pool_.threads(); }

 private:
  static constexpr size_t kAlignment = 64;
  kernels::ThreadPool& pool_;
  std::vector<std::byte> memory_;
};

// A buffer of rows that only grows.
class RowBuffer {
 public:
  kernels::F32 Rows(int64_t rows, int64_t cols) {
    const auto size = static_cast<size_t>(rows * cols);
    if (values_.size() < size) values_.resize(size);
    return {values_.data(), rows, cols, cols};
  }

 private:
  std::vector<float> values_;
};

// The ranks that hold the other shares of this rank's layers, when the model is split over them.
// They run the same steps, and their calls match.
struct TensorRanks {
  parallel::Communicator* communicator = nullptr;
  TimeNs deadline_ns = 0;  // of the step
};

// What all parts of a model compute with.
struct StepContext {
  const kernels::CpuOps& ops;
  Scratch& scratch;
  Pace pace;
  kernels::PagedKv kv;      // the pool; `layer` is the current one
  kernels::RopeTable rope;  // of the step's rows
  std::vector<RowRun> runs;
  int64_t rows = 0;
  std::vector<kernels::AttentionItem> attention_pieces = {};  // Attention's, kept for their memory
  HostContextParallel* context = nullptr;  // of a group; null: all positions are here
  TensorRanks tensor = {};
  Status status = absl::OkStatus();  // the first failure of a rank: what follows is of no use
  RowBuffer share = {};              // a row-parallel product's, before it is joined
};

// Where the cache keeps a position, in rows of its sequence's page table.
inline int64_t CacheRow(const StepContext& step, int64_t position) {
  return step.context == nullptr ? position : step.context->stripes().LocalRow(position);
}

// All work of a step that grows with its rows or with the positions before them goes through these,
// in pieces as the pace wants them; a row's bits do not depend on the pieces.
//
// y = x W^T + bias; an empty bias is none.
void Linear(StepContext& step, const kernels::F32& x, const kernels::PackedWeights& weights,
            const std::vector<float>& bias, const kernels::F32& y);
// y = x W^T + bias + residual in the form of row-parallel layers: k summed in 8 slices, by all
// tensor ranks where the weights are split. `residual` may be y, or have no data.
void LinearRowParallel(StepContext& step, const kernels::F32& x, const Projection& weights,
                       const kernels::ConstF32& residual, const kernels::F32& y);

// The kernel's attention; each item's segments are all its keys. Where one row takes more than a
// piece and all heads share one key, its heads go one after the other.
void Attention(StepContext& step, const kernels::AttentionArgs& args, int64_t scratch_bytes);

// Attention, for the keys that a group's ranks bring each other.
class StepAttender final : public parallel::Attender {
 public:
  // `context` in positions.
  StepAttender(StepContext& step, int64_t heads, float scale, int64_t context)
      : step_(step), heads_(heads), scale_(scale), context_(context) {}
  void Attend(const kernels::PagedKv& kv, std::span<const kernels::AttentionItem> items) override;

 private:
  StepContext& step_;
  const int64_t heads_;
  const float scale_;
  const int64_t context_;
};

// Attention of runs over the step's pool. Keeps the lists it builds, so that their memory is
// reused.
class RunAttention {
 public:
  RunAttention(int64_t heads, float scale, int64_t context)
      : heads_(heads), scale_(scale), context_(context) {}
  int64_t ScratchBytes(const StepContext& step) const {
    return kernels::AttentionScratchBytes(step.scratch.threads(), step.kv, context_);
  }
  // Row i of q, out and lse [rows, heads] is row runs.front().row + i of the step.
  void Attend(StepContext& step, std::span<const RowRun> runs, const kernels::F32& q,
              const kernels::F32& out, const kernels::F32& lse);

 private:
  const int64_t heads_;
  const float scale_;
  const int64_t context_;                      // positions
  std::vector<kernels::KeySegment> segments_;  // one per run
  std::vector<kernels::AttentionItem> items_;
};

// Columns [first, first + cols) of a matrix.
inline kernels::F32 Columns(const kernels::F32& m, int64_t first, int64_t cols) {
  return {m.data + first, m.rows, cols, m.row_stride};
}
// Rows [first, first + rows).
inline kernels::F32 RowsAt(const kernels::F32& m, int64_t first, int64_t rows) {
  return {m.data + first * m.row_stride, rows, m.cols, m.row_stride};
}

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_STEP_H_
