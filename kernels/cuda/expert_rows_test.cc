// Lists of rows by expert against a stable sort, and the experts' sum against the CPU's bits.
#include "kernels/cuda/expert_rows.h"

#include <algorithm>

#include "kernels/cuda/rows_test_util.h"

namespace reprise::cuda {
namespace {

using testing::Array;
using testing::SameNumbers;
using testing::TestRows;

class CudaExpertRows : public testing::OnDevice {};

// Distinct in a row; a row in seven goes nowhere.
std::vector<int32_t> Ids(int64_t rows, int per_row, int experts, uint32_t stream) {
  std::vector<int32_t> ids;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<int32_t> all(static_cast<size_t>(experts));
    for (int i = 0; i < experts; ++i) all[static_cast<size_t>(i)] = i;
    for (int j = 0; j < per_row; ++j) {
      // Few experts take most of the rows.
      const double draw = kernels::UniformAt(5, stream, static_cast<uint64_t>(r * per_row + j));
      const auto at = static_cast<size_t>(draw * draw * static_cast<double>(all.size()));
      ids.push_back(r % 7 == 3 ? -1 : all[at]);
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
  return ids;
}

struct Lists {
  std::vector<int32_t> counts, begins, row_of, place_of;
};

Lists Expected(const std::vector<int32_t>& ids, const ExpertRowsArgs& args) {
  Lists l;
  l.row_of.assign(static_cast<size_t>(ExpertRowsMax(args)), -1);
  l.place_of.assign(ids.size(), -1);
  int32_t end = 0;
  for (int expert = 0; expert < args.experts; ++expert) {
    const int32_t begin = end;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] != expert) continue;
      l.place_of[i] = end;
      l.row_of[static_cast<size_t>(end++)] = static_cast<int32_t>(i) / args.per_row;
    }
    l.counts.push_back(end - begin);
    l.begins.push_back(begin);
    end = (end + args.tile - 1) / args.tile * args.tile;
  }
  l.begins.push_back(end);
  return l;
}

TEST_F(CudaExpertRows, ListsHaveTheRowsInOrder) {
  struct Case {
    int64_t rows;
    int per_row, experts, tile;
  };
  uint32_t stream = 0;
  for (const Case& c :
       {Case{0, 2, 8, 16}, Case{1, 1, 1, 1}, Case{5, 2, 8, 1}, Case{100, 4, 40, 16},
        Case{128, 8, 256, 64}, Case{129, 8, 64, 1}, Case{700, 6, 33, 128}, Case{300, 8, 1024, 1}}) {
    for (const uint64_t seed : {1, 2, 3}) {
      UseSeed(seed);
      const std::vector<int32_t> ids = Ids(c.rows, c.per_row, c.experts, ++stream);
      const Array<int32_t> device_ids(ids);
      ExpertRowsArgs args = {.ids = device_ids.data(),
                             .rows = c.rows,
                             .per_row = c.per_row,
                             .experts = c.experts,
                             .tile = c.tile};
      const Array<int32_t> counts(static_cast<size_t>(c.experts));
      const Array<int32_t> begins(static_cast<size_t>(c.experts) + 1);
      const Array<int32_t> row_of(static_cast<size_t>(ExpertRowsMax(args)));
      const Array<int32_t> place_of(ids.size());
      const Array<uint8_t> scratch(ExpertRowsScratchBytes(args));
      args.counts = counts.data();
      args.begins = begins.data();
      args.row_of = row_of.data();
      args.place_of = place_of.data();
      args.scratch = scratch.data();
      ASSERT_EQ(ListExpertRows(args, nullptr), 0);
      const Lists want = Expected(ids, args);
      EXPECT_EQ(counts.Read(), want.counts) << c.rows << " rows";
      EXPECT_EQ(begins.Read(), want.begins) << c.rows << " rows";
      EXPECT_EQ(row_of.Read(), want.row_of) << c.rows << " rows";
      EXPECT_EQ(place_of.Read(), want.place_of) << c.rows << " rows";
    }
  }
}

TEST_F(CudaExpertRows, LimitsAreRefused) {
  EXPECT_EQ(ListExpertRows({.experts = 1025}, nullptr), kErrorInvalidValue);
  EXPECT_EQ(ListExpertRows({.experts = 8, .tile = 0}, nullptr), kErrorInvalidValue);
  EXPECT_EQ(ListExpertRows({.rows = int64_t{1} << 30, .per_row = 2, .experts = 8}, nullptr),
            kErrorInvalidValue);
}

TEST_F(CudaExpertRows, TheirSumHasTheBitsOfTheCpu) {
  constexpr int64_t kRows = 11;
  constexpr int kPerRow = 3;
  const kernels::CpuOps& cpu = kernels::Select(kernels::BestIsa());
  for (const int64_t cols : {1, 24, 100, 3000}) {
    for (int types = 0; types < 8; ++types) {
      const bool bf16 = (types & 1) != 0;
      const std::vector<float> outputs = testing::AllKinds(kRows * kPerRow * cols, 1, 2);
      const std::vector<float> weights = kernels::testing::Uniform(kRows * kPerRow, 2);
      const std::vector<float> base = testing::AllKinds(kRows * cols, 3, 2);
      std::vector<int32_t> place_of;
      for (int i = 0; i < kRows * kPerRow; ++i) {
        place_of.push_back(i % 10 == 9 ? -1 : i * 7 % (kRows * kPerRow));
      }
      const TestRows x(outputs, kRows * kPerRow, cols, bf16, 0);
      const TestRows y = (types & 2) != 0 ? TestRows(base, kRows, cols, false, 8)
                                          : TestRows(kRows, cols, (types & 4) != 0, 8);
      const Array<int32_t> device_place(place_of);
      const Array<float> device_weights(weights);
      ASSERT_EQ(SumExperts({.x = x.in(),
                            .place_of = device_place.data(),
                            .weights = device_weights.data(),
                            .base = (types & 2) != 0 ? y.in() : ConstRows{},
                            .y = y.out(),
                            .rows = kRows,
                            .cols = cols,
                            .per_row = kPerRow},
                           nullptr),
                0);
      const std::vector<float> rounded = x.Read();
      std::vector<float> sum(base.size(), 0);
      for (int32_t i = 0; i < kRows * kPerRow; ++i) {
        if (place_of[static_cast<size_t>(i)] < 0) continue;
        const int32_t row = i / kPerRow;
        cpu.add_scaled({},
                       {{rounded.data() + place_of[static_cast<size_t>(i)] * cols, 1, cols, cols},
                        &row,
                        &weights[static_cast<size_t>(i)],
                        {sum.data(), kRows, cols, cols}});
      }
      if ((types & 2) != 0) {
        cpu.add({}, {.x = {base.data(), kRows, cols, cols},
                     .residual = {sum.data(), kRows, cols, cols},
                     .y = {sum.data(), kRows, cols, cols}});
      }
      EXPECT_TRUE(SameNumbers(y.Read(), y.AsStored(sum))) << cols << " types " << types;
    }
  }
}

}  // namespace
}  // namespace reprise::cuda
