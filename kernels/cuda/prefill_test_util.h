// Batches of prompt rows for tests of prefill attention: a paged pool in which everything that no
// row may see is NaN, page tables in random order with wild entries beyond their ends, and what
// double precision says.
#ifndef REPRISE_KERNELS_CUDA_PREFILL_TEST_UTIL_H_
#define REPRISE_KERNELS_CUDA_PREFILL_TEST_UTIL_H_

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <utility>

#include "common/half.h"
#include "kernels/cuda/fp8_test_rows.h"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/test_device.h"
#include "kernels/ref/ref.h"

namespace reprise::cuda::testing {

// A sequence's keys lie at positions key_position, key_position + 1, ...
struct TestSequence {
  std::vector<int32_t> table;
  int32_t first_page = 0;
  int32_t key_position = 0;
  int32_t keys = 0;
  std::vector<double> k;  // [keys, kv_heads, key_dim] as stored
  std::vector<double> v;
};

struct TestShape {
  int key_dim = 64;
  int value_dim = 64;
  int q_heads = 1;
  int kv_heads = 1;
  bool latent = false;  // the pool holds latents, the value, and rotated keys
  bool fp8 = false;     // in rows of kernels/fp8_row.h
};

struct TestResult {
  std::vector<float> out;
  std::vector<uint16_t> out_bf16;
  std::vector<float> lse;
  std::vector<float> lse2;
};

class PrefillBatch {
 public:
  PrefillBatch(const TestShape& shape, uint32_t seed, int pages) : shape_(shape), random_(seed) {
    pool_.pages = pages;
    pool_.kv_heads = shape.kv_heads;
    pool_.first_dim = shape.latent ? shape.value_dim : shape.key_dim;
    pool_.second_dim = shape.latent ? shape.key_dim - shape.value_dim : shape.value_dim;
    pool_.fp8 = shape.fp8;
    pool_.page_stride_bytes = 2 * pool_.SegmentBytes();
    memory_.assign(static_cast<size_t>(pages * pool_.page_stride_bytes / 2), 0xFFFF);
    free_.resize(static_cast<size_t>(pages));
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), random_);
  }

  float Draw() { return std::uniform_real_distribution<float>(-1, 1)(random_); }

  // Its index.
  size_t AddSequence(int32_t keys, int32_t key_position = 0) {
    TestSequence s;
    s.keys = keys;
    s.key_position = key_position;
    s.first_page = static_cast<int32_t>(tables_.size());
    for (int32_t i = 0; i < (keys + kPageRows - 1) / kPageRows; ++i) {
      s.table.push_back(free_.back());
      free_.pop_back();
    }
    tables_.insert(tables_.end(), s.table.begin(), s.table.end());
    tables_.insert(tables_.end(), 3, 0x3FFFFFFF);
    for (int32_t row = 0; row < keys; ++row) {
      if (shape_.fp8) {
        StoreFp8(row, &s);
        continue;
      }
      StoreRow(s, row, false, &s.k);
      if (shape_.latent) s.v.insert(s.v.end(), s.k.end() - shape_.value_dim, s.k.end());
      StoreRow(s, row, true, shape_.latent ? &s.k : &s.v);
    }
    sequences_.push_back(std::move(s));
    return sequences_.size() - 1;
  }
  const TestSequence& sequence(size_t i) const { return sequences_[i]; }

  // New query rows; their index is that of the first one.
  int32_t AddQueries(int32_t rows) {
    const auto first = static_cast<int32_t>(q_.size() / QWidth());
    for (size_t i = 0; i < static_cast<size_t>(rows) * QWidth(); ++i) {
      q_.push_back(F32ToBf16(2 * Draw()));
    }
    return first;
  }

  // `rows` from `first_row` on, at `position`, see keys [begin, end) of a sequence's rows; begin is
  // a multiple of 128.
  PrefillRun Run(size_t sequence, int32_t first_row, int32_t rows, int32_t position, int32_t begin,
                 int32_t end, bool causal = true) const {
    const TestSequence& s = sequences_[sequence];
    return {.first_row = first_row,
            .rows = rows,
            .first_position = position,
            .key_position = s.key_position + begin,
            .key_rows = end - begin,
            .first_page = s.first_page + begin / kPageRows,
            .causal = causal ? 1 : 0};
  }

  PrefillArgs Args() const {
    PrefillArgs args;
    args.pool = pool_;
    args.q_rows = static_cast<int64_t>(q_.size() / QWidth());
    args.q_stride = static_cast<int64_t>(QWidth());
    args.out_stride = static_cast<int64_t>(OutWidth());
    args.q_heads = shape_.q_heads;
    args.scale = 0.3F;
    args.processors = 3;
    return args;
  }

  // What `launch` (of PrefillArgs with everything on the device) leaves behind.
  template <class LaunchFunction>
  TestResult Attend(const std::vector<PrefillRun>& runs, PrefillArgs args,
                    const LaunchFunction& launch) const {
    PrefillPlan plan;
    EXPECT_EQ(PlanPrefill(runs, &plan), 0);
    const Array<uint16_t> memory(memory_);
    const Array<uint16_t> q(q_);
    const Array<PrefillRun> device_runs(runs);
    const Array<PrefillTile> tiles(plan.tiles);
    const Array<int32_t> tables(tables_);
    const auto rows = static_cast<size_t>(args.q_rows);
    const Array<uint8_t> out(rows * OutWidth() * (args.out_bf16 ? 2 : 4));
    const Array<float> lse(rows * static_cast<size_t>(shape_.q_heads));
    const Array<float> lse2(lse.size());
    const Array<uint8_t> scratch(
        static_cast<size_t>(PrefillScratchBytes(plan, shape_.value_dim, args.processors)));
    args.pool.layer_base = reinterpret_cast<uint8_t*>(memory.data()) + pool_.SegmentBytes();
    args.q = q.data();
    args.out = out.data();
    args.lse = lse.data();
    args.lse2 = lse2.data();
    args.runs = device_runs.data();
    args.run_count = static_cast<int64_t>(runs.size());
    args.tiles = tiles.data();
    args.tile_count = static_cast<int64_t>(plan.tiles.size());
    args.leaves_max = plan.leaves_max;
    args.rows_max = plan.rows_max;
    args.page_tables = tables.data();
    args.scratch = scratch.data();
    args.scratch_bytes = static_cast<int64_t>(scratch.size());
    EXPECT_EQ(launch(args), 0);
    TestResult result;
    const std::vector<uint8_t> bytes = out.Read();
    if (args.out_bf16) {
      result.out_bf16.resize(bytes.size() / 2);
      std::memcpy(result.out_bf16.data(), bytes.data(), bytes.size());
      for (const uint16_t x : result.out_bf16) result.out.push_back(Bf16ToF32(x));
    } else {
      result.out.resize(bytes.size() / 4);
      std::memcpy(result.out.data(), bytes.data(), bytes.size());
    }
    result.lse = lse.Read();
    result.lse2 = lse2.Read();
    return result;
  }

  // Rows of `run` against double. P is rounded to bf16, which moves an element by 2^-8 of the sum
  // of p |v| at most; scores and sums in f32 add 2^-16 of it, for |scores| below 64; a result in
  // bf16 2^-8 of itself.
  void Check(const PrefillRun& run, size_t sequence, const PrefillArgs& args,
             const TestResult& got) const {
    const TestSequence& s = sequences_[sequence];
    const int32_t begin = run.key_position - s.key_position;
    kernels::ref::AttentionShape shape{.rows = run.rows,
                                       .q_heads = shape_.q_heads,
                                       .kv_heads = shape_.kv_heads,
                                       .key_dim = shape_.key_dim,
                                       .value_dim = shape_.value_dim,
                                       .first_position = run.first_position,
                                       .key_position = run.key_position,
                                       .causal = run.causal != 0,
                                       .scale = static_cast<double>(args.scale)};
    const auto slice = [&](const std::vector<double>& x, int dim, bool magnitude) {
      const size_t width = static_cast<size_t>(dim) * static_cast<size_t>(shape_.kv_heads);
      std::vector<double> part(x.begin() + static_cast<int64_t>(begin * width),
                               x.begin() + static_cast<int64_t>((begin + run.key_rows) * width));
      for (double& e : part) e = magnitude ? std::abs(e) : e;
      return part;
    };
    std::vector<double> q;
    for (size_t i = 0; i < static_cast<size_t>(run.rows) * QWidth(); ++i) {
      q.push_back(
          static_cast<double>(Bf16ToF32(q_[static_cast<size_t>(run.first_row) * QWidth() + i])));
    }
    const auto k = slice(s.k, shape_.key_dim, false);
    const auto want = kernels::ref::Attention(q, k, slice(s.v, shape_.value_dim, false), shape);
    const auto magnitude = kernels::ref::Attention(q, k, slice(s.v, shape_.value_dim, true), shape);
    const size_t first = static_cast<size_t>(run.first_row) * OutWidth();
    for (size_t i = 0; i < want.out.size(); ++i) {
      const double bound = magnitude.out[i] * (0x1p-8 + 0x1p-16) +
                           (args.out_bf16 ? std::abs(want.out[i]) * 0x1.02p-8 : 0);
      ASSERT_NEAR(static_cast<double>(got.out[first + i]), want.out[i], bound)
          << "row " << i / OutWidth() << " of " << run.rows << ", column " << i % OutWidth();
    }
    const size_t first_lse =
        static_cast<size_t>(run.first_row) * static_cast<size_t>(shape_.q_heads);
    for (size_t i = 0; i < want.lse.size(); ++i) {
      const auto lse = static_cast<double>(got.lse[first_lse + i]);
      if (std::isinf(want.lse[i])) {
        ASSERT_EQ(lse, want.lse[i]);
        continue;
      }
      ASSERT_NEAR(lse, want.lse[i], 1e-6 + std::abs(want.lse[i]) * 8 / 65536);
    }
  }

  size_t QWidth() const {
    return static_cast<size_t>(shape_.q_heads) * static_cast<size_t>(shape_.key_dim);
  }
  size_t OutWidth() const {
    return static_cast<size_t>(shape_.q_heads) * static_cast<size_t>(shape_.value_dim);
  }
  const TestShape& shape() const { return shape_; }

 private:
  void StoreFp8(int32_t row, TestSequence* s) {
    const int64_t page = s->table[static_cast<size_t>(row / kPageRows)];
    uint8_t* bytes = reinterpret_cast<uint8_t*>(memory_.data()) + page * pool_.page_stride_bytes +
                     pool_.SegmentBytes() + row % kPageRows * kernels::kFp8RowBytes;
    FillFp8Row(random_, bytes);
    for (int i = 0; i < shape_.key_dim; ++i) {
      const auto x = static_cast<double>(Fp8RowAt(bytes, i));
      s->k.push_back(x);
      if (i < shape_.value_dim) s->v.push_back(x);
    }
  }
  void StoreRow(const TestSequence& s, int32_t row, bool second, std::vector<double>* values) {
    const int dim = second ? pool_.second_dim : pool_.first_dim;
    const int64_t page = s.table[static_cast<size_t>(row / kPageRows)];
    for (int head = 0; head < pool_.kv_heads; ++head) {
      for (int i = 0; i < dim; ++i) {
        const int64_t at = (page * pool_.page_stride_bytes + pool_.SegmentBytes() +
                            (second ? pool_.FirstBytes() : 0)) /
                               2 +
                           (int64_t{head} * kPageRows + row % kPageRows) * dim + i;
        const uint16_t bits = F32ToBf16(Draw());
        memory_[static_cast<size_t>(at)] = bits;
        values->push_back(static_cast<double>(Bf16ToF32(bits)));
      }
    }
  }

  TestShape shape_;
  std::mt19937 random_;
  KvPool pool_;
  std::vector<uint16_t> memory_;
  std::vector<int32_t> free_;
  std::vector<int32_t> tables_;
  std::vector<TestSequence> sequences_;
  std::vector<uint16_t> q_;
};

// Runs with lengths around every edge, as the last rows of what is cached.
struct RaggedRuns {
  explicit RaggedRuns(PrefillBatch* in) : batch(in) {
    Add(1, 1);
    Add(63, 63);
    Add(0, 0);
    Add(64, 3);
    Add(65, 65);
    Add(129, 127);
    Add(128, 128);
    Add(257, 1);
    Add(256, 129);
    Add(255, 2);
  }
  void Add(int32_t keys, int32_t rows) {
    const size_t sequence = batch->AddSequence(keys);
    runs.push_back(batch->Run(sequence, batch->AddQueries(rows), rows, keys - rows, 0, keys));
  }
  void Check(const PrefillArgs& args, const TestResult& got) const {
    for (size_t i = 0; i < runs.size(); ++i) {
      SCOPED_TRACE("run " + std::to_string(i));
      batch->Check(runs[i], i, args, got);
    }
  }
  PrefillBatch* batch;
  std::vector<PrefillRun> runs;
};

inline void ExpectSameBits(const TestResult& a, const TestResult& b) {
  const auto same = [](const std::vector<float>& x, const std::vector<float>& y) {
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * 4) == 0;
  };
  EXPECT_TRUE(same(a.out, b.out));
  EXPECT_TRUE(same(a.lse, b.lse));
  EXPECT_TRUE(same(a.lse2, b.lse2));
}

}  // namespace reprise::cuda::testing

#endif  // REPRISE_KERNELS_CUDA_PREFILL_TEST_UTIL_H_
