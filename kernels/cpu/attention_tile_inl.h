// One tile of paged attention over one leaf of keys, in the canonical order of ops.h
// (AttentionArgs). A tile is up to kQueries queries (row x head) of one KV head, so that every key
// and value fetched serves them all; tiles, pages and threads change which bytes are reused, never
// the order in which one query meets its keys.
#ifndef REPRISE_KERNELS_CPU_ATTENTION_TILE_INL_H_
#define REPRISE_KERNELS_CPU_ATTENTION_TILE_INL_H_

#include "kernels/cpu/attention_layout.h"
#include "kernels/cpu/math_inl.h"

namespace reprise::kernels::REPRISE_KERNEL_ISA {

// What a tile works on.
struct Tile {
  const AttentionArgs* args;
  const AttentionItem* item;
  TileMemory mem;
  int64_t kv_head;
  int64_t group;        // query heads per KV head
  int64_t first_query;  // in the item's queries of this KV head, flattened as row * group + g
  int64_t queries;
  TileDims dims;

  int64_t Row(int64_t q) const { return (first_query + q) / group; }
  int64_t Head(int64_t q) const { return kv_head * group + (first_query + q) % group; }
};

// Partial results of a tile's queries: out [queries][value], lse [queries].
struct TilePartial {
  float* out;
  float* lse;
};

static TilePartial PartialAt(const Tile& t, float* memory) {
  return {memory, memory + kQueries * t.dims.value};
}

// left = left joined with right; the rule of MergeArgs for one query.
static inline void MergeOne(const float* left, float left_lse, const float* right, float right_lse,
                            int64_t dim, float* out, float* out_lse) {
  const bool take_left = right_lse == -kInfinity;
  if (take_left || left_lse == -kInfinity) {
    const float* from = take_left ? left : right;
    if (out != from) std::memcpy(out, from, static_cast<size_t>(dim) * 4);
    *out_lse = take_left ? left_lse : right_lse;
    return;
  }
  const float max = left_lse > right_lse ? left_lse : right_lse;
  const float wl = Exp(left_lse - max);
  const float wr = Exp(right_lse - max);
  const float sum = wl + wr;
  const V vl = V::Set1(wl / sum);
  const V vr = V::Set1(wr / sum);
  int64_t i = 0;
  for (; i + 16 <= dim; i += 16) {
    Fma(V::Load(left + i), vl, Mul(V::Load(right + i), vr)).Store(out + i);
  }
  if (i < dim) {
    const int64_t n = dim - i;
    Fma(V::LoadN(left + i, n), vl, Mul(V::LoadN(right + i, n), vr)).StoreN(out + i, n);
  }
  *out_lse = LogSumExp(max, sum);
}

static void MergeTile(const Tile& t, TilePartial left, TilePartial right, TilePartial out) {
  for (int64_t q = 0; q < t.queries; ++q) {
    const int64_t at = q * t.dims.value;
    MergeOne(left.out + at, left.lse[q], right.out + at, right.lse[q], t.dims.value, out.out + at,
             out.lse + q);
  }
}

// Element i .. i + 15 of a key or value row kept as T.
template <DType T>
static inline V LoadRow(const void* row, int64_t i) {
  if constexpr (T == DType::kF32) {
    return V::Load(static_cast<const float*>(row) + i);
  } else if constexpr (T == DType::kBF16) {
    return V::LoadBf16(static_cast<const uint16_t*>(row) + i);
  } else {
    return V::LoadF16(static_cast<const uint16_t*>(row) + i);
  }
}

// Whether the tiles read rows where they lie. Otherwise each block is widened to f32 first: worth
// its stores once several queries read the result, and needed when a row ends inside a vector or
// lies in two parts.
static bool InPlace(const Tile& t) {
  const PagedKv& kv = t.args->kv;
  return kv.layout == KvLayout::kHeads && kv.key_dim == t.dims.key &&
         kv.value_dim == t.dims.value && (kv.dtype == DType::kF32 || t.queries <= 4);
}

// Where the rows of a block lie in the cache, both parts.
struct BlockRows {
  const std::byte* first[kBlockKeys];
  const std::byte* second[kBlockKeys];
};

static void FindRows(const Tile& t, const KeySegment& segment, int64_t first, int64_t keys,
                     BlockRows* rows) {
  const PagedKv& kv = t.args->kv;
  const int64_t first_bytes = FirstPartDim(kv) * SizeOf(kv.dtype);
  const int64_t second_bytes = SecondPartDim(kv) * SizeOf(kv.dtype);
  const int64_t second_part = kv.kv_heads * kv.block_tokens * first_bytes;
  int64_t page = first / kv.block_tokens;
  int64_t slot = first % kv.block_tokens;
  for (int64_t j = 0; j < keys; ++j, ++slot) {
    if (slot == kv.block_tokens) {
      slot = 0;
      ++page;
    }
    const std::byte* at =
        kv.base + segment.page_table[page] * kv.page_stride_bytes + kv.layer * SegmentBytes(kv);
    const int64_t row = t.kv_head * kv.block_tokens + slot;
    rows->first[j] = at + row * first_bytes;
    rows->second[j] = at + second_part + row * second_bytes;
  }
}

// n elements of a cached row as f32.
static void Widen(DType dtype, const std::byte* row, int64_t n, float* wide) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) LoadAs(dtype, row, i).Store(wide + i);
  if (i < n) LoadAsN(dtype, row, i, n - i).StoreN(wide + i, n - i);
}
static void ZeroFrom(float* wide, int64_t from, int64_t to) {
  for (int64_t i = from; i < to; ++i) wide[i] = 0;
}

// The score tiles take 16 keys at a time: the rest of the last tile repeats a key and is masked.
static void RepeatLast(const Tile& t, int64_t keys) {
  for (int64_t j = keys; j < RoundUp(keys, 16); ++j) t.mem.rows[j] = t.mem.rows[keys - 1];
}

// mem.rows[j] = row j of one part of kHeads, `dim` elements, widened to f32 unless read in place.
static void FetchPart(const Tile& t, const std::byte* const* cached, int64_t dim, int64_t padded,
                      int64_t keys) {
  for (int64_t j = 0; j < keys; ++j) {
    t.mem.rows[j] = cached[j];
    if (InPlace(t)) continue;
    float* wide = t.mem.wide + j * padded;
    Widen(t.args->kv.dtype, cached[j], dim, wide);
    ZeroFrom(wide, dim, padded);
    t.mem.rows[j] = reinterpret_cast<const std::byte*>(wide);
  }
  RepeatLast(t, keys);
}

static void FetchKeys(const Tile& t, const BlockRows& rows, int64_t keys) {
  const PagedKv& kv = t.args->kv;
  if (kv.layout == KvLayout::kHeads) {
    return FetchPart(t, rows.first, kv.key_dim, t.dims.key, keys);
  }
  for (int64_t j = 0; j < keys; ++j) {
    float* wide = t.mem.wide + j * t.dims.key;
    Widen(kv.dtype, rows.first[j], kv.value_dim, wide);
    Widen(kv.dtype, rows.second[j], kv.key_dim - kv.value_dim, wide + kv.value_dim);
    ZeroFrom(wide, kv.key_dim, t.dims.key);
    t.mem.rows[j] = reinterpret_cast<const std::byte*>(wide);
  }
  RepeatLast(t, keys);
}

// Latents are there already: a value is the front of its key. Columns beyond it, up to a multiple
// of 16, then hold what nobody reads.
static void FetchValues(const Tile& t, const BlockRows& rows, int64_t keys) {
  const PagedKv& kv = t.args->kv;
  if (kv.layout == KvLayout::kHeads) {
    FetchPart(t, rows.second, kv.value_dim, t.dims.value, keys);
  }
}

// Scores of Q queries (stride padded) with 16 / Q keys, out[q][16 / Q].
template <int Q, DType T>
static inline void ScoreTile(const float* q, const std::byte* const* k, int64_t padded,
                             float* out) {
  constexpr int kKeys = 16 / Q;
  constexpr int kSub = kSubRows < kKeys ? kSubRows : kKeys;
  V acc[16];
#pragma clang loop unroll(full)
  for (int sub = 0; sub < kKeys; sub += kSub) {
    V part[Q][kSub];
#pragma clang loop unroll(full)
    for (int r = 0; r < Q; ++r) {
#pragma clang loop unroll(full)
      for (int j = 0; j < kSub; ++j) part[r][j] = V::Zero();
    }
    for (int64_t i = 0; i < padded; i += 16) {
      V vq[Q];
#pragma clang loop unroll(full)
      for (int r = 0; r < Q; ++r) vq[r] = V::Load(q + r * padded + i);
#pragma clang loop unroll(full)
      for (int j = 0; j < kSub; ++j) {
        const V vk = LoadRow<T>(k[sub + j], i);
#pragma clang loop unroll(full)
        for (int r = 0; r < Q; ++r) part[r][j] = Fma(vq[r], vk, part[r][j]);
      }
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < Q; ++r) {
#pragma clang loop unroll(full)
      for (int j = 0; j < kSub; ++j) acc[r * kKeys + sub + j] = part[r][j];
    }
  }
  ReduceAdd16(acc, out);
}

// p[q][slot0 + j] = raw scores of the tile's queries with `keys` gathered keys; slots beyond are
// overwritten with anything.
template <DType T>
static void Scores(const Tile& t, int64_t slot0, int64_t keys) {
  alignas(64) float out[16];
  float* p = t.mem.p + slot0;
  int64_t q = 0;
  for (; q + 2 <= t.queries; q += 2, p += 2 * kScoreStride) {
    for (int64_t j = 0; j < keys; j += 8) {
      ScoreTile<2, T>(t.mem.q + q * t.dims.key, t.mem.rows + j, t.dims.key, out);
      std::memcpy(p + j, out, 32);
      std::memcpy(p + kScoreStride + j, out + 8, 32);
    }
  }
  if (q == t.queries) return;
  for (int64_t j = 0; j < keys; j += 16) {
    ScoreTile<1, T>(t.mem.q + q * t.dims.key, t.mem.rows + j, t.dims.key, out);
    std::memcpy(p + j, out, 64);
  }
}

// One query's block: slots [begin, end) of p hold raw scores, the others become probability zero.
// Updates the running maximum and sum and returns the factor for what o holds so far.
static float SoftmaxBlock(const Tile& t, int64_t q, int64_t begin, int64_t end) {
  float* p = t.mem.p + q * kScoreStride;
  for (int64_t j = 0; j < begin; ++j) p[j] = -kInfinity;
  for (int64_t j = end; j < kBlockKeys; ++j) p[j] = -kInfinity;
  // -inf times a scale stays -inf: scale is positive.
  const V scale = V::Set1(t.args->scale);
  V s[4];
  V max = V::Set1(t.mem.max[q]);
  for (int i = 0; i < 4; ++i) {
    s[i] = Mul(V::Load(p + i * 16), scale);
    max = Max(s[i], max);
  }
  const float new_max = ReduceMax(max);
  const V shift = V::Set1(new_max);
  V sum = V::Zero();
  for (int i = 0; i < 4; ++i) {
    const V e = Exp(Sub(s[i], shift));
    e.Store(p + i * 16);
    sum = Add(sum, e);
  }
  const float factor = Exp(t.mem.max[q] - new_max);
  t.mem.sum[q] = __builtin_fmaf(t.mem.sum[q], factor, ReduceAdd(sum));
  t.mem.max[q] = new_max;
  return factor;
}

// o = o * factor, then o += p_j v_j for keys [begin, end), for Q queries and C vectors of columns.
template <int Q, int C, DType T>
static inline void PvTile(const Tile& t, int64_t q0, int64_t column, const float* factor,
                          int64_t slot0, int64_t begin, int64_t end) {
  V o[Q][C];
  float* out = t.mem.leaf + q0 * t.dims.value + column;
  const float* p = t.mem.p + q0 * kScoreStride + slot0;
#pragma clang loop unroll(full)
  for (int q = 0; q < Q; ++q) {
    const V f = V::Set1(factor[q]);
#pragma clang loop unroll(full)
    for (int c = 0; c < C; ++c) o[q][c] = Mul(V::Load(out + q * t.dims.value + c * 16), f);
  }
  for (int64_t j = begin; j < end; ++j) {
    V v[C];
#pragma clang loop unroll(full)
    for (int c = 0; c < C; ++c) v[c] = LoadRow<T>(t.mem.rows[j], column + c * 16);
#pragma clang loop unroll(full)
    for (int q = 0; q < Q; ++q) {
      const V w = V::Set1(p[q * kScoreStride + j]);
#pragma clang loop unroll(full)
      for (int c = 0; c < C; ++c) o[q][c] = Fma(w, v[c], o[q][c]);
    }
  }
#pragma clang loop unroll(full)
  for (int q = 0; q < Q; ++q) {
#pragma clang loop unroll(full)
    for (int c = 0; c < C; ++c) o[q][c].Store(out + q * t.dims.value + c * 16);
  }
}

template <int Q, DType T>
static void PvQueries(const Tile& t, int64_t q0, const float* factor, int64_t slot0, int64_t begin,
                      int64_t end) {
  int64_t column = 0;
  for (; column + kPvColumns * 16 <= t.dims.value; column += kPvColumns * 16) {
    PvTile<Q, kPvColumns, T>(t, q0, column, factor, slot0, begin, end);
  }
  for (; column < t.dims.value; column += 16) {
    PvTile<Q, 1, T>(t, q0, column, factor, slot0, begin, end);
  }
}

// A group of Q queries over the keys they all see, then each over the rest of its own.
template <int Q, DType T>
static void PvGroup(const Tile& t, int64_t q0, const float* factor, int64_t slot0,
                    const int64_t* visible) {
  int64_t common = visible[q0];
  for (int q = 1; q < Q; ++q) common = MinOf(common, visible[q0 + q]);
  PvQueries<Q, T>(t, q0, factor + q0, slot0, 0, common);
  const float one = 1;
  for (int64_t q = q0; q < q0 + Q; ++q) {
    if (visible[q] > common) PvQueries<1, T>(t, q, &one, slot0, common, visible[q]);
  }
}

// Block of up to 64 keys: rows [first, first + keys) of the segment, read as T; query q sees the
// first visible[q] of them.
template <DType T>
static void BlockAs(const Tile& t, const KeySegment& segment, int64_t first, const int64_t* visible,
                    int64_t keys) {
  const int64_t slot0 = (segment.key_position + first) % kBlockKeys;
  BlockRows rows;
  FindRows(t, segment, first, keys, &rows);
  FetchKeys(t, rows, keys);
  Scores<T>(t, slot0, keys);
  float factor[kQueries];
  for (int64_t q = 0; q < t.queries; ++q) {
    factor[q] = visible[q] > 0 ? SoftmaxBlock(t, q, slot0, slot0 + visible[q]) : 1;
  }
  FetchValues(t, rows, keys);
  int64_t q = 0;
  for (; q + kPvQueries <= t.queries; q += kPvQueries) {
    PvGroup<kPvQueries, T>(t, q, factor, slot0, visible);
  }
  if constexpr (kPvQueries > 2) {
    for (; q + 2 <= t.queries; q += 2) PvGroup<2, T>(t, q, factor, slot0, visible);
  }
  for (; q < t.queries; ++q) PvGroup<1, T>(t, q, factor, slot0, visible);
}

static void Block(const Tile& t, const KeySegment& segment, int64_t first, const int64_t* visible,
                  int64_t keys) {
  const DType dtype = InPlace(t) ? t.args->kv.dtype : DType::kF32;
  if (dtype == DType::kF32) return BlockAs<DType::kF32>(t, segment, first, visible, keys);
  if (dtype == DType::kBF16) return BlockAs<DType::kBF16>(t, segment, first, visible, keys);
  BlockAs<DType::kF16>(t, segment, first, visible, keys);
}

// How many rows of the segment query q sees.
static int64_t VisibleRows(const Tile& t, const KeySegment& segment, int64_t q) {
  if (segment.mask == MaskKind::kFull) return segment.rows;
  const int64_t position = t.item->first_position + t.Row(q);
  return MaxOf(0, MinOf(segment.rows, position + 1 - segment.key_position));
}

// Rows [begin, end) of a segment, all of one leaf: result normalised in `result`.
static void Leaf(const Tile& t, const KeySegment& segment, int64_t begin, int64_t end,
                 TilePartial result) {
  for (int64_t q = 0; q < t.queries; ++q) {
    t.mem.max[q] = -kInfinity;
    t.mem.sum[q] = 0;
  }
  std::memset(t.mem.leaf, 0, static_cast<size_t>(t.queries * t.dims.value) * 4);
  for (int64_t first = begin; first < end;) {
    const int64_t in_block = kBlockKeys - (segment.key_position + first) % kBlockKeys;
    const int64_t block_end = MinOf(end, first + in_block);
    int64_t visible[kQueries];
    for (int64_t q = 0; q < t.queries; ++q) {
      visible[q] = MaxOf(0, MinOf(block_end, VisibleRows(t, segment, q)) - first);
    }
    Block(t, segment, first, visible, block_end - first);
    first = block_end;
  }
  for (int64_t q = 0; q < t.queries; ++q) {
    const bool empty = t.mem.max[q] == -kInfinity && t.mem.sum[q] == 0;
    const V sum = V::Set1(empty ? 1.0f : t.mem.sum[q]);
    for (int64_t i = 0; i < t.dims.value; i += 16) {
      Div(V::Load(t.mem.leaf + q * t.dims.value + i), sum).Store(result.out + q * t.dims.value + i);
    }
    result.lse[q] = LogSumExp(t.mem.max[q], t.mem.sum[q]);
  }
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_ATTENTION_TILE_INL_H_
