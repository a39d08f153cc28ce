// Multi-head latent attention (arXiv 2405.04434, section 2.1; docs/models.md on both forms). The
// cache holds one latent and one rotated key a token. Two forms of the same function, different in
// rounding:
//   prompt  expanded: every head's keys and values are made from the latents, then attended
//   step    absorbed: queries are taken into the latents' space, where all heads share one key
// A row's form follows from its position alone, so its bits depend on nothing else.
#include <algorithm>
#include <cstring>
#include <vector>

#include "worker/model/attention_block.h"

namespace reprise::worker {
namespace {

using kernels::F32;

// Expanded keys and values of as many heads at a time as fit.
constexpr int64_t kExpandedBytesMax = int64_t{64} << 20;

class LatentAttentionBlock final : public AttentionBlock {
 public:
  explicit LatentAttentionBlock(const ModelConfig& config)
      : config_(config),
        l_(*config.latent),
        q_cols_(config.heads * config.head_dim),
        row_cols_(l_.kv_rank + l_.rope_dim),
        scale_(static_cast<float>(config.attention_scale())),
        absorbed_attention_(config.heads, scale_, config.context) {}

  void Reserve(StepContext& step, const LayerWeights& layer, int64_t rows) override {
    const LatentWeights& w = *layer.latent;
    q_.Rows(rows, q_cols_);
    latent_.Rows(rows, row_cols_);
    lse_.Rows(rows, config_.heads);
    if (l_.q_rank > 0) q_low_.Rows(rows, l_.q_rank);
    step.scratch.Reserve(kernels::LinearScratchBytes(rows, w.q));
    step.scratch.Reserve(absorbed_attention_.ScratchBytes(step));
  }

  void Project(StepContext& step, const LayerWeights& layer, F32 normed) override {
    const LatentWeights& w = *layer.latent;
    const F32 q = q_.Rows(step.rows, q_cols_);
    F32 from = normed;
    if (l_.q_rank > 0) {
      from = q_low_.Rows(step.rows, l_.q_rank);
      Linear(step, normed, w.q_a.matrix, w.q_a.bias, from);
      step.ops.rms_norm(step.scratch.None(), from, w.q_a_norm.data(), kNormEps, from);
    }
    Linear(step, from, w.q, {}, q);
    step.ops.rope_apply(step.scratch.None(), step.rope, config_.head_dim, q);

    const F32 row = latent_.Rows(step.rows, row_cols_);
    Linear(step, normed, w.kv_a.matrix, w.kv_a.bias, row);
    const F32 latent = Columns(row, 0, l_.kv_rank);
    const F32 rotated = Columns(row, l_.kv_rank, l_.rope_dim);
    step.ops.rms_norm(step.scratch.None(), latent, w.kv_a_norm.data(), kNormEps, latent);
    step.ops.rope_apply(step.scratch.None(), step.rope, l_.rope_dim, rotated);
    for (const RowRun& run : step.runs) {
      step.ops.write_kv({step.kv, run.pages, CacheRow(step, run.first_position),
                         RowsAt(latent, run.row, run.rows), RowsAt(rotated, run.row, run.rows)});
    }
  }

  void Keep(std::span<const int64_t> rows) override {
    float* data = q_.Rows(0, q_cols_).data;
    for (size_t i = 0; i < rows.size(); ++i) {
      std::memmove(data + static_cast<int64_t>(i) * q_cols_, data + rows[i] * q_cols_,
                   static_cast<size_t>(q_cols_) * sizeof(float));
    }
  }

  void Attend(StepContext& step, const LayerWeights& layer, F32 attended) override {
    const LatentWeights& w = *layer.latent;
    if (step.context != nullptr) return AttendTogether(step, w, attended);
    const std::vector<RowRun>& runs = step.runs;
    for (size_t i = 0; i < runs.size();) {
      if (runs[i].prompt) {
        AttendPrompt(step, w, runs[i++], attended);
        continue;
      }
      const size_t first = i;
      while (i < runs.size() && !runs[i].prompt) ++i;
      AttendStep(step, w, std::span(runs).subspan(first, i - first), attended);
    }
  }

 private:
  // DeepSeek's own norms of the low ranks keep the default, whatever rms_norm_eps is.
  static constexpr float kNormEps = 1e-6F;

  // Columns of one head in the queries: the rotated part first.
  F32 Rotated(const F32& q, int64_t head) const {
    return Columns(q, head * config_.head_dim, l_.rope_dim);
  }
  F32 Plain(const F32& q, int64_t head) const {
    return Columns(q, head * config_.head_dim + l_.rope_dim, l_.nope_dim);
  }

  // One prompt run against all positions up to its last.
  void AttendPrompt(StepContext& step, const LatentWeights& w, const RowRun& run,
                    const F32& attended) {
    const F32 q = RowsAt(q_.Rows(step.rows, q_cols_), run.row, run.rows);
    const kernels::KeySegment segment{run.pages, run.first_position + run.rows, 0,
                                      kernels::MaskKind::kCausal};
    const kernels::AttentionItem item{q,
                                      run.first_position,
                                      &segment,
                                      1,
                                      RowsAt(attended, run.row, run.rows),
                                      lse_.Rows(run.rows, config_.heads).data};
    AttendExpanded(step, w, step.kv, {&item, 1});
  }

  // Items over one and the same segment of kv's latents.
  void AttendExpanded(StepContext& step, const LatentWeights& w, const kernels::PagedKv& kv,
                      std::span<const kernels::AttentionItem> items) {
    const kernels::KeySegment& segment = *items[0].segments;
    const int64_t keys = segment.rows;
    const F32 latents = cached_.Rows(keys, l_.kv_rank);
    const F32 rotated = cached_rotated_.Rows(keys, l_.rope_dim);
    step.ops.read_kv(step.scratch.None(), {kv, segment.page_table, 0, latents, rotated});

    const int64_t per_head = keys * (config_.head_dim + l_.value_dim);
    const int64_t at_once = std::clamp<int64_t>(
        kExpandedBytesMax / (per_head * static_cast<int64_t>(sizeof(float))), 1, config_.heads);
    for (int64_t head = 0; head < config_.heads; head += at_once) {
      const int64_t heads = std::min(at_once, config_.heads - head);
      const kernels::PagedKv expanded = Expand(step, w, latents, rotated, head, heads);
      AttendHeads(step, expanded, items, head, heads);
    }
  }

  // Keys [rotated | plain] and values of some heads, as one page.
  kernels::PagedKv Expand(StepContext& step, const LatentWeights& w, const F32& latents,
                          const F32& rotated, int64_t first, int64_t heads) {
    const int64_t keys = latents.rows;
    const int64_t dim = config_.head_dim;
    float* memory = expanded_.Rows(heads, keys * (dim + l_.value_dim)).data;
    for (int64_t i = 0; i < heads; ++i) {
      const auto head = static_cast<size_t>(first + i);
      const F32 key{memory + i * keys * dim, keys, dim, dim};
      const F32 value{memory + heads * keys * dim + i * keys * l_.value_dim, keys, l_.value_dim,
                      l_.value_dim};
      for (int64_t j = 0; j < keys; ++j) {
        std::memcpy(key.row(j), rotated.row(j), static_cast<size_t>(l_.rope_dim) * sizeof(float));
      }
      Linear(step, latents, w.key[head], {}, Columns(key, l_.rope_dim, l_.nope_dim));
      Linear(step, latents, w.value[head], {}, value);
    }
    kernels::PagedKv kv;
    kv.base = reinterpret_cast<std::byte*>(memory);
    kv.dtype = kernels::DType::kF32;
    kv.block_tokens = keys;
    kv.kv_heads = heads;
    kv.key_dim = dim;
    kv.value_dim = l_.value_dim;
    return kv;
  }

  // Heads [first, first + heads) of the items.
  void AttendHeads(StepContext& step, const kernels::PagedKv& expanded,
                   std::span<const kernels::AttentionItem> items, int64_t first, int64_t heads) {
    constexpr int32_t kOnlyPage = 0;
    const kernels::KeySegment& latents = *items[0].segments;
    const kernels::KeySegment segment{&kOnlyPage, latents.rows, latents.key_position, latents.mask};
    int64_t rows = 0;
    for (const kernels::AttentionItem& item : items) rows += item.q.rows;
    float* lse = some_lse_.Rows(rows, heads).data;
    head_items_.clear();
    for (const kernels::AttentionItem& item : items) {
      const kernels::ConstF32 q{item.q.data + first * config_.head_dim, item.q.rows,
                                heads * config_.head_dim, item.q.row_stride};
      head_items_.push_back({q, item.first_position, &segment, 1,
                             Columns(item.out, first * l_.value_dim, heads * l_.value_dim), lse});
      lse += item.q.rows * heads;
    }
    const kernels::AttentionArgs args{expanded, heads, scale_, head_items_.data(),
                                      static_cast<int64_t>(head_items_.size())};
    Attention(step, args,
              kernels::AttentionScratchBytes(step.scratch.threads(), expanded,
                                             segment.key_position + segment.rows));
    for (size_t i = 0; i < items.size(); ++i) {
      for (int64_t r = 0; r < items[i].q.rows; ++r) {
        std::memcpy(items[i].lse + r * config_.heads + first, head_items_[i].lse + r * heads,
                    static_cast<size_t>(heads) * sizeof(float));
      }
    }
  }

  // Step runs that follow each other in the step.
  void AttendStep(StepContext& step, const LatentWeights& w, std::span<const RowRun> runs,
                  const F32& attended) {
    const int64_t first = runs.front().row;
    const int64_t rows = runs.back().row + runs.back().rows - first;
    const F32 absorbed = absorbed_.Rows(rows, config_.heads * row_cols_);
    const F32 out = latent_out_.Rows(rows, config_.heads * l_.kv_rank);
    Absorb(step, w, RowsAt(q_.Rows(step.rows, q_cols_), first, rows), absorbed);
    absorbed_attention_.Attend(step, runs, absorbed, out, lse_.Rows(rows, config_.heads));
    ValuesOf(step, w, out, RowsAt(attended, first, rows));
  }

  // Queries in the latents' space.
  void Absorb(StepContext& step, const LatentWeights& w, const F32& q, const F32& absorbed) {
    for (int64_t head = 0; head < config_.heads; ++head) {
      const F32 to = Columns(absorbed, head * row_cols_, row_cols_);
      Linear(step, Plain(q, head), w.absorb[static_cast<size_t>(head)], {},
             Columns(to, 0, l_.kv_rank));
      const F32 rotated = Rotated(q, head);
      for (int64_t r = 0; r < q.rows; ++r) {
        std::memcpy(to.row(r) + l_.kv_rank, rotated.row(r),
                    static_cast<size_t>(l_.rope_dim) * sizeof(float));
      }
    }
  }

  // And what they attended back out of it.
  void ValuesOf(StepContext& step, const LatentWeights& w, const F32& out, const F32& attended) {
    for (int64_t head = 0; head < config_.heads; ++head) {
      Linear(step, Columns(out, head * l_.kv_rank, l_.kv_rank), w.value[static_cast<size_t>(head)],
             {}, Columns(attended, head * l_.value_dim, l_.value_dim));
    }
  }

  // ---- With the other ranks of a group. Latents travel, and are expanded where they are used.
  // ----

  class ExpandedAttender final : public parallel::Attender {
   public:
    ExpandedAttender(LatentAttentionBlock& block, StepContext& step, const LatentWeights& w)
        : block_(block), step_(step), w_(w) {}
    void Attend(const kernels::PagedKv& kv,
                std::span<const kernels::AttentionItem> items) override {
      for (size_t begin = 0; begin < items.size();) {
        size_t end = begin + 1;
        while (end < items.size() && SameKeys(items[begin], items[end])) ++end;
        block_.AttendExpanded(step_, w_, kv, items.subspan(begin, end - begin));
        begin = end;
      }
    }

   private:
    static bool SameKeys(const kernels::AttentionItem& a, const kernels::AttentionItem& b) {
      return a.segments->page_table == b.segments->page_table &&
             a.segments->rows == b.segments->rows &&
             a.segments->key_position == b.segments->key_position;
    }
    LatentAttentionBlock& block_;
    StepContext& step_;
    const LatentWeights& w_;
  };

  void AttendTogether(StepContext& step, const LatentWeights& w, const F32& attended) {
    const F32 q = q_.Rows(step.rows, q_cols_);
    ExpandedAttender expanded(*this, step, w);
    step.context->AttendOnHost(
        Form::kPrompt,
        {.kv = step.kv, .heads = config_.heads, .q = q, .out = attended, .attender = &expanded},
        static_cast<double>(config_.heads * l_.kv_rank * (l_.nope_dim + l_.value_dim)));
    if (!step.context->Has(Form::kStep)) return;
    const F32 absorbed = absorbed_.Rows(step.rows, config_.heads * row_cols_);
    const F32 out = latent_out_.Rows(step.rows, config_.heads * l_.kv_rank);
    for (const RowRun& run : step.runs) {
      if (run.prompt) continue;
      Absorb(step, w, RowsAt(q, run.row, run.rows), RowsAt(absorbed, run.row, run.rows));
    }
    StepAttender attender(step, config_.heads, scale_, config_.context);
    step.context->AttendOnHost(
        Form::kStep,
        {.kv = step.kv, .heads = config_.heads, .q = absorbed, .out = out, .attender = &attender},
        0);
    for (const RowRun& run : step.runs) {
      if (run.prompt) continue;
      ValuesOf(step, w, RowsAt(out, run.row, run.rows), RowsAt(attended, run.row, run.rows));
    }
  }

  const ModelConfig config_;
  const LatentAttention l_;
  const int64_t q_cols_;    // heads * head_dim
  const int64_t row_cols_;  // kv_rank + rope_dim
  const float scale_;
  RowBuffer q_low_;   // [rows, q_rank]
  RowBuffer q_;       // [rows, q_cols], per head rotated | plain
  RowBuffer latent_;  // [rows, row_cols], latent | rotated key
  RowBuffer lse_;     // written by attention and not read: nothing merges here
  RowBuffer cached_, cached_rotated_, expanded_;  // of the keys of prompt rows
  RowBuffer some_lse_;                            // of some heads
  std::vector<kernels::AttentionItem> head_items_;
  RowBuffer absorbed_, latent_out_;  // of step runs
  RunAttention absorbed_attention_;
};

}  // namespace

std::unique_ptr<AttentionBlock> MakeLatentAttention(const ModelConfig& config) {
  return std::make_unique<LatentAttentionBlock>(config);
}

}  // namespace reprise::worker
