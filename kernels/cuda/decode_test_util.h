// Batches of decoding rows for tests: a paged cache in which everything that no row may see is NaN,
// decoded by a plan, and what double precision says.
#ifndef REPRISE_KERNELS_CUDA_DECODE_TEST_UTIL_H_
#define REPRISE_KERNELS_CUDA_DECODE_TEST_UTIL_H_

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "common/half.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/fp8_test_rows.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/test_device.h"
#include "kernels/ref/ref.h"

namespace reprise::cuda::testing {

struct DecodeDims {
  bool latent;
  int first;
  int second;
  int q_heads;
  int kv_heads;
  bool fp8 = false;  // rows of kernels/fp8_row.h
  int key_dim() const { return latent ? first + second : first; }
  int value_dim() const { return latent ? first : second; }
};

inline constexpr uint16_t kNan = 0xFFFF;
inline constexpr int kLayers = 2;

// A batch with its cache: pages in random order, NaN behind the last key of each row, and unused
// entries of the page table far out of range. Rows of a group have their first leaves' pages in
// common.
class DecodeBatch {
 public:
  DecodeBatch(const DecodeDims& dims, std::vector<int32_t> keys, uint32_t seed,
              std::vector<DecodeGroup> groups = {})
      : dims_(dims), keys_(std::move(keys)), groups_(std::move(groups)), random_(seed) {
    pages_each_ = (*std::max_element(keys_.begin(), keys_.end()) + kPageRows - 1) / kPageRows + 1;
    int pages = 0;
    for (const int32_t k : keys_) pages += (k + kPageRows - 1) / kPageRows;
    std::vector<int32_t> order(static_cast<size_t>(pages) + 3);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    segment_ = static_cast<size_t>(dims.kv_heads) * kPageRows *
               static_cast<size_t>(dims.fp8 ? kFp8Row : dims.first + dims.second);
    pool_.assign(order.size() * kLayers * segment_, kNan);
    table_.assign(keys_.size() * static_cast<size_t>(pages_each_), 0x7FFFFFF0);
    size_t next = 0;
    for (size_t r = 0; r < keys_.size(); ++r) {
      const auto [from, shared] = SharedPages(r);
      for (int32_t i = 0; i * kPageRows < keys_[r]; ++i) {
        if (i < shared) {
          PageOf(r, i) = PageOf(from, i);
          continue;
        }
        PageOf(r, i) = order[next++];
        FillPage(PageOf(r, i), std::min(kPageRows, keys_[r] - i * kPageRows));
      }
    }
    q_ = Random(keys_.size() * static_cast<size_t>(dims.q_heads * dims.key_dim()));
  }

  struct Result {
    std::vector<uint16_t> out;
    std::vector<float> lse;
    bool operator==(const Result& other) const {
      return out == other.out &&
             std::equal(lse.begin(), lse.end(), other.lse.begin(), other.lse.end(),
                        [](float a, float b) { return std::memcmp(&a, &b, 4) == 0; });
    }
  };

  // All rows, what groups have in common read once.
  Result RunShared(int workers) const { return Run(AllRows(), workers, {.shared = true}); }
  // All rows as parts whose queries are in another order; what they give is rounded here.
  Result RunParts(int workers, bool shared = false) const {
    return Run(AllRows(), workers, {shared, true});
  }

  struct Form {
    bool shared = false;
    bool parts = false;
  };
  // The rows given, by a plan for so many workers.
  Result Run(const std::vector<size_t>& rows, int workers) const { return Run(rows, workers, {}); }
  Result Run(const std::vector<size_t>& rows, int workers, const Form& form) const {
    std::vector<int32_t> keys;
    std::vector<int32_t> table;
    std::vector<uint16_t> q;
    const auto q_row = static_cast<size_t>(dims_.q_heads * dims_.key_dim());
    for (const size_t r : rows) {
      keys.push_back(keys_[r]);
      const auto t = table_.begin() + static_cast<int64_t>(r) * pages_each_;
      table.insert(table.end(), t, t + pages_each_);
      const auto from = q_.begin() + static_cast<int64_t>(r * q_row);
      q.insert(form.parts ? q.begin() : q.end(), from, from + static_cast<int64_t>(q_row));
    }
    const Array<uint16_t> pool(pool_);
    KvPool layer;
    layer.layer_base = pool.data() + segment_;  // the second one
    layer.pages = static_cast<int64_t>(pool_.size() / (segment_ * kLayers));
    layer.page_stride_bytes = static_cast<int64_t>(segment_) * kLayers * 2;
    layer.kv_heads = dims_.kv_heads;
    layer.first_dim = dims_.first;
    layer.second_dim = dims_.second;
    DecodeArgs args;
    if (!dims_.fp8) EXPECT_EQ(MakeKvMaps(layer, &args.maps), 0);
    args.fp8 = dims_.fp8;
    args.fp8_rows = layer.layer_base;
    args.fp8_page_stride_bytes = layer.page_stride_bytes;
    args.latent = dims_.latent;
    args.first_dim = dims_.first;
    args.second_dim = dims_.second;
    args.q_heads = dims_.q_heads;
    args.kv_heads = dims_.kv_heads;
    DecodeShares shares;
    if (form.shared) shares = {groups_, DecodeSharingOf(args)};
    const DecodePlan plan = PlanDecode(keys, dims_.kv_heads, workers, shares);
    const Array<uint16_t> device_q(q);
    const Array<int32_t> device_table(table);
    const Array<int32_t> device_keys(keys);
    const Array<DecodeRun> runs(plan.runs);
    const Array<int32_t> run_begin(plan.run_begin);
    const Array<DecodeJoin> joins(plan.joins);
    const Array<int32_t> nodes(plan.nodes);
    const Array<DecodeMerge> merges(plan.merges);
    const Array<int32_t> round_begin(plan.round_begin);
    const Array<int32_t> shared_rows(plan.rows);
    const Array<float> node_out(static_cast<size_t>(plan.slots) * DecodeNodeFloats(args));
    const Array<float> node_lse2(static_cast<size_t>(plan.slots) * kDecodeGroupMax);
    const Array<uint16_t> out(rows.size() * static_cast<size_t>(dims_.q_heads * dims_.value_dim()));
    const Array<float> lse(rows.size() * static_cast<size_t>(dims_.q_heads));
    args.q = device_q.data();
    args.q_row_stride = static_cast<int64_t>(q_row);
    args.page_table = device_table.data();
    args.page_table_stride = pages_each_;
    args.keys = device_keys.data();
    args.scale = Scale();
    args.plan = {runs.data(),
                 run_begin.data(),
                 workers,
                 joins.data(),
                 static_cast<int>(plan.joins.size()),
                 nodes.data(),
                 merges.data(),
                 round_begin.data(),
                 plan.nodes_max,
                 node_out.data(),
                 node_lse2.data(),
                 !plan.rows.empty(),
                 shared_rows.data(),
                 nullptr};
    args.out = out.data();
    args.out_row_stride = dims_.q_heads * dims_.value_dim();
    args.lse = lse.data();
    const Array<float> part_out(form.parts ? out.size() : 0);
    std::vector<DecodePart> parts(form.parts ? rows.size() : 0);
    for (size_t i = 0; i < parts.size(); ++i) {
      parts[i] = {static_cast<int32_t>(rows.size() - 1 - i), part_out.data() + i * out_row(),
                  lse.data() + i * heads()};
    }
    const Array<DecodePart> device_parts(parts);
    args.parts = device_parts.data();
    EXPECT_EQ(Decode(args, nullptr), 0);
    EXPECT_EQ(Synchronize(nullptr), 0);
    return form.parts ? Rounded(part_out.Read(), lse.Read()) : Result{out.Read(), lse.Read()};
  }

  void Check(const Result& result) const {
    const auto value_dim = static_cast<size_t>(dims_.value_dim());
    const auto heads = static_cast<size_t>(dims_.q_heads);
    for (size_t r = 0; r < keys_.size(); ++r) {
      const kernels::ref::AttentionResult want = Reference(r);
      for (size_t h = 0; h < heads; ++h) {
        const float lse = result.lse[r * heads + h];
        if (keys_[r] == 0) {
          ASSERT_EQ(lse, -HUGE_VALF);
        } else {
          // Scores are f32 sums of at most 576 products below 1 in size.
          ASSERT_NEAR(lse, want.lse[h], 2e-4) << "row " << r;
        }
        for (size_t d = 0; d < value_dim; ++d) {
          const double got = Bf16ToF32(result.out[(r * heads + h) * value_dim + d]);
          // Probabilities and the result are rounded to bf16, 2^-9 each; values are below 1.
          const double w = want.out[h * value_dim + d];
          ASSERT_NEAR(got, w, 0x1p-9 * (1 + std::abs(w)) * 1.1) << "row " << r << " dim " << d;
        }
      }
    }
  }

  std::vector<size_t> AllRows() const {
    std::vector<size_t> rows(keys_.size());
    std::iota(rows.begin(), rows.end(), 0U);
    return rows;
  }
  size_t out_row() const { return static_cast<size_t>(dims_.q_heads * dims_.value_dim()); }
  size_t heads() const { return static_cast<size_t>(dims_.q_heads); }

 private:
  static Result Rounded(const std::vector<float>& out, std::vector<float> lse2) {
    Result result;
    for (const float value : out) result.out.push_back(F32ToBf16(value));
    for (float& value : lse2) value *= kLn2;
    result.lse = std::move(lse2);
    return result;
  }

  static constexpr int kFp8Row = kernels::kFp8RowBytes / 2;  // in uint16_t
  int32_t& PageOf(size_t row, int32_t i) {
    return table_[row * static_cast<size_t>(pages_each_) + static_cast<size_t>(i)];
  }
  // The row whose first pages are this one's, and how many.
  std::pair<size_t, int32_t> SharedPages(size_t row) const {
    for (const DecodeGroup& group : groups_) {
      const auto first =
          static_cast<size_t>(*std::min_element(group.rows.begin(), group.rows.end()));
      const bool in = std::count(group.rows.begin(), group.rows.end(), row) > 0;
      if (in && row != first) return {first, group.leaves * (kStepLeaf / kPageRows)};
    }
    return {row, 0};
  }
  // Not 1 / sqrt(key dim): a scale the kernel could not have guessed.
  float Scale() const { return 2.5F / std::sqrt(static_cast<float>(dims_.key_dim())); }
  uint16_t RandomValue() {
    return F32ToBf16(std::uniform_real_distribution<float>(-1, 1)(random_));
  }
  std::vector<uint16_t> Random(size_t count) {
    std::vector<uint16_t> values(count);
    for (uint16_t& v : values) v = RandomValue();
    return values;
  }
  size_t Fp8Row(int32_t page, int row) const {
    return (static_cast<size_t>(page) * kLayers + 1) * segment_ +
           static_cast<size_t>(row * kFp8Row);
  }
  size_t Element(int32_t page, int part, int head, int row, int i) const {
    const int dim = part == 0 ? dims_.first : dims_.second;
    const size_t base = (static_cast<size_t>(page) * kLayers + 1) * segment_;
    const size_t second = static_cast<size_t>(part * dims_.kv_heads * kPageRows * dims_.first);
    return base + second + static_cast<size_t>((head * kPageRows + row) * dim + i);
  }
  void FillPage(int32_t page, int rows) {
    for (int row = 0; dims_.fp8 && row < rows; ++row) {
      FillFp8Row(random_, reinterpret_cast<uint8_t*>(pool_.data() + Fp8Row(page, row)));
    }
    if (dims_.fp8) return;
    for (const int part : {0, 1}) {
      for (int h = 0; h < dims_.kv_heads; ++h) {
        for (int row = 0; row < rows; ++row) {
          for (int i = 0; i < (part == 0 ? dims_.first : dims_.second); ++i) {
            pool_[Element(page, part, h, row, i)] = RandomValue();
          }
        }
      }
    }
  }
  kernels::ref::AttentionResult Reference(size_t r) const {
    const int keys = keys_[r];
    kernels::ref::Vec q;
    kernels::ref::Vec k;
    kernels::ref::Vec v;
    const size_t q_row = static_cast<size_t>(dims_.q_heads * dims_.key_dim());
    for (size_t i = 0; i < q_row; ++i) q.push_back(Bf16ToF32(q_[r * q_row + i]));
    for (int key = 0; key < keys; ++key) {
      const int32_t page =
          table_[r * static_cast<size_t>(pages_each_) + static_cast<size_t>(key / kPageRows)];
      for (int h = 0; h < dims_.kv_heads; ++h) {
        const auto at = [&](int part, int i) {
          if (dims_.fp8) {
            const uint16_t* row = pool_.data() + Fp8Row(page, key % kPageRows);
            return Fp8RowAt(reinterpret_cast<const uint8_t*>(row), part * dims_.first + i);
          }
          return Bf16ToF32(pool_[Element(page, part, h, key % kPageRows, i)]);
        };
        for (int i = 0; i < dims_.first; ++i) k.push_back(at(0, i));
        for (int i = 0; i < dims_.second; ++i) (dims_.latent ? k : v).push_back(at(1, i));
        if (dims_.latent) {
          for (int i = 0; i < dims_.first; ++i) v.push_back(at(0, i));
        }
      }
    }
    return kernels::ref::Attention(q, k, v,
                                   {.rows = 1,
                                    .q_heads = dims_.q_heads,
                                    .kv_heads = dims_.kv_heads,
                                    .key_dim = dims_.key_dim(),
                                    .value_dim = dims_.value_dim(),
                                    .first_position = keys,
                                    .scale = static_cast<double>(Scale())});
  }

  const DecodeDims dims_;
  const std::vector<int32_t> keys_;
  const std::vector<DecodeGroup> groups_;
  std::mt19937 random_;
  int pages_each_ = 0;
  size_t segment_ = 0;  // elements
  std::vector<uint16_t> pool_;
  std::vector<int32_t> table_;
  std::vector<uint16_t> q_;
};

}  // namespace reprise::cuda::testing

#endif  // REPRISE_KERNELS_CUDA_DECODE_TEST_UTIL_H_
