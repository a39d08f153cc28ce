#include "worker/parallel/context/test_sequence.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <thread>

#include "kernels/philox.h"
#include "worker/parallel/context/host_context_compute.h"
#include "worker/parallel/context/kernel_attender.h"

namespace reprise::parallel {
namespace {

std::vector<float> Random(int64_t n, uint32_t seed, uint32_t stream) {
  std::vector<float> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(2 * kernels::UniformAt(seed, stream, i) - 1);
  }
  return values;
}

kernels::PagedKv KvOf(const TestShape& shape) {
  kernels::PagedKv kv;
  kv.layer = 1;
  kv.dtype = shape.dtype;
  kv.block_tokens = shape.block_tokens;
  kv.layout = shape.layout;
  kv.kv_heads = shape.kv_heads;
  kv.key_dim = shape.key_dim;
  kv.value_dim = shape.value_dim;
  kv.page_stride_bytes = 2 * SegmentBytes(kv);
  return kv;
}

// Highest first, so that no code may count on their order.
std::vector<int32_t> PagesDownFrom(int64_t first, int64_t count) {
  std::vector<int32_t> pages;
  for (int64_t i = 0; i < count; ++i) pages.push_back(static_cast<int32_t>(first + count - 1 - i));
  return pages;
}

KernelAttender AttenderOf(const TestShape& shape, int64_t positions) {
  const float scale = 1 / std::sqrt(static_cast<float>(shape.key_dim));
  return {kernels::Select(kernels::BestIsa()),
          {.heads = shape.heads, .scale = scale, .positions_max = positions, .pool = nullptr}};
}

// The kernel, and who is told before.
class ToldAttender final : public Attender {
 public:
  ToldAttender(KernelAttender kernel, std::function<void()> told)
      : kernel_(std::move(kernel)), told_(std::move(told)) {}
  void Attend(const kernels::PagedKv& kv, std::span<const kernels::AttentionItem> items) override {
    told_();
    kernel_.Attend(kv, items);
  }

 private:
  KernelAttender kernel_;
  const std::function<void()> told_;
};

// A rank's side of a call.
class Rank {
 public:
  Rank(const TestGroup& group, const Stripes& stripes, int rank,
       const std::vector<TestQuery>& queries)
      : group_(group), stripes_(stripes), rank_(rank), queries_(queries) {
    const TestShape& shape = queries[0].sequence->shape();
    int64_t pages = 0;
    for (const TestQuery& query : queries) {
      const int64_t keys = query.first + query.rows;
      const int64_t count = PagesKept(stripes, shape.block_tokens, rank, keys);
      tables_.push_back(PagesDownFrom(pages, count));
      pages += count;
      cache_rows_ += stripes.RowsKept(rank, keys);
    }
    pool_.emplace(shape, pages);
    for (size_t i = 0; i < queries.size(); ++i) Fill(i);
  }

  Status Attend(Communicator& communicator, ContextStats* stats) {
    const TestShape& shape = queries_[0].sequence->shape();
    int64_t longest = 0;
    for (const TestQuery& query : queries_) {
      longest = std::max(longest, query.sequence->positions());
    }
    ToldAttender attender(AttenderOf(shape, longest), [this] {
      if (group_.before_compute != nullptr) group_.before_compute(rank_);
    });
    const ContextPlan plan = PlanOf(stripes_, rank_, items_, shape.cost(), group_.rules);
    const int64_t q_cols = shape.heads * shape.key_dim;
    out_.assign(static_cast<size_t>(rows_ * out_cols()), std::nanf(""));
    HostContextCompute compute(kernels::Select(kernels::BestIsa()));
    compute.SetCall(pool_->kv(), shape.heads, shape.value_dim, &attender);
    ContextAttention attention(communicator, compute, stripes_, RealClock());
    Status status = attention.Attend({.pages = PagesOf(pool_->kv()),
                                      .block_tokens = shape.block_tokens,
                                      .page_bytes = kernels::SegmentBytes(pool_->kv()),
                                      .heads = shape.heads,
                                      .query_dim = shape.key_dim,
                                      .value_dim = shape.value_dim,
                                      .q = BytesOf({q_.data(), rows_, q_cols, q_cols}),
                                      .out = BytesOf({out_.data(), rows_, out_cols(), out_cols()}),
                                      .plan = &plan},
                                     RealClock().NowNs() + group_.patience_ns);
    *stats = attention.stats();
    return status;
  }

  int64_t cache_rows() const { return cache_rows_; }

  // The rows of this rank in the results of all.
  void Collect(std::vector<std::vector<float>>& out) const {
    for (size_t i = 0; i < queries_.size(); ++i) {
      const float* from = out_.data() + items_[i].row * out_cols();
      for (const PositionRange& range : stripes_.OwnedIn(rank_, items_[i].range())) {
        const int64_t floats = range.size() * out_cols();
        std::memcpy(out[i].data() + (range.begin - queries_[i].first) * out_cols(), from,
                    static_cast<size_t>(floats) * sizeof(float));
        from += floats;
      }
    }
  }

 private:
  int64_t out_cols() const {
    return queries_[0].sequence->shape().heads * queries_[0].sequence->shape().value_dim;
  }

  void Fill(size_t i) {
    const TestQuery& query = queries_[i];
    items_.push_back({query.first, query.rows, tables_[i].data(), rows_});
    for (const PositionRange& range : stripes_.OwnedIn(rank_, {0, query.first + query.rows})) {
      query.sequence->Write(*pool_, tables_[i].data(), range, stripes_.LocalRow(range.begin));
    }
    for (const PositionRange& range : stripes_.OwnedIn(rank_, items_[i].range())) {
      const kernels::ConstF32 q = query.sequence->q(range.begin, range.size());
      q_.insert(q_.end(), q.data, q.data + q.rows * q.cols);
      rows_ += range.size();
    }
  }

  const TestGroup& group_;
  const Stripes& stripes_;
  const int rank_;
  const std::vector<TestQuery>& queries_;
  std::vector<std::vector<int32_t>> tables_;
  std::optional<TestPool> pool_;
  std::vector<ContextItem> items_;
  std::vector<float> q_, out_;
  int64_t rows_ = 0;
  int64_t cache_rows_ = 0;
};

}  // namespace

CostShape TestShape::cost() const {
  const kernels::PagedKv kv = KvOf(*this);
  return {.wire = {.block_tokens = block_tokens,
                   .page_bytes = SegmentBytes(kv),
                   .query_bytes = heads * key_dim * int64_t{sizeof(float)},
                   .partial_floats = heads * value_dim + heads},
          .pair_macs = static_cast<double>(heads * (key_dim + value_dim)),
          .key_macs = 0};
}

std::vector<TestShape> TestShapes() {
  using kernels::DType;
  using kernels::KvLayout;
  return {{"Gqa", KvLayout::kHeads, 4, 2, 16, 16, DType::kF32, 64},
          {"MhaBf16", KvLayout::kHeads, 2, 2, 24, 24, DType::kBF16, 16},
          {"MqaBf16", KvLayout::kHeads, 3, 1, 16, 16, DType::kBF16, 512},
          {"Latent", KvLayout::kLatent, 2, 1, 40, 32, DType::kF32, 64},
          {"LatentBf16", KvLayout::kLatent, 3, 1, 40, 32, DType::kBF16, 32}};
}

TestPool::TestPool(const TestShape& shape, int64_t pages)
    : kv_(KvOf(shape)),
      memory_(static_cast<size_t>(pages * kv_.page_stride_bytes), std::byte{0xFF}) {
  kv_.base = memory_.data();
}

TestSequence::TestSequence(const TestShape& shape, int64_t positions, uint32_t seed)
    : shape_(shape), positions_(positions) {
  const kernels::PagedKv kv = KvOf(shape);
  q_ = Random(positions * shape.heads * shape.key_dim, seed, 1);
  first_ = Random(positions * shape.kv_heads * FirstPartDim(kv), seed, 2);
  second_ = Random(positions * shape.kv_heads * SecondPartDim(kv), seed, 3);
  whole_ = AttendWhole();
}

kernels::ConstF32 TestSequence::q(int64_t position, int64_t rows) const {
  const int64_t cols = shape_.heads * shape_.key_dim;
  return {q_.data() + position * cols, rows, cols, cols};
}

void TestSequence::Write(const TestPool& pool, const int32_t* pages, PositionRange range,
                         int64_t row) const {
  const auto rows_of = [&](const std::vector<float>& part, int64_t elements) {
    const int64_t cols = shape_.kv_heads * elements;
    return kernels::ConstF32{part.data() + range.begin * cols, range.size(), cols, cols};
  };
  kernels::Select(kernels::BestIsa())
      .write_kv({pool.kv(), pages, row, rows_of(first_, FirstPartDim(pool.kv())),
                 rows_of(second_, SecondPartDim(pool.kv()))});
}

std::vector<float> TestSequence::AttendWhole() const {
  const int64_t count = (positions_ + shape_.block_tokens - 1) / shape_.block_tokens;
  const TestPool pool(shape_, count);
  const std::vector<int32_t> pages = PagesDownFrom(0, count);
  Write(pool, pages.data(), {0, positions_}, 0);
  const int64_t cols = shape_.heads * shape_.value_dim;
  std::vector<float> out(static_cast<size_t>(positions_ * cols));
  std::vector<float> lse(static_cast<size_t>(positions_ * shape_.heads));
  const kernels::KeySegment all{pages.data(), positions_, 0, kernels::MaskKind::kCausal};
  const kernels::AttentionItem item{
      q(0, positions_), 0, &all, 1, {out.data(), positions_, cols, cols}, lse.data()};
  AttenderOf(shape_, positions_).Attend(pool.kv(), {&item, 1});
  return out;
}

std::span<const float> TestSequence::Whole(int64_t first, int64_t rows) const {
  const int64_t cols = shape_.heads * shape_.value_dim;
  return std::span(whole_).subspan(static_cast<size_t>(first * cols),
                                   static_cast<size_t>(rows * cols));
}

int64_t TestRun::bytes_sent(int rank) const {
  int64_t bytes = 0;
  for (const OpStats& op : transport[static_cast<size_t>(rank)]) {
    bytes += static_cast<int64_t>(op.bytes_sent);
  }
  return bytes;
}

TestRun TestGroup::Attend(const std::vector<TestQuery>& queries) const {
  const auto stripes = Stripes::Make(ranks, leaves);
  EXPECT_TRUE(stripes.ok()) << stripes.status();
  InProcessGroup group(ranks);
  TestRun run;
  const auto size = static_cast<size_t>(ranks);
  run.statuses.resize(size);
  run.stats.resize(size);
  run.transport.resize(size);
  run.cache_rows.resize(size);
  const TestShape& shape = queries[0].sequence->shape();
  for (const TestQuery& query : queries) {
    run.out.emplace_back(static_cast<size_t>(query.rows * shape.heads * shape.value_dim),
                         std::nanf(""));
  }
  std::vector<std::unique_ptr<Communicator>> communicators;
  std::vector<std::unique_ptr<Rank>> sides;
  for (int r = 0; r < ranks; ++r) {
    communicators.push_back(group.MakeCommunicator(r));
    sides.push_back(std::make_unique<Rank>(*this, *stripes, r, queries));
  }
  std::vector<std::thread> threads;
  for (size_t r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      if (before != nullptr) before(static_cast<int>(r), group);
      const auto other = between != nullptr ? between(*communicators[r]) : nullptr;
      run.statuses[r] =
          sides[r]->Attend(other != nullptr ? *other : *communicators[r], &run.stats[r]);
      run.transport[r] = communicators[r]->stats();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t r = 0; r < size; ++r) {
    sides[r]->Collect(run.out);
    run.cache_rows[r] = sides[r]->cache_rows();
  }
  return run;
}

void TestGroup::ExpectWhole(const std::vector<TestQuery>& queries, TestRun* result) const {
  TestRun run = Attend(queries);
  for (size_t r = 0; r < run.statuses.size(); ++r) {
    ASSERT_TRUE(run.statuses[r].ok()) << "rank " << r << ": " << run.statuses[r];
  }
  for (size_t i = 0; i < queries.size(); ++i) {
    const std::span<const float> whole =
        queries[i].sequence->Whole(queries[i].first, queries[i].rows);
    ASSERT_EQ(run.out[i].size(), whole.size());
    for (size_t at = 0; at < whole.size(); ++at) {
      ASSERT_EQ(std::bit_cast<uint32_t>(run.out[i][at]), std::bit_cast<uint32_t>(whole[at]))
          << Describe(*this, queries[i]) << ", query " << i << ", element " << at << ": "
          << run.out[i][at] << " and " << whole[at];
    }
  }
  if (result != nullptr) *result = std::move(run);
}

std::string Describe(const TestGroup& group, const TestQuery& query) {
  return absl::StrCat(query.sequence->shape().name, ", ", group.ranks, " ranks, stripes of ",
                      group.leaves, " leaves, queries ", query.first, " to ",
                      query.first + query.rows,
                      group.rules.way ? absl::StrCat(", ", WayName(*group.rules.way)) : "");
}

}  // namespace reprise::parallel
