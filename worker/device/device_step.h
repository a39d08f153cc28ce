// A step as the device's kernels see it: its rows, step rows first, with the arrays that say where
// each stands. Planned on the host, sent once a step. Owned by the DeviceModel; one thread.
#ifndef REPRISE_WORKER_DEVICE_DEVICE_STEP_H_
#define REPRISE_WORKER_DEVICE_DEVICE_STEP_H_

#include <compare>
#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/kv_rows.h"
#include "kernels/cuda/prefill.h"
#include "worker/device/device_kernels.h"
#include "worker/device/sample_plan.h"
#include "worker/device/step_upload.h"
#include "worker/engine/executor.h"
#include "worker/model/context_parallel.h"
#include "worker/model/model_config.h"
#include "worker/model/rope_rows.h"

namespace reprise::worker {

// Runs of rows that one call of a prompt kernel serves.
struct PromptBatch {
  int64_t first_row = 0;
  int64_t rows = 0;
  const cuda::PrefillRun* runs = nullptr;
  int64_t run_count = 0;
  int rows_max = 0;  // of a run
  // For Prefill.
  const cuda::PrefillTile* tiles = nullptr;
  int64_t tile_count = 0;
  int leaves_max = 0;
  const int32_t* page_tables = nullptr;
  // For keys that are expanded first: one run.
  int64_t keys = 0;
  const cuda::KvSlot* key_slots = nullptr;  // [keys]
  int64_t scratch_bytes = 0;
};

// What is asked of a step.
struct StepWishes {
  std::span<const StepItem> items;
  bool all_outputs = false;  // every row gives logits; else the last of each item that wants output
  // Of such items. Drawn on the device, and no logits reach the host but those of samples that the
  // host must draw; none: all logits do.
  std::span<const StepSample> samples = {};
};

// What the launches of a step depend on, where they can be repeated for another: steps of single
// rows that all want output, filled up to `rows`. Equal keys have equal launches, pointers aside.
struct StepShape {
  int64_t rows = 0;   // 0: not such a step
  int64_t pages = 0;  // room of a page table
  bool sampled = false;
  bool shared = false;  // rows of Decode share keys
  auto operator<=>(const StepShape&) const = default;
};

// Where rows [0, rows) of a page table lie.
std::vector<cuda::KvSlot> SlotsOf(const int32_t* pages, int64_t rows);

class DeviceStep {
 public:
  DeviceStep(const ModelConfig& config, const DeviceKernels& kernels, int workers, int processors,
             StepMoves* moves);

  // Steps that follow are of a context rank, which outlives them: only rows at positions it owns,
  // items' pages are its own, attention is for it to plan. Null: of all rows.
  void SetContext(ContextParallel* context) { context_ = context; }

  // Plans and sends. Precondition: CheckStep; samples are of items that want output.
  Status Prepare(const StepWishes& wishes, cuda::Stream stream);

  // Rows that the kernels compute: those of a StepShape, what is beyond the step's own of no use.
  int64_t rows() const { return rows_; }
  // A step whose launches may be repeated for others of the same shape; rows 0: none.
  StepShape shape() const { return repeats_ ? shape_ : StepShape{}; }
  // Rows [0, step_rows()) are computed in step form, the others in prompt form; zero where the
  // kernels have one form.
  int64_t step_rows() const { return step_rows_; }
  const int32_t* ids() const { return upload_.At(device_ids_); }
  const cuda::KvSlot* slots() const { return upload_.At(device_slots_); }
  const float* cos() const { return upload_.At(cos_); }
  const float* sin() const { return upload_.At(sin_); }
  // Of step rows without Decode, and of prompt rows; none of a context rank.
  const std::vector<PromptBatch>& step_batches() const { return step_batches_; }
  const std::vector<PromptBatch>& prompt_batches() const { return prompt_batches_; }
  // Of Decode: keys, tables and plan of the step rows; nodes are the caller's.
  void FillDecode(cuda::DecodeArgs* args) const;
  int32_t decode_slots() const { return plan_.slots; }
  // Rows of Decode whose first keys are read once for several of them.
  int64_t shared_rows() const { return static_cast<int64_t>(plan_.rows.size()); }

  int64_t outputs() const { return static_cast<int64_t>(output_rows_.size()); }
  // Rows of logits that are computed.
  int64_t output_rows_computed() const { return shape_.rows > 0 ? shape_.rows : outputs(); }
  // Whether samples were asked for; then FillSampling says of what, logits and results apart.
  bool sampled() const { return sampled_; }
  const SamplePlan& samples() const { return samples_; }
  void FillSampling(cuda::SampleArgs* args) const;
  const int32_t* copied_outputs() const { return upload_.At(device_copied_); }
  const int32_t* output_rows() const { return upload_.At(device_output_rows_); }
  // Pages that the step writes from their first row to their last.
  const std::vector<int32_t>& whole_pages() const { return whole_pages_; }
  // The other rows, which reach the host one by one: sent_rows() of them, those beyond the step's
  // own included.
  int64_t sent_rows() const;
  const cuda::KvSlot* sent_slots() const {
    return whole_pages_.empty() ? slots() : upload_.At(device_loose_);
  }
  // Host: where sent row r goes; those beyond the step's own go nowhere.
  const std::vector<cuda::KvSlot>& host_slots() const { return loose_; }

 private:
  // Rows at consecutive positions.
  struct Run {
    const StepItem* item = nullptr;
    int64_t begin = 0;  // positions
    int64_t end = 0;
    int64_t row = 0;
  };
  struct Batch {
    PromptBatch view;
    Uploaded<cuda::PrefillRun> runs;
    Uploaded<cuda::PrefillTile> tiles;
    Uploaded<int32_t> page_tables;
    Uploaded<cuda::KvSlot> key_slots;
  };
  StepShape ShapeOf(const StepWishes& wishes) const;
  int64_t CacheRow(int64_t position) const {
    return context_ == nullptr ? position : context_->stripes().LocalRow(position);
  }
  void SplitRuns(std::span<const StepItem> items);
  void OwnRuns(const Run& run, bool prompt, int64_t* rows, std::vector<Run>* own);
  void PutOutputs(const StepWishes& wishes);
  void PutRows();
  Status PutAttention();
  void AddRows(const Run& run);
  Status PutRuns(std::span<const Run> runs, bool hopper, std::vector<Batch>* batches);
  // Keys of all of a latent model's prompt rows are expanded, run by run.
  Status PutExpanded(std::span<const Run> runs, std::vector<Batch>* batches);
  void PutDecode(std::span<const Run> runs);
  void PutPlan(size_t units);
  void View(const std::vector<Batch>& from, std::vector<PromptBatch>* to) const;

  const ModelConfig& config_;
  const DeviceKernels kernels_;
  const int workers_;
  const int processors_;
  const cuda::DecodeSharing sharing_;
  RopeRows rope_;
  StepUpload upload_;
  std::vector<Run> step_runs_, prompt_runs_;
  ContextParallel* context_ = nullptr;
  std::vector<SharedRun> context_runs_;  // of all context ranks
  StepShape shape_;                      // that its arrays have room for
  bool repeats_ = false;
  int units_ = 0;  // of Decode
  int64_t rows_ = 0;
  std::vector<int32_t> ids_;
  std::vector<int64_t> positions_;
  std::vector<cuda::KvSlot> slots_;
  std::vector<cuda::KvSlot> loose_;
  std::vector<int32_t> whole_pages_;
  std::vector<int32_t> output_rows_;  // by output, in the order of the items
  std::vector<int64_t> output_of_;    // by item, -1: none; of several outputs the last
  bool sampled_ = false;
  SamplePlan samples_;
  int64_t step_rows_ = 0;
  Uploaded<int32_t> device_ids_, device_output_rows_, device_copied_;
  Uploaded<cuda::SampleRow> sample_rows_;
  Uploaded<cuda::TokenEdit> edits_;
  Uploaded<cuda::KvSlot> device_slots_, device_loose_;
  Uploaded<float> cos_, sin_;
  std::vector<Batch> step_pending_, prompt_pending_;
  std::vector<PromptBatch> step_batches_, prompt_batches_;

  cuda::DecodePlan plan_;
  int64_t table_stride_ = 0;
  Uploaded<int32_t> keys_, table_, run_begin_, nodes_, round_begin_, joins_there_, shared_rows_;
  Uploaded<cuda::DecodeRun> decode_runs_;
  Uploaded<cuda::DecodeJoin> joins_;
  Uploaded<cuda::DecodeMerge> merges_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_DEVICE_STEP_H_
