// The compute contract: plain functions over views (shape, strides, element type), no allocation
// and no hidden state. Model code is written once against it; ref/, cpu/ and cuda/ implement it.
//
// Owner: whoever runs a forward pass. Threads: one caller at a time per Exec (its pool and scratch
// are exclusive for the call); calls with different Execs may run at once. Shapes are
// preconditions, checked by the caller; views never own memory and need no alignment unless said.
//
// Invariants:
// 1. Every output element has one fixed order of operations (stated at each function), so its bits
//    do not depend on batch, blocking, chunk size, page size, thread count or Isa.
// 2. Denormals are flushed to zero (inputs and results) in every function of CpuOps.
// 3. "16-lane sum": element k belongs to lane k mod 16, each lane accumulates with k ascending from
// +0,
//    absent tail elements count as zero; the lanes join by the lane tree: i with i+8, i+4, i+2,
//    i+1.
#ifndef REPRISE_KERNELS_OPS_H_
#define REPRISE_KERNELS_OPS_H_

#include <cstddef>
#include <cstdint>

#include "common/inline.h"

namespace reprise::kernels {

class PackedWeights;  // kernels/packed_weights.h
class ThreadPool;     // kernels/cpu/thread_pool.h

enum class DType : uint8_t { kF32, kBF16, kF16 };

REPRISE_INLINE constexpr int64_t SizeOf(DType type) { return type == DType::kF32 ? 4 : 2; }

// Row-major views; row_stride counts elements.
struct ConstMatrix {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;
};

struct ConstF32 {
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;
  REPRISE_INLINE const float* row(int64_t r) const { return data + r * row_stride; }
};

struct F32 {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;
  REPRISE_INLINE float* row(int64_t r) const { return data + r * row_stride; }
  REPRISE_INLINE operator ConstF32() const { return {data, rows, cols, row_stride}; }
};

// What a call may use besides its operands. `scratch` is 64-byte aligned and at least as large as
// the *ScratchBytes function of the op says; its contents are lost.
struct Exec {
  ThreadPool* pool = nullptr;
  std::byte* scratch = nullptr;
  int64_t scratch_bytes = 0;
};

// y = x W^T (+ bias) (+ residual). x [m, K] f32, y [m, N] f32; residual [m, N] may be y itself.
// bf16 weights: x is rounded to bf16 (nearest even) once; lane i of a block of 32 k takes element
// 2i+1 by FMA, then element 2i (vdpbf16ps), blocks ascending. f32 weights: 16-lane sum by FMA.
// k_slices > 1 cuts k into slices of slice_k, each reduced alone, joined by a binary tree, for
// eight
// ((0+1)+(2+3))+((4+5)+(6+7)): the form of row-parallel layers. A layer that is split over ranks
// has the same bits: each computes its subtree, fewer slices as wide as the whole layer's, without
// bias and residual; AddArgs does those once the subtrees are joined.
struct LinearArgs {
  ConstF32 x;
  const PackedWeights* weights = nullptr;
  const float* bias = nullptr;  // [N] or null
  ConstF32 residual;            // data null: none
  int k_slices = 1;             // 1, 2, 4 or 8
  int64_t slice_k = 0;          // a multiple of 32; 0: SliceK(K)
  F32 y;
};
// Elements of k in a slice of a whole row-parallel layer: ceil(K/8/32)*32.
inline constexpr int kRowParallelSlices = 8;
REPRISE_INLINE constexpr int64_t SliceK(int64_t k) {
  return ((k + kRowParallelSlices - 1) / kRowParallelSlices + 31) / 32 * 32;
}
int64_t LinearScratchBytes(int64_t m, const PackedWeights& weights);

// y = (x + bias) + residual; y may be x or residual.
struct AddArgs {
  ConstF32 x;
  const float* bias = nullptr;  // [cols] or null
  ConstF32 residual;            // data null: none
  F32 y;
};

// cos and sin of position * inv_freq, [m, half] each, one row after the other.
struct RopeTable {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t half = 0;  // rotated dims / 2
};
// Fills a table; absolute error <= 1e-7 for angles up to 2^20. inv_freq [half] (model scaling
// applied).
void FillRopeTable(const int64_t* positions, int64_t m, const double* inv_freq, int64_t half,
                   float* cos, float* sin);

enum class KvLayout : uint8_t {
  kHeads,   // a row is a key and a value per head
  kLatent,  // a row is one latent c and one rotated key r for all heads: key [c; r], value c (MLA)
};

// Paged KV of one layer. The segment of (page, layer) lies at base + page * page_stride_bytes +
// layer * SegmentBytes(kv), in two parts, each [kv_heads][block_tokens][elements]:
//   kHeads   K with key_dim elements, then V with value_dim
//   kLatent  C with value_dim elements, then R with key_dim - value_dim; kv_heads is 1
struct PagedKv {
  std::byte* base = nullptr;
  int64_t page_stride_bytes = 0;
  int64_t layer = 0;
  DType dtype = DType::kBF16;
  int64_t block_tokens = 64;
  KvLayout layout = KvLayout::kHeads;
  int64_t kv_heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
};
REPRISE_INLINE constexpr int64_t FirstPartDim(const PagedKv& kv) {
  return kv.layout == KvLayout::kHeads ? kv.key_dim : kv.value_dim;
}
REPRISE_INLINE constexpr int64_t SecondPartDim(const PagedKv& kv) {
  return kv.layout == KvLayout::kHeads ? kv.value_dim : kv.key_dim - kv.value_dim;
}
int64_t SegmentBytes(const PagedKv& kv);

// Stores both parts of rows, [n, kv_heads * elements] each, at rows first_row .. first_row + n of a
// page table.
struct KvWriteArgs {
  PagedKv kv;
  const int32_t* page_table = nullptr;
  int64_t first_row = 0;
  ConstF32 first;
  ConstF32 second;
};
// Reads them back, widened.
struct KvReadArgs {
  PagedKv kv;
  const int32_t* page_table = nullptr;
  int64_t first_row = 0;
  F32 first;
  F32 second;
};

enum class MaskKind : uint8_t {
  kCausal,  // a query sees keys at positions <= its own
  kFull,    // a query sees every row of the segment
};

// Part of what queries may see: rows 0 .. rows-1 of a page table, row i at position key_position +
// i.
struct KeySegment {
  const int32_t* page_table = nullptr;
  int64_t rows = 0;
  int64_t key_position = 0;
  MaskKind mask = MaskKind::kCausal;
};

// Consecutive query rows of one sequence: a prompt chunk, or one step row.
struct AttentionItem {
  ConstF32 q;                  // [n, q_heads * key_dim]; row r stands at first_position + r
  int64_t first_position = 0;  // absolute
  const KeySegment* segments = nullptr;
  int64_t n_segments = 0;
  F32 out;               // [n, q_heads * value_dim]
  float* lse = nullptr;  // [n, q_heads], natural log; nothing visible: out = 0, lse = -inf
};

// Per (row, head), independent of everything else in the batch:
//   score   s_j = scale * (16-lane sum by FMA of q . k_j over key_dim, k widened to f32)
//   leaf    keys with equal position / 512; in it blocks of equal position / 64, ascending:
//           m' = max(m, max_j s_j), a = exp(m - m'), p_j = exp(s_j - m');
//           l = fma(l, a, 16-lane sum of p_j, slot = position mod 64); o = o * a, then o = fma(p_j,
//           v_j, o) with j ascending. Leaf result: o / l and m + log(l).
//   tree    leaves merge (MergeArgs' rule) by the binary tree over the absolute leaf index; a node
//   missing
//           one child is the other.
//   list    several segments merge in list order, first with second, the result with the third, ...
struct AttentionArgs {
  PagedKv kv;
  int64_t q_heads = 0;  // a multiple of kv_heads; head h reads kv head h / (q_heads / kv_heads)
  float scale = 0;      // > 0
  const AttentionItem* items = nullptr;
  int64_t n_items = 0;
};
inline constexpr int64_t kLeafTokens = 512;
inline constexpr int64_t kBlockKeys = 64;
// Enough for any batch over such rows whose key positions stay below max_position.
int64_t AttentionScratchBytes(int64_t threads, const PagedKv& kv, int64_t max_position);

// Partial attention results of the same queries over disjoint keys.
struct Partials {
  F32 out;               // [n, heads * head_dim]
  float* lse = nullptr;  // [n, heads]
};
// dst = left joined with right: M = max(Ll, Lr), wl = exp(Ll - M), wr = exp(Lr - M), s = wl + wr,
// out = fma(Ol, wl / s, Or * (wr / s)), lse = M + log(s). A side with lse -inf leaves the other's
// bits untouched. dst may be left or right.
struct MergeArgs {
  int64_t heads = 0;
  int64_t head_dim = 0;
  Partials left;
  Partials right;
  Partials dst;
};

struct Candidate {
  float logit = 0;
  int32_t id = 0;
};

struct SoftmaxStats {
  float max = 0;
  float sum = 0;  // 16-lane sum of exp(x - max)
  float lse = 0;  // max + log(sum): log-probability of token i is x_i - lse
};

// How often a token occurs, once per distinct token.
struct TokenCount {
  int32_t id = 0;
  int32_t prompt = 0;
  int32_t output = 0;
};

struct Penalties {
  float repetition = 1;  // > 0; prompt and output tokens: x > 0 ? x / r : x * r
  float presence = 0;    // output tokens: x -= presence + frequency * count
  float frequency = 0;
};

enum class Gating : uint8_t {
  kSoftmax,  // a group's score is its best expert's
  kSigmoid,  // a group's score is the sum of its two best
};

// Which experts each row goes to, and with what weight.
//   score   softmax: exp(x - max) / (16-lane sum of them); sigmoid: 1 / (1 + exp(-x))
//   choice  by score + bias (absent: 0); only experts of the `groups_kept` best groups (of equal
//           size, in order) count; ties go to the lowest group and expert; a NaN is never chosen
//           before a number
//   weight  the score; normalize: over (their sum, ids ascending, + 1e-20); then times scale
struct RouteArgs {
  ConstF32 logits;  // [m, experts], at most kExpertsMax
  Gating gating = Gating::kSoftmax;
  const float* bias = nullptr;  // [experts] or null
  int64_t groups = 1;           // divides experts
  int64_t groups_kept = 1;
  int64_t per_row = 0;  // at most the experts of groups_kept groups
  bool normalize = false;
  float scale = 1;
  int32_t* ids = nullptr;    // [m, per_row], ascending
  float* weights = nullptr;  // [m, per_row], as ids
};
inline constexpr int64_t kExpertsMax = 1024;

// y row rows[i] = fma(weights[i], x row i, y row rows[i]), i ascending; rows are distinct.
struct AddScaledArgs {
  ConstF32 x;
  const int32_t* rows = nullptr;
  const float* weights = nullptr;
  F32 y;
};

enum class Isa : uint8_t { kScalar, kAvx2, kAvx512 };  // kAvx512 includes F, BW, VL, DQ and BF16

struct CpuOps {
  Isa isa;

  void (*linear)(const Exec& exec, const LinearArgs& args);

  void (*add)(const Exec& exec, const AddArgs& args);

  // y = (x * r) * weight, r = 1 / sqrt(sum / cols + eps), sum = 16-lane sum by FMA of squares.
  void (*rms_norm)(const Exec& exec, ConstF32 x, const float* weight, float eps, F32 y);

  // Rotate-half in place on each head of x [m, heads * head_dim], dims beyond 2 * half untouched:
  // a' = a c - b s, b' = b c + a s with one rounding per product and per sum.
  void (*rope_apply)(const Exec& exec, const RopeTable& table, int64_t head_dim, F32 x);

  void (*write_kv)(const KvWriteArgs& args);
  void (*read_kv)(const Exec& exec, const KvReadArgs& args);
  void (*attention)(const Exec& exec, const AttentionArgs& args);
  void (*merge_partials)(const MergeArgs& args);

  // y = (gate / (1 + exp(-gate))) * up; y may be gate or up.
  void (*swiglu)(const Exec& exec, ConstF32 gate, ConstF32 up, F32 y);

  void (*route)(const Exec& exec, const RouteArgs& args);
  void (*add_scaled)(const Exec& exec, const AddScaledArgs& args);

  // y row i = table row ids[i], ids in [0, table.rows).
  void (*embed)(const Exec& exec, ConstMatrix table, const int32_t* ids, F32 y);

  // Nearest even, NaN stays NaN (quiet), overflow to infinity; f32 denormals become zero in bf16.
  void (*convert)(const void* src, DType from, void* dst, DType to, int64_t n);

  // Lowest id among the largest logits; NaN is never chosen; -1 when there is nothing but NaN.
  int64_t (*argmax)(const float* logits, int64_t n);

  // NaN counts as -inf.
  SoftmaxStats (*softmax_stats)(const float* logits, int64_t n);

  // The k first in the order (logit descending, id ascending), NaN left out; returns how many there
  // are.
  int64_t (*top_k)(const float* logits, int64_t n, int64_t k, Candidate* out);

  void (*apply_temperature)(float* logits, int64_t n, float temperature);  // x / temperature
  void (*apply_penalties)(float* logits, const TokenCount* counts, int64_t n_counts,
                          const Penalties& penalties);

  // cumulative[i] = cumulative[i-1] + exp(logit_i - logit_0) in double, i ascending; candidates
  // sorted as top_k sorts them. Returns the total; probability of i = (cumulative[i] -
  // cumulative[i-1]) / total.
  double (*softmax_sorted)(const Candidate* candidates, int64_t n, double* cumulative);
};

// The widest this CPU and its operating system support.
Isa BestIsa();
bool Supported(Isa isa);
const char* IsaName(Isa isa);
// Precondition: Supported(isa). The table is constant and lives for the whole program.
const CpuOps& Select(Isa isa);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_OPS_H_
