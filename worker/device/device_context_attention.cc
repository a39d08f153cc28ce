// Attention of a rank's rows with the other ranks of a context: the kernels by which partial
// results are made, and what they are given.
#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/cuda/decode.h"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/prefill_simple.h"
#include "worker/device/device_model.h"

namespace reprise::worker {

using parallel::LayerPages;
using parallel::NodeItem;

// Of one form: queries and where their results go, by row of the step.
struct DeviceModel::ContextRows {
  uint16_t* q = nullptr;
  int64_t query_dim = 0;
  uint16_t* out = nullptr;
  int64_t value_dim = 0;
  double key_macs = 0;  // CostShape's
  DeviceContextCompute::Attention attention;
};

Status DeviceModel::AttendTogether(Form form, const ContextRows& rows, const cuda::KvPool& pool) {
  if (!ranks_.context->Has(form)) return absl::OkStatus();
  const auto bytes_of = [&](uint16_t* data, int64_t cols) {
    return parallel::ByteRows{reinterpret_cast<uint8_t*>(data), step_.rows(), cols * 2, cols * 2};
  };
  ranks_.compute->SetCall(config_.heads, rows.value_dim, form == Form::kStep ? 1 : 0,
                          rows.attention);
  ranks_.context->Attend(
      form,
      {.pages = {static_cast<const uint8_t*>(pool.layer_base), pool.page_stride_bytes},
       .block_tokens = cuda::kPageRows,
       .page_bytes = segment_bytes_,
       .heads = config_.heads,
       .query_dim = rows.query_dim,
       .value_dim = rows.value_dim,
       .q = bytes_of(rows.q, config_.heads * rows.query_dim),
       .out = bytes_of(rows.out, config_.heads * rows.value_dim)},
      rows.key_macs);
  return ranks_.context->status();
}

Status DeviceModel::AttendHeadsTogether(const cuda::KvPool& pool) {
  const int64_t cols = config_.heads * config_.head_dim;
  ASSIGN_OR_RETURN(uint16_t* const q, q_.Get<uint16_t>(step_.rows() * cols));
  ASSIGN_OR_RETURN(uint16_t* const out, attended_.Get<uint16_t>(step_.rows() * cols));
  for (const Form form : {Form::kPrompt, Form::kStep}) {
    const auto attend = [this, form](const LayerPages& keys, std::span<const NodeItem> items,
                                     ContextArrays* arrays) {
      if (form == Form::kStep && kernels_.decode) return DecodeNodes(keys, items, arrays);
      return AttendNodes(keys, items, false, form == Form::kPrompt && kernels_.prefill, arrays);
    };
    RETURN_IF_ERROR(
        AttendTogether(form, {q, config_.head_dim, out, config_.head_dim, 0, attend}, pool));
  }
  return absl::OkStatus();
}

// Latents travel, and are expanded where they are used.
Status DeviceModel::AttendLatentsTogether(const DeviceLayer& layer, const cuda::KvPool& pool) {
  const DeviceLatent& w = *layer.latent;
  const LatentAttention& l = *config_.latent;
  const int64_t rows = step_.rows();
  const int64_t dim = l.kv_rank + l.rope_dim;
  ASSIGN_OR_RETURN(uint16_t* const q, q_.Get<uint16_t>(rows * config_.heads * config_.head_dim));
  ASSIGN_OR_RETURN(uint16_t* const absorbed, absorbed_.Get<uint16_t>(rows * config_.heads * dim));
  ASSIGN_OR_RETURN(uint16_t* const latent_out,
                   latent_out_.Get<uint16_t>(rows * config_.heads * l.kv_rank));
  ASSIGN_OR_RETURN(uint16_t* const out,
                   attended_.Get<uint16_t>(rows * config_.heads * l.value_dim));
  const auto absorbed_form = [this](Form form) -> DeviceContextCompute::Attention {
    return [this, form](const LayerPages& keys, std::span<const NodeItem> items,
                        ContextArrays* arrays) {
      if (form == Form::kStep && kernels_.decode) return DecodeNodes(keys, items, arrays);
      return AttendNodes(keys, items, true, false, arrays);
    };
  };
  const auto expanded_form = [this, &w](const LayerPages& keys, std::span<const NodeItem> items,
                                        ContextArrays* arrays) {
    return AttendExpandedNodes(w, keys, items, arrays);
  };
  const int64_t absorbed_rows = kernels_.prefill ? step_.step_rows() : rows;
  if (absorbed_rows > 0) RETURN_IF_ERROR(Absorb(w, absorbed_rows));
  const auto in_latents = [&](Form form) {
    return ContextRows{absorbed, dim, latent_out, l.kv_rank, 0, absorbed_form(form)};
  };
  if (kernels_.prefill) {
    const auto key_macs =
        static_cast<double>(config_.heads * l.kv_rank * (l.nope_dim + l.value_dim));
    RETURN_IF_ERROR(AttendTogether(
        Form::kPrompt, {q, config_.head_dim, out, l.value_dim, key_macs, expanded_form}, pool));
  } else {
    RETURN_IF_ERROR(AttendTogether(Form::kPrompt, in_latents(Form::kPrompt), pool));
  }
  RETURN_IF_ERROR(AttendTogether(Form::kStep, in_latents(Form::kStep), pool));
  return absorbed_rows > 0 ? ValuesOf(w, absorbed_rows) : absl::OkStatus();
}

// The layer's pages, or packed ones, of which so many are named: for maps.
cuda::KvPool DeviceModel::PoolOf(const LayerPages& keys, int64_t pages) const {
  cuda::KvPool pool = LayerPool(0);
  pool.layer_base = const_cast<uint8_t*>(keys.base);
  pool.page_stride_bytes = keys.stride_bytes;
  pool.pages = pages;
  return pool;
}

// Those that attention may have while others move bytes.
int DeviceModel::ContextProcessors() const {
  return std::max(1, device_.processors - ranks_.busy_processors);
}

// Items of one call are over the same pages' memory, each over keys of its own.
Status DeviceModel::AttendNodes(const LayerPages& keys, std::span<const NodeItem> items,
                                bool latent, bool hopper, ContextArrays* arrays) {
  for (const NodeItem& item : items) {
    const int64_t count = (item.keys + cuda::kPageRows - 1) / cuda::kPageRows;
    const std::span<const int32_t> pages(item.pages, static_cast<size_t>(count));
    const cuda::KvPool pool = PoolOf(keys, *std::max_element(pages.begin(), pages.end()) + 1);
    ASSIGN_OR_RETURN(const int32_t* const table, arrays->Put(pages, stream_));
    RETURN_IF_ERROR(AttendNode(pool, table, item, latent, hopper, arrays));
  }
  return absl::OkStatus();
}

Status DeviceModel::AttendNode(const cuda::KvPool& pool, const int32_t* table, const NodeItem& item,
                               bool latent, bool hopper, ContextArrays* arrays) {
  cuda::PrefillRun run;
  run.rows = static_cast<int32_t>(item.q.rows);
  run.first_position = static_cast<int32_t>(item.first_position);
  run.key_position = static_cast<int32_t>(item.key_position);
  run.key_rows = static_cast<int32_t>(item.keys);
  cuda::PrefillArgs args;
  args.pool = pool;
  args.q = item.q.data;
  args.out = item.to.out;
  args.lse2 = item.to.lse;
  args.q_rows = item.q.rows;
  args.q_stride = item.q.stride_bytes / 2;
  args.out_stride = config_.heads * (latent ? pool.first_dim : pool.second_dim);
  ASSIGN_OR_RETURN(args.runs, arrays->Put(std::span<const cuda::PrefillRun>(&run, 1), stream_));
  args.run_count = 1;
  args.rows_max = run.rows;
  args.page_tables = table;
  if (!hopper) return LaunchPrompt(args, latent, false);
  cuda::PrefillPlan plan;
  RETURN_IF_ERROR(DeviceStatus(cuda::PlanPrefill(std::span(&run, 1), &plan), "planning attention"));
  args.processors = ContextProcessors();
  ASSIGN_OR_RETURN(args.tiles, arrays->Put(plan.tiles, stream_));
  args.tile_count = static_cast<int64_t>(plan.tiles.size());
  args.leaves_max = plan.leaves_max;
  args.scratch_bytes = cuda::PrefillScratchBytes(plan, pool.second_dim, args.processors);
  return LaunchPrompt(args, latent, true);
}

namespace {

// The rows of items as Decode sees them, all in one launch. Their queries are rows of one array,
// wherever it begins.
struct DecodedRows {
  DecodedRows(std::span<const NodeItem> items, int64_t heads, int64_t value_dim)
      : query(items.front().q.data) {
    for (const NodeItem& item : items) {
      query = std::min<const uint8_t*>(query, item.q.data);
      stride = std::max(stride, PagesOf(item.keys));
    }
    for (const NodeItem& item : items) Add(item, heads, value_dim);
  }

  const uint8_t* query;                 // the first one's
  int64_t stride = 1;                   // of the table
  int32_t pages = 0;                    // above every page that is named
  std::vector<int32_t> keys;            // seen, by row
  std::vector<int32_t> table;           // [rows, stride]
  std::vector<cuda::DecodePart> parts;  // by row

 private:
  static int64_t PagesOf(int64_t rows) { return (rows + cuda::kPageRows - 1) / cuda::kPageRows; }

  void Add(const NodeItem& item, int64_t heads, int64_t value_dim) {
    const std::span<const int32_t> named(item.pages, static_cast<size_t>(PagesOf(item.keys)));
    pages = std::max(pages, *std::max_element(named.begin(), named.end()) + 1);
    const int64_t first = (item.q.data - query) / item.q.stride_bytes;
    for (int64_t row = 0; row < item.q.rows; ++row) {
      const int64_t seen = item.first_position + row + 1 - item.key_position;
      keys.push_back(static_cast<int32_t>(std::min(item.keys, seen)));
      table.insert(table.end(), named.begin(), named.end());
      table.resize(keys.size() * static_cast<size_t>(stride), 0);
      parts.push_back({static_cast<int32_t>(first + row), item.to.out + row * heads * value_dim,
                       item.to.lse + row * heads});
    }
  }
};

}  // namespace

Status DeviceModel::DecodeNodes(const LayerPages& keys, std::span<const NodeItem> items,
                                ContextArrays* arrays) {
  cuda::DecodeArgs args = DecodeShapeOf(config_, kernels_.fp8);
  const DecodedRows rows(items, config_.heads, args.value_dim());
  if (kernels_.fp8) {
    args.fp8_rows = keys.base;
    args.fp8_page_stride_bytes = keys.stride_bytes;
  } else {
    RETURN_IF_ERROR(
        DeviceStatus(cuda::MakeKvMaps(PoolOf(keys, rows.pages), &args.maps), "maps of keys"));
  }
  args.q = reinterpret_cast<const uint16_t*>(rows.query);
  args.q_row_stride = items.front().q.stride_bytes / 2;
  args.page_table_stride = rows.stride;
  ASSIGN_OR_RETURN(args.page_table, arrays->Put(rows.table, stream_));
  ASSIGN_OR_RETURN(args.keys, arrays->Put(rows.keys, stream_));
  ASSIGN_OR_RETURN(args.parts, arrays->Put(rows.parts, stream_));
  RETURN_IF_ERROR(PutDecodePlan(rows.keys, arrays, &args));
  return DeviceStatus(cuda::Decode(args, stream_), "decoding");
}

Status DeviceModel::PutDecodePlan(const std::vector<int32_t>& keys, ContextArrays* arrays,
                                  cuda::DecodeArgs* args) {
  cuda::DecodePlanView& view = args->plan;
  view.workers = std::max(1, cuda::DecodeWorkers(*args, ContextProcessors()));
  const cuda::DecodePlan& plan = arrays->PlanFor(keys, args->kv_heads, view.workers);
  ASSIGN_OR_RETURN(view.runs, arrays->Put(plan.runs, stream_));
  ASSIGN_OR_RETURN(view.run_begin, arrays->Put(plan.run_begin, stream_));
  ASSIGN_OR_RETURN(view.joins, arrays->Put(plan.joins, stream_));
  ASSIGN_OR_RETURN(view.nodes, arrays->Put(plan.nodes, stream_));
  ASSIGN_OR_RETURN(view.merges, arrays->Put(plan.merges, stream_));
  ASSIGN_OR_RETURN(view.round_begin, arrays->Put(plan.round_begin, stream_));
  view.join_count = static_cast<int>(plan.joins.size());
  view.nodes_max = plan.nodes_max;
  const auto floats = static_cast<int64_t>(cuda::DecodeNodeFloats(*args));
  ASSIGN_OR_RETURN(view.node_out, node_out_.Get<float>(plan.slots * floats));
  ASSIGN_OR_RETURN(view.node_lse2,
                   node_lse2_.Get<float>(int64_t{plan.slots} * cuda::kDecodeGroupMax));
  return absl::OkStatus();
}

Status DeviceModel::AttendExpandedNodes(const DeviceLatent& w, const LayerPages& keys,
                                        std::span<const NodeItem> items, ContextArrays* arrays) {
  const cuda::KvPool latents = PoolOf(keys, pages_);
  const auto same_keys = [](const NodeItem& a, const NodeItem& b) {
    return a.pages == b.pages && a.keys == b.keys && a.key_position == b.key_position;
  };
  for (size_t begin = 0, end = 0; begin < items.size(); begin = end) {
    const NodeItem& first = items[begin];
    const std::vector<cuda::KvSlot> slots = SlotsOf(first.pages, first.keys);
    // Expanded keys lie in order.
    std::vector<int32_t> pages(
        static_cast<size_t>((first.keys + cuda::kPageRows - 1) / cuda::kPageRows));
    std::iota(pages.begin(), pages.end(), 0);
    ASSIGN_OR_RETURN(const cuda::KvSlot* const from, arrays->Put(slots, stream_));
    ASSIGN_OR_RETURN(const int32_t* const table, arrays->Put(pages, stream_));
    ASSIGN_OR_RETURN(const cuda::KvPool of_heads, Expand(w, latents, from, first.keys));
    for (end = begin; end < items.size() && same_keys(items[end], first); ++end) {
      RETURN_IF_ERROR(AttendNode(of_heads, table, items[end], false, true, arrays));
    }
  }
  return absl::OkStatus();
}

}  // namespace reprise::worker
