// The attention half of a layer on a device: projections, rows into the pool, and the rows'
// attention by the kernels chosen.
#include <algorithm>

#include "kernels/cuda/decode.h"
#include "kernels/cuda/kv_rows.h"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/prefill_simple.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/spread_rows.h"
#include "worker/device/device_model.h"

namespace reprise::worker {
namespace {

// DeepSeek's own norms of the low ranks keep the default, whatever rms_norm_eps is.
constexpr float kLowRankEps = 1e-6F;

}  // namespace

Status DeviceModel::ProjectHeads(const DeviceLayer& layer, const cuda::KvPool& pool) {
  const int64_t rows = step_.rows();
  const DeviceHeads& w = *layer.heads;
  const int64_t cols = w.qkv.view.n;
  const int64_t q_cols = config_.heads * config_.head_dim;
  const int64_t kv_cols = config_.kv_heads * config_.head_dim;
  ASSIGN_OR_RETURN(uint16_t* const normed, normed_.Get<uint16_t>(rows * config_.hidden));
  ASSIGN_OR_RETURN(float* const qkv, qkv_.Get<float>(rows * cols));
  RETURN_IF_ERROR(Multiply(w.qkv, Rows(normed, rows, config_.hidden), {.f32 = qkv}));
  ASSIGN_OR_RETURN(uint16_t* const q, q_.Get<uint16_t>(rows * q_cols));
  const auto dim = static_cast<int>(config_.head_dim);
  cuda::StoreRowsArgs args;
  args.queries[0] = {
      {{qkv, cols, false}, dim, static_cast<int>(config_.heads), dim, w.q_norm.as<float>(), true},
      q,
      q_cols,
      dim};
  args.first = {{qkv + q_cols, cols, false}, dim, kv_heads_, dim, w.k_norm.as<float>(), true};
  args.second = {{qkv + q_cols + kv_cols, cols, false}, dim, kv_heads_, dim, nullptr, false};
  args.pool = pool;
  args.slots = step_.slots();
  args.cos = step_.cos();
  args.sin = step_.sin();
  args.half = static_cast<int>(config_.rotary_dim() / 2);
  args.eps = static_cast<float>(config_.rms_eps);
  args.rows = rows;
  return DeviceStatus(cuda::StoreRows(args, stream_), "storing rows");
}

Status DeviceModel::ProjectLatents(const DeviceLayer& layer, const cuda::KvPool& pool) {
  const int64_t rows = step_.rows();
  const DeviceLatent& w = *layer.latent;
  const LatentAttention& l = *config_.latent;
  ASSIGN_OR_RETURN(uint16_t* const normed, normed_.Get<uint16_t>(rows * config_.hidden));
  cuda::GemmMatrix q_in = Rows(normed, rows, config_.hidden);
  if (l.q_rank > 0) {
    ASSIGN_OR_RETURN(float* const low, q_low_.Get<float>(rows * w.q_a.view.n));
    ASSIGN_OR_RETURN(uint16_t* const low_normed, q_low_normed_.Get<uint16_t>(rows * l.q_rank));
    RETURN_IF_ERROR(Multiply(w.q_a, q_in, {.f32 = low}));
    RETURN_IF_ERROR(DeviceStatus(cuda::RmsNorm({.x = low,
                                                .weight = w.q_a_norm.as<float>(),
                                                .y = low_normed,
                                                .rows = rows,
                                                .cols = l.q_rank,
                                                .x_stride = w.q_a.view.n,
                                                .y_stride = l.q_rank,
                                                .eps = kLowRankEps,
                                                .y_bf16 = true},
                                               stream_),
                                 "a norm"));
    q_in = Rows(low_normed, rows, l.q_rank);
  }
  const int64_t q_cols = config_.heads * config_.head_dim;
  const int64_t kv_cols = w.kv_a.view.n;
  // Queries, then latents with their rotated keys.
  ASSIGN_OR_RETURN(float* const q_f32, qkv_.Get<float>(rows * (q_cols + kv_cols)));
  float* const kv = q_f32 + rows * q_cols;
  RETURN_IF_ERROR(Multiply(w.q, q_in, {.f32 = q_f32}));
  RETURN_IF_ERROR(Multiply(w.kv_a, Rows(normed, rows, config_.hidden), {.f32 = kv}));
  ASSIGN_OR_RETURN(uint16_t* const q, q_.Get<uint16_t>(rows * q_cols));
  const int64_t dim = config_.head_dim;
  const auto heads = static_cast<int>(config_.heads);
  const auto rope = static_cast<int>(l.rope_dim);
  cuda::StoreRowsArgs args;
  args.queries[0] = {{{q_f32, q_cols, false}, dim, heads, rope, nullptr, true}, q, q_cols, dim};
  args.queries[1] = {
      {{q_f32 + rope, q_cols, false}, dim, heads, static_cast<int>(l.nope_dim), nullptr, false},
      q + rope,
      q_cols,
      dim};
  args.first = {{kv, kv_cols, false}, first_dim_, 1, first_dim_, w.kv_a_norm.as<float>(), false};
  args.second = {{kv + l.kv_rank, kv_cols, false}, rope, 1, rope, nullptr, true};
  args.pool = pool;
  args.slots = step_.slots();
  args.cos = step_.cos();
  args.sin = step_.sin();
  args.half = static_cast<int>(config_.rotary_dim() / 2);
  args.eps = kLowRankEps;
  args.rows = rows;
  return DeviceStatus(cuda::StoreRows(args, stream_), "storing rows");
}

Status DeviceModel::AttendHeads(int64_t index, const cuda::KvPool& pool) {
  if (ranks_.context != nullptr) return AttendHeadsTogether(pool);
  const int64_t rows = step_.rows();
  const int64_t cols = config_.heads * config_.head_dim;
  ASSIGN_OR_RETURN(uint16_t* const q, q_.Get<uint16_t>(rows * cols));
  ASSIGN_OR_RETURN(uint16_t* const out, attended_.Get<uint16_t>(rows * cols));
  if (step_.step_rows() > 0 && kernels_.decode) {
    RETURN_IF_ERROR(RunDecode(index, q, cols, out, cols));
  }
  for (const PromptBatch& batch : step_.step_batches()) {
    RETURN_IF_ERROR(RunPrompt(batch, pool, q, cols, out, cols, false, false));
  }
  for (const PromptBatch& batch : step_.prompt_batches()) {
    RETURN_IF_ERROR(RunPrompt(batch, pool, q, cols, out, cols, false, kernels_.prefill));
  }
  return absl::OkStatus();
}

Status DeviceModel::RunDecode(int64_t index, const uint16_t* q, int64_t q_cols, uint16_t* out,
                              int64_t out_cols) {
  cuda::DecodeArgs args = DecodeShapeOf(config_, kernels_.fp8);
  if (kernels_.fp8) {
    const cuda::KvPool pool = LayerPool(index);
    args.fp8_rows = pool.layer_base;
    args.fp8_page_stride_bytes = pool.page_stride_bytes;
  } else {
    args.maps = maps_[static_cast<size_t>(index)];
  }
  args.q = q;
  args.q_row_stride = q_cols;
  args.out = out;
  args.out_row_stride = out_cols;
  // As ReserveStep has made them.
  ASSIGN_OR_RETURN(args.plan.node_out, node_out_.Get<float>(0));
  ASSIGN_OR_RETURN(args.plan.node_lse2, node_lse2_.Get<float>(0));
  step_.FillDecode(&args);
  return DeviceStatus(cuda::Decode(args, stream_), "decoding");
}

// Rows of q and out are the step's.
Status DeviceModel::RunPrompt(const PromptBatch& batch, const cuda::KvPool& pool, const uint16_t* q,
                              int64_t q_cols, uint16_t* out, int64_t out_cols, bool latent,
                              bool hopper) {
  cuda::PrefillArgs args;
  args.pool = pool;
  args.q = q;
  args.out = out;
  args.q_rows = step_.rows();
  args.q_stride = q_cols;
  args.out_stride = out_cols;
  args.out_bf16 = true;
  args.runs = batch.runs;
  args.run_count = batch.run_count;
  args.rows_max = batch.rows_max;
  args.page_tables = batch.page_tables;
  args.tiles = batch.tiles;
  args.tile_count = batch.tile_count;
  args.leaves_max = batch.leaves_max;
  args.processors = device_.processors;
  args.scratch_bytes = batch.scratch_bytes;
  return LaunchPrompt(args, latent, hopper);
}

// Tiles, processors and scratch bytes are Prefill's.
Status DeviceModel::LaunchPrompt(cuda::PrefillArgs args, bool latent, bool hopper) {
  args.q_heads = static_cast<int>(config_.heads);
  args.scale = static_cast<float>(config_.attention_scale());
  if (!hopper) return DeviceStatus(cuda::PrefillSimple(args, latent, stream_), "attention");
  ASSIGN_OR_RETURN(args.scratch, prefill_scratch_.Get<uint8_t>(args.scratch_bytes));
  return DeviceStatus(cuda::Prefill(args, stream_), "attention");
}

Status DeviceModel::AttendLatents(int64_t index, const DeviceLayer& layer,
                                  const cuda::KvPool& pool) {
  if (ranks_.context != nullptr) return AttendLatentsTogether(layer, pool);
  const DeviceLatent& w = *layer.latent;
  const int64_t rows = step_.rows();
  const int64_t q_cols = config_.heads * (first_dim_ + second_dim_);
  const int64_t out_cols = config_.heads * first_dim_;
  // Rows whose queries are taken into the latents' space.
  const int64_t absorbed_rows = kernels_.prefill ? step_.step_rows() : rows;
  if (absorbed_rows > 0) {
    ASSIGN_OR_RETURN(uint16_t* const q, absorbed_.Get<uint16_t>(rows * q_cols));
    ASSIGN_OR_RETURN(uint16_t* const out, latent_out_.Get<uint16_t>(rows * out_cols));
    RETURN_IF_ERROR(Absorb(w, absorbed_rows));
    if (step_.step_rows() > 0 && kernels_.decode) {
      RETURN_IF_ERROR(RunDecode(index, q, q_cols, out, out_cols));
    }
    for (const PromptBatch& batch : step_.step_batches()) {
      RETURN_IF_ERROR(RunPrompt(batch, pool, q, q_cols, out, out_cols, true, false));
    }
    if (!kernels_.prefill) {
      for (const PromptBatch& batch : step_.prompt_batches()) {
        RETURN_IF_ERROR(RunPrompt(batch, pool, q, q_cols, out, out_cols, true, false));
      }
    }
    RETURN_IF_ERROR(ValuesOf(w, absorbed_rows));
  }
  if (!kernels_.prefill) return absl::OkStatus();
  for (const PromptBatch& batch : step_.prompt_batches()) {
    RETURN_IF_ERROR(ExpandAndAttend(w, batch, pool));
  }
  return absl::OkStatus();
}

// Per head: [absorbed plain part | rotated part].
Status DeviceModel::Absorb(const DeviceLatent& w, int64_t rows) {
  const LatentAttention& l = *config_.latent;
  const int64_t dim = config_.head_dim;
  const int64_t q_cols = config_.heads * dim;
  const int64_t to_dim = l.kv_rank + l.rope_dim;
  ASSIGN_OR_RETURN(uint16_t* const q, q_.Get<uint16_t>(step_.rows() * q_cols));
  ASSIGN_OR_RETURN(uint16_t* const to,
                   absorbed_.Get<uint16_t>(step_.rows() * config_.heads * to_dim));
  RETURN_IF_ERROR(
      MultiplyBy(w.absorb.view, {q + l.rope_dim, config_.heads, rows, l.nope_dim, q_cols, dim},
                 {.bf16 = to, .row_stride = config_.heads * to_dim, .batch_stride = to_dim}));
  return DeviceStatus(cuda::CopyRows({.x = q,
                                      .x_stride_bytes = dim * 2,
                                      .y = to + l.kv_rank,
                                      .y_stride_bytes = to_dim * 2,
                                      .rows = rows * config_.heads,
                                      .row_bytes = l.rope_dim * 2},
                                     stream_),
                      "rotated queries");
}

Status DeviceModel::ValuesOf(const DeviceLatent& w, int64_t rows) {
  const LatentAttention& l = *config_.latent;
  const int64_t cols = config_.heads * l.value_dim;
  ASSIGN_OR_RETURN(uint16_t* const from,
                   latent_out_.Get<uint16_t>(step_.rows() * config_.heads * l.kv_rank));
  ASSIGN_OR_RETURN(uint16_t* const to, attended_.Get<uint16_t>(step_.rows() * cols));
  return MultiplyBy(w.value.view,
                    {from, config_.heads, rows, l.kv_rank, config_.heads * l.kv_rank, l.kv_rank},
                    {.bf16 = to, .row_stride = cols, .batch_stride = l.value_dim});
}

Status DeviceModel::ExpandAndAttend(const DeviceLatent& w, const PromptBatch& batch,
                                    const cuda::KvPool& pool) {
  ASSIGN_OR_RETURN(const cuda::KvPool of_heads, Expand(w, pool, batch.key_slots, batch.keys));
  const int64_t q_cols = config_.heads * config_.head_dim;
  const int64_t out_cols = config_.heads * config_.latent->value_dim;
  ASSIGN_OR_RETURN(uint16_t* const q, q_.Get<uint16_t>(step_.rows() * q_cols));
  ASSIGN_OR_RETURN(uint16_t* const out, attended_.Get<uint16_t>(step_.rows() * out_cols));
  return RunPrompt(batch, of_heads, q, q_cols, out, out_cols, false, true);
}

// Every head's keys [rotated | plain] and values of these rows, in order, in pages of their own.
StatusOr<cuda::KvPool> DeviceModel::Expand(const DeviceLatent& w, const cuda::KvPool& pool,
                                           const cuda::KvSlot* slots, int64_t keys) {
  const LatentAttention& l = *config_.latent;
  const int64_t dim = config_.head_dim;
  const int64_t pages = (keys + cuda::kPageRows - 1) / cuda::kPageRows;
  const int64_t page = config_.heads * cuda::kPageRows * (dim + l.value_dim);  // elements
  ASSIGN_OR_RETURN(uint16_t* const latents, latents_.Get<uint16_t>(keys * l.kv_rank));
  ASSIGN_OR_RETURN(uint16_t* const rotated, rotated_.Get<uint16_t>(keys * l.rope_dim));
  ASSIGN_OR_RETURN(uint16_t* const expanded, expanded_.Get<uint16_t>(pages * page));
  RETURN_IF_ERROR(DeviceStatus(cuda::ReadRows({.pool = pool,
                                               .slots = slots,
                                               .first = {latents, l.kv_rank, true},
                                               .second = {rotated, l.rope_dim, true},
                                               .rows = keys},
                                              stream_),
                               "reading latents"));
  const cuda::GemmMatrix x = Rows(latents, keys, l.kv_rank);
  cuda::GemmOutput y;
  y.row_group = cuda::kPageRows;
  y.row_group_stride = page;
  y.bf16 = expanded + l.rope_dim;
  y.row_stride = dim;
  y.column_group = static_cast<int32_t>(l.nope_dim);
  y.column_group_stride = cuda::kPageRows * dim;
  RETURN_IF_ERROR(MultiplyBy(w.key.view, x, y));
  y.bf16 = expanded + config_.heads * cuda::kPageRows * dim;
  y.row_stride = l.value_dim;
  y.column_group = static_cast<int32_t>(l.value_dim);
  y.column_group_stride = cuda::kPageRows * l.value_dim;
  RETURN_IF_ERROR(MultiplyBy(w.all_values, x, y));
  RETURN_IF_ERROR(DeviceStatus(cuda::SpreadRows({.x = rotated,
                                                 .x_stride = l.rope_dim,
                                                 .y = expanded,
                                                 .page_stride = page,
                                                 .head_stride = cuda::kPageRows * dim,
                                                 .row_stride = dim,
                                                 .rows = keys,
                                                 .heads = static_cast<int>(config_.heads),
                                                 .dim = static_cast<int>(l.rope_dim)},
                                                stream_),
                               "rotated keys"));
  cuda::KvPool of_heads;
  of_heads.layer_base = expanded;
  of_heads.pages = pages;
  of_heads.page_stride_bytes = page * 2;
  of_heads.kv_heads = static_cast<int>(config_.heads);
  of_heads.first_dim = static_cast<int>(dim);
  of_heads.second_dim = static_cast<int>(l.value_dim);
  return of_heads;
}

}  // namespace reprise::worker
