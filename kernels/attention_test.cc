// Paged attention: against double, and equal to the bit whatever the chunks, pages, batch, threads
// and instruction set.
#include <algorithm>

#include "kernels/cpu/thread_pool.h"
#include "kernels/ref/ref.h"
#include "kernels/test_util.h"

namespace reprise::kernels {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

// A sequence in a paged cache whose every unused byte is NaN.
class Sequence {
 public:
  Sequence(int64_t keys, int64_t kv_heads, int64_t head_dim, DType dtype, int64_t block_tokens)
      : keys_(keys) {
    kv_.dtype = dtype;
    kv_.block_tokens = block_tokens;
    kv_.kv_heads = kv_heads;
    kv_.head_dim = head_dim;
    kv_.layer = 1;
    kv_.page_stride_bytes = 3 * SegmentBytes(kv_) + 4;
    const int64_t pages = (keys + block_tokens - 1) / block_tokens + 1;
    memory_.assign(static_cast<size_t>(pages * kv_.page_stride_bytes), std::byte{0xFF});
    kv_.base = memory_.data();
    for (int64_t i = 0; i < pages; ++i) table_.push_back(static_cast<int32_t>(pages - 1 - i));
    const int64_t width = kv_heads * head_dim;
    k = Uniform(keys * width, 11);
    v = Uniform(keys * width, 12);
    // In two writes, the second not at a page's start.
    const int64_t half = keys / 2;
    for (auto [from, to] : {std::pair<int64_t, int64_t>{0, half}, {half, keys}}) {
      Select(Isa::kScalar)
          .write_kv({kv_,
                     table_.data(),
                     from,
                     {k.data() + from * width, to - from, width, width},
                     {v.data() + from * width, to - from, width, width}});
    }
    k = StoreAs(dtype, k).values;
    v = StoreAs(dtype, v).values;
  }

  const PagedKv& kv() const { return kv_; }
  KeySegment All(MaskKind mask = MaskKind::kCausal) const {
    return {table_.data(), keys_, 0, mask};
  }

  std::vector<float> k, v;  // as stored, [keys, kv_heads, head_dim]

 private:
  int64_t keys_;
  PagedKv kv_;
  std::vector<std::byte> memory_;
  std::vector<int32_t> table_;
};

struct Result {
  std::vector<float> out, lse;
};

struct Query {
  int64_t rows, heads, first_position;
  std::vector<float> q;
};

Query MakeQuery(int64_t rows, int64_t heads, int64_t head_dim, int64_t first_position) {
  return {rows, heads, first_position, Uniform(rows * heads * head_dim, 13, 2)};
}

// The query's rows in chunks of `chunk`, all as items of one batch.
Result Attend(Isa isa, const Sequence& s, const Query& q, const std::vector<KeySegment>& segments,
           int64_t chunk, ThreadPool* pool) {
  const int64_t width = q.heads * s.kv().head_dim;
  Result r{std::vector<float>(q.q.size(), kNaN), std::vector<float>(q.rows * q.heads, kNaN)};
  std::vector<AttentionItem> items;
  for (int64_t from = 0; from < q.rows; from += chunk) {
    const int64_t rows = std::min(chunk, q.rows - from);
    AttentionItem item;
    item.q = {q.q.data() + from * width, rows, width, width};
    item.first_position = q.first_position + from;
    item.segments = segments.data();
    item.n_segments = static_cast<int64_t>(segments.size());
    item.out = {r.out.data() + from * width, rows, width, width};
    item.lse = r.lse.data() + from * q.heads;
    items.push_back(item);
  }
  int64_t end = 0;
  for (const KeySegment& g : segments) end = std::max(end, g.key_position + g.rows);
  TestScratch scratch(
      AttentionScratchBytes(pool == nullptr ? 1 : pool->threads(), s.kv().head_dim, end));
  AttentionArgs args{s.kv(), q.heads, 1 / std::sqrt(static_cast<float>(s.kv().head_dim)),
                     items.data(), static_cast<int64_t>(items.size())};
  Select(isa).attention(scratch.With(pool), args);
  return r;
}

ref::AttentionResult Want(const Sequence& s, const Query& q, bool causal) {
  ref::AttentionShape shape;
  shape.rows = q.rows;
  shape.q_heads = q.heads;
  shape.kv_heads = s.kv().kv_heads;
  shape.head_dim = s.kv().head_dim;
  shape.first_position = q.first_position;
  shape.causal = causal;
  shape.scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  return ref::Attention(ToDouble(q.q), ToDouble(s.k), ToDouble(s.v), shape);
}

TEST(Attention, AgreesWithDouble) {
  struct Case {
    int64_t keys, rows, heads, kv_heads, dim;
    DType dtype;
  };
  const Case cases[] = {
      {1, 1, 1, 1, 8, DType::kF32},       {70, 70, 2, 1, 16, DType::kF32},
      {65, 3, 4, 2, 32, DType::kBF16},    {520, 9, 4, 2, 64, DType::kF16},
      {1100, 2, 6, 2, 80, DType::kBF16},  {100, 40, 3, 3, 96, DType::kF16},
      {1600, 2, 8, 1, 128, DType::kBF16}, {90, 5, 2, 1, 256, DType::kF32},
      {30, 2, 50, 1, 16, DType::kF32},
  };
  for (const Case& c : cases) {
    const Sequence s(c.keys, c.kv_heads, c.dim, c.dtype, 64);
    const Query q = MakeQuery(c.rows, c.heads, c.dim, c.keys - c.rows);
    for (MaskKind mask : {MaskKind::kCausal, MaskKind::kFull}) {
      const ref::AttentionResult want = Want(s, q, mask == MaskKind::kCausal);
      for (Isa isa : Isas()) {
        const Result r = Attend(isa, s, q, {s.All(mask)}, c.rows, nullptr);
        // |q| <= 2, |k| <= 1: a score errs by (d/16 + 6) 2^-24 * 2 sqrt(d) and carries that into p,
        // relatively; |v| <= 1, so out errs by twice that, plus 2^-24 for each of the keys summed
        // in sequence within a leaf (at most 512 of weight summing to 1) and 40 roundings of exp,
        // factors, merges.
        const double d = static_cast<double>(c.dim);
        const double bound = 0x1p-24 * (4 * (d / 16 + 6) * std::sqrt(d) + 512 + 40);
        for (size_t i = 0; i < r.out.size(); ++i) ASSERT_NEAR(r.out[i], want.out[i], bound) << i;
        for (size_t i = 0; i < r.lse.size(); ++i) ASSERT_NEAR(r.lse[i], want.lse[i], bound) << i;
      }
    }
  }
}

TEST(Attention, BitsDoNotDependOnHowItIsComputed) {
  constexpr int64_t kKeys = 1170;
  constexpr int64_t kRows = 150;  // crosses the leaf boundary at 1,024
  ThreadPool pool(3);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Sequence s(kKeys, 2, 32, dtype, 64);
    const Query q = MakeQuery(kRows, 6, 32, kKeys - kRows);
    const Result want = Attend(Isa::kScalar, s, q, {s.All()}, kRows, nullptr);
    for (Isa isa : Isas()) {
      for (int64_t block_tokens : {1, 16, 48, 64, 100}) {
        const Sequence other(kKeys, 2, 32, dtype, block_tokens);
        const Result r = Attend(isa, other, q, {other.All()}, kRows, nullptr);
        EXPECT_TRUE(SameBits(r.out, want.out)) << IsaName(isa) << " page " << block_tokens;
        EXPECT_TRUE(SameBits(r.lse, want.lse)) << IsaName(isa) << " page " << block_tokens;
      }
      for (int64_t chunk : {1, 7, 64}) {
        const Result r = Attend(isa, s, q, {s.All()}, chunk, &pool);
        EXPECT_TRUE(SameBits(r.out, want.out)) << IsaName(isa) << " chunk " << chunk;
        EXPECT_TRUE(SameBits(r.lse, want.lse)) << IsaName(isa) << " chunk " << chunk;
      }
    }
  }
}

}  // namespace
}  // namespace reprise::kernels
