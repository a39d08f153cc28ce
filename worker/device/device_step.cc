#include "worker/device/device_step.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/decode_share.h"

namespace reprise::worker {

using cuda::kPageRows;

namespace {

// Rows of a StepShape: few shapes, at most a third more rows than there are.
int64_t RoundedRows(int64_t rows) {
  int64_t step = 1;
  while (rows > 4 * step) step *= 2;
  return (rows + step - 1) / step * step;
}
// Page tables of a StepShape: a doubling sequence moves to the next shape when it has doubled.
int64_t RoundedPages(int64_t pages) {
  int64_t rounded = 4;
  while (rounded < pages) rounded *= 2;
  return rounded;
}
constexpr int64_t kShapeRowsMax = 256;

int64_t EndOf(const StepItem& item) {
  return item.first_position + static_cast<int64_t>(item.tokens.size());
}

// Rooms of a DecodePlan's arrays in a StepShape, in multiples of its workers and units. A plan that
// needs more is not of the shape. Nodes that rows share are listed for each of them.
constexpr size_t kNodesAWorker = 4;
constexpr size_t kNodesASharedUnit = 16;
constexpr int kNodesMax = 320;

}  // namespace

std::vector<cuda::KvSlot> SlotsOf(const int32_t* pages, int64_t rows) {
  std::vector<cuda::KvSlot> slots;
  slots.reserve(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) {
    slots.push_back({pages[i / kPageRows], static_cast<int32_t>(i % kPageRows)});
  }
  return slots;
}

DeviceStep::DeviceStep(const ModelConfig& config, const DeviceKernels& kernels, int workers,
                       int processors, StepMoves* moves)
    : config_(config),
      kernels_(kernels),
      workers_(workers),
      processors_(processors),
      sharing_(kernels.decode ? cuda::DecodeSharingOf(DecodeShapeOf(config, kernels.fp8))
                              : cuda::DecodeSharing{}),
      rope_(config),
      upload_(moves) {}

int64_t DeviceStep::sent_rows() const {
  return whole_pages_.empty() ? rows_ : static_cast<int64_t>(loose_.size());
}

void DeviceStep::AddRows(const Run& run) {
  const auto first = static_cast<size_t>(run.begin - run.item->first_position);
  for (size_t i = 0; i < static_cast<size_t>(run.end - run.begin); ++i) {
    const int64_t position = run.begin + static_cast<int64_t>(i);
    ids_.push_back(run.item->tokens[first + i]);
    positions_.push_back(position);
    // Stripes are of whole pages: a position has the same row in its page.
    const int64_t row = position % kPageRows;
    slots_.push_back({run.item->pages[static_cast<size_t>(CacheRow(position) / kPageRows)],
                      static_cast<int32_t>(row)});
    const bool whole = kernels_.pack && position - row >= run.item->first_position &&
                       position - row + kPageRows <= EndOf(*run.item);
    if (!whole) {
      loose_.push_back(slots_.back());
    } else if (row == 0) {
      whole_pages_.push_back(slots_.back().page);
    }
  }
}

StepShape DeviceStep::ShapeOf(const StepWishes& wishes) const {
  const std::span<const StepItem> items = wishes.items;
  const std::span<const StepSample> samples = wishes.samples;
  if (context_ != nullptr) return {};
  if (wishes.all_outputs || static_cast<int64_t>(items.size()) > kShapeRowsMax) return {};
  if (!samples.empty() && samples.size() != items.size()) return {};
  for (size_t i = 0; i < samples.size(); ++i) {
    if (samples[i].item != i) return {};
  }
  int64_t pages = 0;
  for (const StepItem& item : items) {
    const bool step_form = !kernels_.two_forms() || item.first_position >= item.prompt_end;
    if (item.tokens.size() != 1 || !item.wants_output || !step_form) return {};
    pages = std::max(pages, item.first_position / kPageRows + 1);
  }
  return {RoundedRows(static_cast<int64_t>(items.size())), RoundedPages(pages), !samples.empty()};
}

Status DeviceStep::PutRuns(std::span<const Run> runs, bool hopper, std::vector<Batch>* batches) {
  if (runs.empty()) return absl::OkStatus();
  std::vector<cuda::PrefillRun> prefill;
  std::vector<int32_t> tables;
  Batch batch;
  batch.view.first_row = runs.front().row;
  for (const Run& run : runs) {
    cuda::PrefillRun r;
    r.first_row = static_cast<int32_t>(run.row);
    r.rows = static_cast<int32_t>(run.end - run.begin);
    r.first_position = static_cast<int32_t>(run.begin);
    r.key_rows = static_cast<int32_t>(run.end);
    r.first_page = static_cast<int32_t>(tables.size());
    prefill.push_back(r);
    const auto pages = static_cast<size_t>((run.end + kPageRows - 1) / kPageRows);
    tables.insert(tables.end(), run.item->pages.begin(),
                  run.item->pages.begin() + static_cast<int64_t>(pages));
    batch.view.rows += run.end - run.begin;
    batch.view.rows_max = std::max(batch.view.rows_max, r.rows);
  }
  batch.view.run_count = static_cast<int64_t>(prefill.size());
  if (hopper) {
    cuda::PrefillPlan plan;
    RETURN_IF_ERROR(DeviceStatus(cuda::PlanPrefill(prefill, &plan), "planning attention"));
    batch.view.tile_count = static_cast<int64_t>(plan.tiles.size());
    batch.view.leaves_max = plan.leaves_max;
    batch.view.scratch_bytes =
        cuda::PrefillScratchBytes(plan, static_cast<int>(config_.value_dim()), processors_);
    batch.tiles = upload_.Put(plan.tiles);
  }
  if (shape_.rows > 0) {
    // Rows beyond the step's see no key.
    for (auto row = static_cast<int32_t>(prefill.size()); row < shape_.rows; ++row) {
      cuda::PrefillRun none;
      none.first_row = row;
      none.rows = 1;
      prefill.push_back(none);
    }
    batch.view.rows = batch.view.run_count = shape_.rows;
  }
  batch.runs = upload_.Put(prefill);
  batch.page_tables = upload_.Put(tables, static_cast<size_t>(shape_.rows * shape_.pages));
  batches->push_back(batch);
  return absl::OkStatus();
}

Status DeviceStep::PutExpanded(std::span<const Run> runs, std::vector<Batch>* batches) {
  for (const Run& run : runs) {
    RETURN_IF_ERROR(PutRuns(std::span(&run, 1), true, batches));
    Batch& batch = batches->back();
    const std::vector<cuda::KvSlot> slots = SlotsOf(run.item->pages.data(), run.end);
    // Expanded keys lie in order.
    std::vector<int32_t> table(static_cast<size_t>((run.end + kPageRows - 1) / kPageRows));
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
    batch.view.keys = run.end;
    batch.key_slots = upload_.Put(slots);
    batch.page_tables = upload_.Put(table);
  }
  return absl::OkStatus();
}

void DeviceStep::PutDecode(std::span<const Run> runs) {
  std::vector<int32_t> keys;
  table_stride_ = std::max<int64_t>(1, shape_.pages);
  for (const Run& run : runs) {
    table_stride_ = std::max(table_stride_, (run.end + kPageRows - 1) / kPageRows);
  }
  std::vector<int32_t> table;
  for (const Run& run : runs) {
    for (int64_t position = run.begin; position < run.end; ++position) {
      keys.push_back(static_cast<int32_t>(position + 1));
      const auto pages = static_cast<size_t>(position / kPageRows + 1);
      table.insert(table.end(), run.item->pages.begin(),
                   run.item->pages.begin() + static_cast<int64_t>(pages));
      table.resize(keys.size() * static_cast<size_t>(table_stride_), 0);
    }
  }
  // Rows beyond the step's see no key.
  const auto rows = static_cast<size_t>(std::max<int64_t>(shape_.rows, step_rows_));
  keys.resize(rows, 0);
  table.resize(rows * static_cast<size_t>(table_stride_), 0);
  const int kv_heads = config_.latent ? 1 : static_cast<int>(config_.kv_heads);
  const cuda::DecodeTables tables = {table, table_stride_, keys};
  plan_ = cuda::PlanDecode(keys, kv_heads, workers_,
                           {cuda::FindShared(tables, kv_heads, workers_, sharing_), sharing_});
  keys_ = upload_.Put(keys);
  table_ = upload_.Put(table);
  PutPlan(rows * static_cast<size_t>(kv_heads));
}

void DeviceStep::PutPlan(size_t units) {
  const bool shape = shape_.rows > 0;
  const bool shared = !plan_.rows.empty();
  shape_.shared = shape && shared;
  const auto workers = static_cast<size_t>(workers_);
  const size_t nodes =
      shape ? kNodesAWorker * workers + (shared ? kNodesASharedUnit : kNodesAWorker) * units : 0;
  // A shared unit has two rows at least.
  const size_t runs = shape ? workers + units + (shared ? units / 2 : 0) : 0;
  if (shape && (plan_.nodes.size() > nodes || plan_.merges.size() > nodes ||
                plan_.round_begin.size() > nodes || plan_.joins.size() > units ||
                plan_.runs.size() > runs || plan_.nodes_max > kNodesMax)) {
    repeats_ = false;
  }
  run_begin_ = upload_.Put(plan_.run_begin);
  nodes_ = upload_.Put(plan_.nodes, nodes);
  round_begin_ = upload_.Put(plan_.round_begin, nodes);
  decode_runs_ = upload_.Put(plan_.runs, runs);
  joins_ = upload_.Put(plan_.joins, shape ? units : 0);
  shared_rows_ = upload_.Put(plan_.rows, shape_.shared ? static_cast<size_t>(shape_.rows) : 0);
  merges_ = upload_.Put(plan_.merges, nodes);
  joins_there_ = upload_.Put(std::vector<int32_t>{static_cast<int32_t>(plan_.joins.size())});
  units_ = static_cast<int>(units);
}

void DeviceStep::FillDecode(cuda::DecodeArgs* args) const {
  args->keys = upload_.At(keys_);
  args->page_table = upload_.At(table_);
  args->page_table_stride = table_stride_;
  args->plan.runs = upload_.At(decode_runs_);
  args->plan.run_begin = upload_.At(run_begin_);
  args->plan.workers = workers_;
  args->plan.joins = upload_.At(joins_);
  args->plan.join_count = static_cast<int>(plan_.joins.size());
  args->plan.joins_there = nullptr;
  args->plan.nodes_max = plan_.nodes_max;
  args->plan.shared = shared_rows() > 0;
  args->plan.rows = upload_.At(shared_rows_);
  if (repeats_) {
    // A unit that workers share ends in one and begins in another.
    args->plan.join_count = args->plan.shared ? units_ : std::min(units_, workers_);
    args->plan.joins_there = upload_.At(joins_there_);
    args->plan.nodes_max = kNodesMax;
  }
  args->plan.nodes = upload_.At(nodes_);
  args->plan.merges = upload_.At(merges_);
  args->plan.round_begin = upload_.At(round_begin_);
}

void DeviceStep::View(const std::vector<Batch>& from, std::vector<PromptBatch>* to) const {
  to->clear();
  for (const Batch& batch : from) {
    PromptBatch view = batch.view;
    view.runs = upload_.At(batch.runs);
    view.tiles = upload_.At(batch.tiles);
    view.page_tables = upload_.At(batch.page_tables);
    view.key_slots = upload_.At(batch.key_slots);
    to->push_back(view);
  }
}

// The parts of the run that this context rank owns, where `rows` rows are before them.
void DeviceStep::OwnRuns(const Run& run, bool prompt, int64_t* rows, std::vector<Run>* own) {
  context_runs_.push_back({run.begin, run.end - run.begin, run.item->pages.data(), *rows, prompt});
  for (const parallel::PositionRange& range :
       context_->stripes().OwnedIn(context_->rank(), {run.begin, run.end})) {
    own->push_back({run.item, range.begin, range.end, 0});
    *rows += range.size();
  }
}

// Step rows first, each run with its first row.
void DeviceStep::SplitRuns(std::span<const StepItem> items) {
  step_runs_.clear();
  prompt_runs_.clear();
  for (const StepItem& item : items) {
    const int64_t end = EndOf(item);
    const int64_t prompt_end =
        kernels_.two_forms() ? std::clamp<int64_t>(item.prompt_end, item.first_position, end) : end;
    if (prompt_end > item.first_position) {
      prompt_runs_.push_back({&item, item.first_position, prompt_end, 0});
    }
    if (end > prompt_end) step_runs_.push_back({&item, prompt_end, end, 0});
  }
  if (context_ != nullptr) {
    context_runs_.clear();
    int64_t rows = 0;
    for (auto* runs : {&step_runs_, &prompt_runs_}) {
      std::vector<Run> own;
      for (const Run& run : *runs) OwnRuns(run, runs == &prompt_runs_, &rows, &own);
      *runs = std::move(own);
    }
    context_->SetQueries(context_runs_);
  }
  ids_.clear();
  positions_.clear();
  slots_.clear();
  loose_.clear();
  whole_pages_.clear();
  for (auto* runs : {&step_runs_, &prompt_runs_}) {
    for (Run& run : *runs) {
      run.row = static_cast<int64_t>(ids_.size());
      AddRows(run);
    }
    if (runs == &step_runs_) step_rows_ = static_cast<int64_t>(ids_.size());
  }
}

void DeviceStep::PutOutputs(const StepWishes& wishes) {
  output_rows_.clear();
  output_of_.clear();
  for (const StepItem& item : wishes.items) {
    const int64_t before = outputs();
    const int64_t last = EndOf(item) - 1;
    for (const auto* runs : {&prompt_runs_, &step_runs_}) {
      for (const Run& run : *runs) {
        if (run.item != &item) continue;
        for (int64_t p = run.begin; p < run.end; ++p) {
          if (!wishes.all_outputs && (p != last || !item.wants_output)) continue;
          output_rows_.push_back(static_cast<int32_t>(run.row + p - run.begin));
        }
      }
    }
    output_of_.push_back(outputs() > before && item.wants_output ? outputs() - 1 : -1);
  }
  std::vector<int32_t> output_rows = output_rows_;
  for (int64_t row = outputs(); row < shape_.rows; ++row) {
    output_rows.push_back(static_cast<int32_t>(row));
  }
  device_output_rows_ = upload_.Put(output_rows);
}

// As the kernels compute them, those beyond the step's own included.
void DeviceStep::PutRows() {
  const auto rows = static_cast<size_t>(rows_);
  std::vector<cuda::KvSlot> slots = slots_;
  slots.resize(rows, {-1, 0});
  positions_.resize(rows, 0);
  device_ids_ = upload_.Put(ids_, rows);
  device_slots_ = upload_.Put(slots);
  if (!whole_pages_.empty()) device_loose_ = upload_.Put(loose_);
  const kernels::RopeTable rope = rope_.Fill(positions_);
  const auto angles = static_cast<size_t>(rows_ * rope.half);
  cos_ = upload_.Put(std::span(rope.cos, angles));
  sin_ = upload_.Put(std::span(rope.sin, angles));
}

Status DeviceStep::PutAttention() {
  if (step_rows_ > 0 && kernels_.decode) {
    PutDecode(step_runs_);
  } else {
    RETURN_IF_ERROR(PutRuns(step_runs_, false, &step_pending_));
  }
  if (kernels_.prefill && config_.latent) return PutExpanded(prompt_runs_, &prompt_pending_);
  return PutRuns(prompt_runs_, kernels_.prefill, &prompt_pending_);
}

Status DeviceStep::Prepare(const StepWishes& wishes, cuda::Stream stream) {
  shape_ = ShapeOf(wishes);
  repeats_ = shape_.rows > 0;
  SplitRuns(wishes.items);
  upload_.Clear();
  step_pending_.clear();
  prompt_pending_.clear();
  rows_ = std::max(static_cast<int64_t>(ids_.size()), shape_.rows);
  if (shape_.rows > 0 && kernels_.two_forms()) step_rows_ = rows_;
  PutOutputs(wishes);
  PutRows();
  plan_ = {};
  // A context rank's attention plans for itself.
  if (context_ == nullptr) RETURN_IF_ERROR(PutAttention());
  sampled_ = !wishes.samples.empty();
  if (sampled_) {
    samples_.Plan(wishes.samples, output_of_, output_rows_computed());
    device_copied_ = upload_.Put(samples_.copied());
    sample_rows_ = upload_.Put(samples_.rows());
    // The last of all: how many there are is not part of a shape.
    edits_ = upload_.Put(samples_.edits());
  }
  RETURN_IF_ERROR(upload_.Send(stream));
  View(step_pending_, &step_batches_);
  View(prompt_pending_, &prompt_batches_);
  return absl::OkStatus();
}

void DeviceStep::FillSampling(cuda::SampleArgs* args) const {
  args->rows = static_cast<int64_t>(samples_.rows().size());
  args->params = upload_.At(sample_rows_);
  args->edits = upload_.WritableAt(edits_);
}

}  // namespace reprise::worker
