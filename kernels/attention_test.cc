// Paged attention: against double, and equal to the bit whatever the chunks, pages, batch, threads
// and instruction set.
#include <algorithm>

#include "kernels/cpu/thread_pool.h"
#include "kernels/ref/ref.h"
#include "kernels/test_util.h"

namespace reprise::kernels {
namespace {

using namespace testing;

struct Layout {
  KvLayout kind = KvLayout::kHeads;
  int64_t kv_heads = 1;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
};
Layout Heads(int64_t kv_heads, int64_t dim) { return {KvLayout::kHeads, kv_heads, dim, dim}; }

// A sequence in a paged cache whose every unused byte is NaN.
class Sequence {
 public:
  Sequence(int64_t keys, const Layout& layout, DType dtype, int64_t block_tokens) : keys_(keys) {
    kv_.dtype = dtype;
    kv_.block_tokens = block_tokens;
    kv_.layout = layout.kind;
    kv_.kv_heads = layout.kv_heads;
    kv_.key_dim = layout.key_dim;
    kv_.value_dim = layout.value_dim;
    kv_.layer = 1;
    kv_.page_stride_bytes = 3 * SegmentBytes(kv_) + 4;
    const int64_t pages = (keys + block_tokens - 1) / block_tokens + 1;
    memory_.assign(static_cast<size_t>(pages * kv_.page_stride_bytes), std::byte{0xFF});
    kv_.base = memory_.data();
    for (int64_t i = 0; i < pages; ++i) table_.push_back(static_cast<int32_t>(pages - 1 - i));
    first_ = Uniform(keys * FirstWidth(), 11);
    second_ = Uniform(keys * SecondWidth(), 12);
    // In two writes, the second not at a page's start.
    const int64_t half = keys / 2;
    for (auto [from, to] : {std::pair<int64_t, int64_t>{0, half}, {half, keys}}) {
      Write(from, Rows(first_, from, to, FirstWidth()), Rows(second_, from, to, SecondWidth()));
    }
    first_ = StoreAs(dtype, first_).values;
    second_ = StoreAs(dtype, second_).values;
  }

  const PagedKv& kv() const { return kv_; }
  KeySegment All(MaskKind mask = MaskKind::kCausal) const {
    return {table_.data(), keys_, 0, mask};
  }

  // Overwrites the cached rows from `row` on with NaN.
  void Poison(int64_t row) {
    const std::vector<float> nan(
        static_cast<size_t>((keys_ - row) * std::max(FirstWidth(), SecondWidth())), kNaN);
    Write(row, {nan.data(), keys_ - row, FirstWidth(), FirstWidth()},
          {nan.data(), keys_ - row, SecondWidth(), SecondWidth()});
  }

  // As stored: keys [keys, kv_heads, key_dim] and values [keys, kv_heads, value_dim].
  std::vector<float> Keys() const {
    if (kv_.layout == KvLayout::kHeads) return first_;
    std::vector<float> keys;
    for (int64_t j = 0; j < keys_; ++j) {
      const float* c = first_.data() + j * FirstWidth();
      const float* r = second_.data() + j * SecondWidth();
      keys.insert(keys.end(), c, c + FirstWidth());
      keys.insert(keys.end(), r, r + SecondWidth());
    }
    return keys;
  }
  const std::vector<float>& Values() const {
    return kv_.layout == KvLayout::kHeads ? second_ : first_;
  }
  const std::vector<float>& first() const { return first_; }
  const std::vector<float>& second() const { return second_; }
  int64_t FirstWidth() const { return kv_.kv_heads * FirstPartDim(kv_); }
  int64_t SecondWidth() const { return kv_.kv_heads * SecondPartDim(kv_); }

 private:
  static ConstF32 Rows(const std::vector<float>& rows, int64_t from, int64_t to, int64_t width) {
    return {rows.data() + from * width, to - from, width, width};
  }
  void Write(int64_t row, ConstF32 first, ConstF32 second) const {
    Select(Isa::kScalar).write_kv({kv_, table_.data(), row, first, second});
  }

  int64_t keys_;
  PagedKv kv_;
  std::vector<std::byte> memory_;
  std::vector<int32_t> table_;
  std::vector<float> first_, second_;
};

struct Result {
  std::vector<float> out, lse;
};

struct Query {
  int64_t rows, heads, first_position;
  std::vector<float> q;
};

Query MakeQuery(int64_t rows, int64_t heads, int64_t key_dim, int64_t first_position) {
  return {rows, heads, first_position, Uniform(rows * heads * key_dim, 13, 2)};
}

// The query's rows in chunks of `chunk`, all as items of one batch.
Result Attend(Isa isa, const Sequence& s, const Query& q, const std::vector<KeySegment>& segments,
              int64_t chunk, ThreadPool* pool) {
  const int64_t width = q.heads * s.kv().key_dim;
  const int64_t out_width = q.heads * s.kv().value_dim;
  Result r{std::vector<float>(static_cast<size_t>(q.rows * out_width), kNaN),
           std::vector<float>(static_cast<size_t>(q.rows * q.heads), kNaN)};
  std::vector<AttentionItem> items;
  for (int64_t from = 0; from < q.rows; from += chunk) {
    const int64_t rows = std::min(chunk, q.rows - from);
    AttentionItem item;
    item.q = {q.q.data() + from * width, rows, width, width};
    item.first_position = q.first_position + from;
    item.segments = segments.data();
    item.n_segments = static_cast<int64_t>(segments.size());
    item.out = {r.out.data() + from * out_width, rows, out_width, out_width};
    item.lse = r.lse.data() + from * q.heads;
    items.push_back(item);
  }
  int64_t end = 0;
  for (const KeySegment& g : segments) end = std::max(end, g.key_position + g.rows);
  TestScratch scratch(AttentionScratchBytes(pool == nullptr ? 1 : pool->threads(), s.kv(), end));
  AttentionArgs args{s.kv(), q.heads, 1 / std::sqrt(static_cast<float>(s.kv().key_dim)),
                     items.data(), static_cast<int64_t>(items.size())};
  Select(isa).attention(scratch.With(pool), args);
  return r;
}

ref::AttentionResult Want(const Sequence& s, const Query& q, bool causal) {
  ref::AttentionShape shape;
  shape.rows = q.rows;
  shape.q_heads = q.heads;
  shape.kv_heads = s.kv().kv_heads;
  shape.key_dim = s.kv().key_dim;
  shape.value_dim = s.kv().value_dim;
  shape.first_position = q.first_position;
  shape.causal = causal;
  shape.scale = 1 / std::sqrt(static_cast<double>(shape.key_dim));
  return ref::Attention(ToDouble(q.q), ToDouble(s.Keys()), ToDouble(s.Values()), shape);
}

TEST(Attention, AgreesWithDouble) {
  struct Case {
    int64_t keys, rows, heads;
    Layout layout;
    DType dtype;
  };
  constexpr KvLayout kHeads = KvLayout::kHeads;
  constexpr KvLayout kLatent = KvLayout::kLatent;
  const Case cases[] = {
      {1, 1, 1, Heads(1, 8), DType::kF32},
      {70, 70, 2, Heads(1, 16), DType::kF32},
      {65, 3, 4, Heads(2, 32), DType::kBF16},
      {520, 9, 4, Heads(2, 64), DType::kF16},
      {1100, 2, 6, Heads(2, 80), DType::kBF16},
      {100, 40, 3, Heads(3, 96), DType::kF16},
      {1600, 2, 8, Heads(1, 128), DType::kBF16},
      {90, 5, 2, Heads(1, 256), DType::kF32},
      {30, 2, 50, Heads(1, 16), DType::kF32},
      // Expanded latents: keys longer than values.
      {150, 20, 3, {kHeads, 3, 192, 128}, DType::kF32},
      {150, 3, 2, {kHeads, 2, 24, 16}, DType::kBF16},
      {600, 2, 4, {kHeads, 4, 20, 36}, DType::kF16},
      // Latents as they are cached, DeepSeek's size and awkward ones.
      {700, 2, 16, {kLatent, 1, 576, 512}, DType::kBF16},
      {70, 9, 128, {kLatent, 1, 576, 512}, DType::kBF16},
      {520, 1, 5, {kLatent, 1, 40, 32}, DType::kF32},
      {66, 4, 3, {kLatent, 1, 30, 19}, DType::kF16},
      {66, 4, 1, {kLatent, 1, 17, 16}, DType::kF32},
  };
  for (const Case& c : cases) {
    const Sequence s(c.keys, c.layout, c.dtype, 64);
    const Query q = MakeQuery(c.rows, c.heads, c.layout.key_dim, c.keys - c.rows);
    for (MaskKind mask : {MaskKind::kCausal, MaskKind::kFull}) {
      const ref::AttentionResult want = Want(s, q, mask == MaskKind::kCausal);
      for (Isa isa : Isas()) {
        const Result r = Attend(isa, s, q, {s.All(mask)}, c.rows, nullptr);
        // |q| <= 2, |k| <= 1: a score errs by (d/16 + 6) 2^-24 * 2 sqrt(d) and carries that into p,
        // relatively; |v| <= 1, so out errs by twice that, plus 2^-24 for each of the keys summed
        // in sequence within a leaf (at most 512 of weight summing to 1) and 40 roundings of exp,
        // factors, merges.
        const double d = static_cast<double>(c.layout.key_dim);
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
    const Sequence s(kKeys, Heads(2, 32), dtype, 64);
    const Query q = MakeQuery(kRows, 6, 32, kKeys - kRows);
    const Result want = Attend(Isa::kScalar, s, q, {s.All()}, kRows, nullptr);
    for (Isa isa : Isas()) {
      for (int64_t block_tokens : {1, 16, 48, 64, 100}) {
        const Sequence other(kKeys, Heads(2, 32), dtype, block_tokens);
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

TEST(Attention, BitsOfLatentsDoNotDependOnHowTheyAreComputed) {
  constexpr int64_t kKeys = 1170;
  constexpr int64_t kRows = 7;
  const Layout layout{KvLayout::kLatent, 1, 80, 64};
  ThreadPool pool(3);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Sequence s(kKeys, layout, dtype, 64);
    const Query q = MakeQuery(kRows, 5, 80, kKeys - kRows);
    const Result want = Attend(Isa::kScalar, s, q, {s.All()}, kRows, nullptr);
    for (Isa isa : Isas()) {
      for (int64_t block_tokens : {1, 48, 100}) {
        const Sequence other(kKeys, layout, dtype, block_tokens);
        const Result r = Attend(isa, other, q, {other.All()}, 2, &pool);
        EXPECT_TRUE(SameBits(r.out, want.out)) << IsaName(isa) << " page " << block_tokens;
        EXPECT_TRUE(SameBits(r.lse, want.lse)) << IsaName(isa) << " page " << block_tokens;
      }
    }
  }
}

// A latent row is a key and value that every head shares: kept as such, the bits are the same.
TEST(Attention, LatentsAreHeadsThatShareTheirRow) {
  const Sequence latent(600, {KvLayout::kLatent, 1, 40, 32}, DType::kBF16, 64);
  Sequence shared(600, {KvLayout::kHeads, 1, 40, 32}, DType::kBF16, 64);
  const std::vector<float> keys = latent.Keys();
  Select(Isa::kScalar)
      .write_kv({shared.kv(),
                 shared.All().page_table,
                 0,
                 {keys.data(), 600, 40, 40},
                 {latent.Values().data(), 600, 32, 32}});
  const Query q = MakeQuery(3, 6, 40, 597);
  for (Isa isa : Isas()) {
    const Result a = Attend(isa, latent, q, {latent.All()}, 1, nullptr);
    const Result b = Attend(isa, shared, q, {shared.All()}, 1, nullptr);
    EXPECT_TRUE(SameBits(a.out, b.out)) << IsaName(isa);
    EXPECT_TRUE(SameBits(a.lse, b.lse)) << IsaName(isa);
  }
}

// One query row of a long sequence: the threads share its keys, in up to 16 parts.
TEST(Attention, ThreadsThatShareTheKeysOfOneQueryGiveTheSameBits) {
  for (int64_t keys : {513, 5'000, 20'011}) {
    for (const Layout& layout : {Heads(2, 16), Layout{KvLayout::kLatent, 1, 24, 16}}) {
      const Sequence s(keys, layout, DType::kBF16, 64);
      const Query q = MakeQuery(2, 4, layout.key_dim, keys - 2);
      KeySegment head = s.All(MaskKind::kFull);
      head.rows = 70;
      KeySegment rest = s.All();
      rest.page_table += 1;
      rest.rows = keys - 64;
      rest.key_position = 64;
      for (const std::vector<KeySegment>& segments :
           {std::vector<KeySegment>{s.All()}, std::vector<KeySegment>{head, rest}}) {
        const Result want = Attend(BestIsa(), s, q, segments, 2, nullptr);
        for (int threads : {2, 3, 8}) {
          ThreadPool pool(threads);
          const Result r = Attend(BestIsa(), s, q, segments, 1, &pool);
          EXPECT_TRUE(SameBits(r.out, want.out)) << keys << " keys, " << threads << " threads";
          EXPECT_TRUE(SameBits(r.lse, want.lse)) << keys << " keys, " << threads << " threads";
        }
      }
    }
  }
}

TEST(Attention, CachedRowsAreReadBackAsTheyWereStored) {
  for (const Layout& layout : {Heads(3, 20), Layout{KvLayout::kLatent, 1, 30, 19}}) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const Sequence s(150, layout, dtype, 64);
      const int64_t first = s.FirstWidth();
      const int64_t second = s.SecondWidth();
      constexpr int64_t kFrom = 60;
      constexpr int64_t kRows = 90;
      for (Isa isa : Isas()) {
        std::vector<float> a(static_cast<size_t>(kRows * first), kNaN);
        std::vector<float> b(static_cast<size_t>(kRows * second), kNaN);
        Select(isa).read_kv({}, {s.kv(),
                                 s.All().page_table,
                                 kFrom,
                                 {a.data(), kRows, first, first},
                                 {b.data(), kRows, second, second}});
        EXPECT_TRUE(std::equal(a.begin(), a.end(), s.first().begin() + kFrom * first));
        EXPECT_TRUE(std::equal(b.begin(), b.end(), s.second().begin() + kFrom * second));
      }
    }
  }
}

// The result over rows [from, to) of the sequence alone, as a segment of its own.
Result Part(const Sequence& s, const Query& q, int64_t from, int64_t to) {
  KeySegment segment = s.All();
  segment.page_table += from / s.kv().block_tokens;
  segment.rows = to - from;
  segment.key_position = from;
  return Attend(BestIsa(), s, q, {segment}, q.rows, nullptr);
}

Result Merge(Isa isa, Result left, Result right, const Sequence& s, const Query& q) {
  const int64_t width = q.heads * s.kv().value_dim;
  Result r{std::vector<float>(left.out.size(), kNaN), std::vector<float>(left.lse.size(), kNaN)};
  const auto partials = [&](Result& x) {
    return Partials{{x.out.data(), q.rows, width, width}, x.lse.data()};
  };
  Select(isa).merge_partials(
      {q.heads, s.kv().value_dim, partials(left), partials(right), partials(r)});
  return r;
}

Result Merge(const Result& left, const Result& right, const Sequence& s, const Query& q) {
  return Merge(BestIsa(), left, right, s, q);
}

TEST(Attention, LeavesOf512MergeByTheBinaryTreeAndNoOtherOrder) {
  const Sequence s(2200, Heads(1, 16), DType::kBF16, 64);
  const Query q = MakeQuery(4, 3, 16, 2196);
  std::vector<Result> leaf;
  for (int64_t from = 0; from < 2200; from += 512) {
    leaf.push_back(Part(s, q, from, std::min<int64_t>(from + 512, 2200)));
  }
  const Result whole = Attend(BestIsa(), s, q, {s.All()}, 4, nullptr);
  const auto join = [&](const Result& a, const Result& b) { return Merge(a, b, s, q); };
  const Result tree = join(join(join(leaf[0], leaf[1]), join(leaf[2], leaf[3])), leaf[4]);
  EXPECT_TRUE(SameBits(whole.out, tree.out));
  EXPECT_TRUE(SameBits(whole.lse, tree.lse));
  // Mutants that merge as results arrive would be noticed:
  const Result chain = join(join(join(join(leaf[0], leaf[1]), leaf[2]), leaf[3]), leaf[4]);
  EXPECT_FALSE(SameBits(whole.out, chain.out));
  const Result late_first = join(leaf[4], join(join(leaf[0], leaf[1]), join(leaf[2], leaf[3])));
  EXPECT_FALSE(SameBits(whole.out, late_first.out));
  const Result swapped = join(join(join(leaf[0], leaf[2]), join(leaf[1], leaf[3])), leaf[4]);
  EXPECT_FALSE(SameBits(whole.out, swapped.out));
}

TEST(Attention, ASubtreeComputedElsewhereMergesToTheSameBits) {
  const Sequence s(3000, Heads(2, 32), DType::kBF16, 64);
  const Query q = MakeQuery(2, 4, 32, 2998);
  const Result whole = Attend(BestIsa(), s, q, {s.All()}, 2, nullptr);
  const Result split = Merge(Part(s, q, 0, 2048), Part(s, q, 2048, 3000), s, q);
  EXPECT_TRUE(SameBits(whole.out, split.out));
  EXPECT_TRUE(SameBits(whole.lse, split.lse));
}

TEST(Attention, SegmentsMergeInListOrder) {
  const Sequence s(700, Heads(2, 32), DType::kF16, 16);
  const Query q = MakeQuery(5, 4, 32, 695);
  KeySegment first = s.All(MaskKind::kFull);
  first.rows = 100;
  KeySegment second = s.All();
  second.page_table += 10;  // rows 160 onwards
  second.rows = 540;
  second.key_position = 160;
  for (Isa isa : Isas()) {
    const Result both = Attend(isa, s, q, {first, second}, 2, nullptr);
    const Result want = Merge(isa, Attend(isa, s, q, {first}, 5, nullptr),
                              Attend(isa, s, q, {second}, 5, nullptr), s, q);
    EXPECT_TRUE(SameBits(both.out, want.out)) << IsaName(isa);
    EXPECT_TRUE(SameBits(both.lse, want.lse)) << IsaName(isa);
  }
}

TEST(Attention, KeysNotVisibleAreNeverRead) {
  // Rows from 70 on are NaN in the cache; a query at 69 sees 70 rows of a segment that claims more.
  Sequence s(200, Heads(1, 16), DType::kF32, 64);
  const Query q = MakeQuery(1, 2, 16, 69);
  const Result want = Attend(BestIsa(), s, q, {s.All()}, 1, nullptr);
  s.Poison(70);
  for (Isa isa : Isas()) {
    const Result r = Attend(isa, s, q, {s.All()}, 1, nullptr);
    EXPECT_TRUE(SameBits(r.out, want.out)) << IsaName(isa);
    EXPECT_TRUE(SameBits(r.lse, want.lse)) << IsaName(isa);
  }
}

TEST(Attention, NothingVisibleIsZeroAndMinusInfinity) {
  const Sequence s(10, Heads(1, 16), DType::kBF16, 64);
  const Query q = MakeQuery(3, 2, 16, 0);
  KeySegment later = s.All();
  later.key_position = 2;  // the first two rows of the query come before every key
  KeySegment none = s.All();
  none.rows = 0;
  for (Isa isa : Isas()) {
    for (const std::vector<KeySegment>& segments :
         {std::vector<KeySegment>{}, std::vector<KeySegment>{none},
          std::vector<KeySegment>{later, none}}) {
      const bool last_sees = segments.size() == 2;
      const Result r = Attend(isa, s, q, segments, 3, nullptr);
      for (size_t i = 0; i < (last_sees ? 4u : 6u); ++i) {
        EXPECT_EQ(r.lse[i], -kInf);
        for (size_t j = 0; j < 16; ++j) EXPECT_EQ(r.out[i * 16 + j], 0.0f);
      }
      if (last_sees) EXPECT_TRUE(std::isfinite(r.lse[4]) && std::isfinite(r.out[4 * 16]));
    }
  }
}

TEST(Attention, MergeKeepsTheOtherSideOfAnEmptyOne) {
  const Sequence s(5, Heads(1, 8), DType::kF32, 64);
  const Query q = MakeQuery(1, 2, 8, 4);
  const Result full = Attend(BestIsa(), s, q, {s.All()}, 1, nullptr);
  const Result empty = Attend(BestIsa(), s, q, {}, 1, nullptr);
  for (Isa isa : Isas()) {
    EXPECT_TRUE(SameBits(Merge(isa, full, empty, s, q).out, full.out));
    EXPECT_TRUE(SameBits(Merge(isa, empty, full, s, q).lse, full.lse));
    EXPECT_EQ(Merge(isa, empty, empty, s, q).lse[0], -kInf);
  }
}

TEST(Attention, MergeAgreesWithDouble) {
  const Sequence s(400, Heads(1, 24), DType::kF32, 64);
  const Query q = MakeQuery(2, 3, 24, 398);
  const Result left = Part(s, q, 0, 192);
  const Result right = Part(s, q, 192, 400);
  const ref::AttentionResult want = ref::Merge({ToDouble(left.out), ToDouble(left.lse)},
                                               {ToDouble(right.out), ToDouble(right.lse)}, 24);
  for (Isa isa : Isas()) {
    const Result r = Merge(isa, left, right, s, q);
    // Two exp of 2 ulp, a sum, a division, a product and an FMA on numbers of at most 1; lse
    // below 8.
    for (size_t i = 0; i < r.out.size(); ++i) ASSERT_NEAR(r.out[i], want.out[i], 0x1p-24 * 16);
    for (size_t i = 0; i < r.lse.size(); ++i) ASSERT_NEAR(r.lse[i], want.lse[i], 0x1p-24 * 16);
  }
}

}  // namespace
}  // namespace reprise::kernels
