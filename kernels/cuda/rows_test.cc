// Kernels over rows against the CPU's bits: all types, ragged and unaligned widths, every kind of
// number.
#include "kernels/cuda/rows.h"

#include "common/half.h"
#include "kernels/cuda/rows_test_util.h"

namespace reprise::cuda {
namespace {

using kernels::CpuOps;
using testing::AllKinds;
using testing::Array;
using testing::SameNumbers;
using testing::TestRows;

class CudaRows : public testing::OnDevice {
 protected:
  const CpuOps& cpu_ = kernels::Select(kernels::BestIsa());
};

struct Case {
  int64_t rows, cols, gap;
};
constexpr Case kCases[] = {{1, 1, 0},   {5, 7, 1},    {33, 8, 8},    {3, 64, 0},
                           {2, 100, 4}, {1, 2500, 8}, {300, 16, 16}, {0, 64, 0}};

std::vector<float> Rounded(const std::vector<float>& v, bool bf16) {
  std::vector<float> r = v;
  if (bf16) {
    for (float& x : r) x = Bf16ToF32(F32ToBf16(x));
  }
  return r;
}

TEST_F(CudaRows, EmbeddingGathersRowsInBothTypes) {
  for (const Case& c : kCases) {
    for (const bool bf16 : {false, true}) {
      constexpr int64_t kTable = 19;
      const std::vector<float> values = AllKinds(kTable * c.cols, 1, 3);
      std::vector<int32_t> ids;
      for (int64_t i = 0; i < c.rows; ++i) ids.push_back(static_cast<int32_t>(i * 7 % kTable));
      const TestRows table(values, kTable, c.cols, bf16, c.gap);
      const Array<int32_t> device_ids(ids);
      const TestRows wide(c.rows, c.cols, false, c.gap);
      const TestRows narrow(c.rows, c.cols, true, c.gap);
      ASSERT_EQ(Embed({.table = table.in(),
                       .ids = device_ids.data(),
                       .y = wide.out(),
                       .also = narrow.out(),
                       .rows = c.rows,
                       .cols = c.cols},
                      nullptr),
                0);
      std::vector<float> want;
      const std::vector<float> rounded = Rounded(values, bf16);
      for (const int32_t id : ids) {
        want.insert(want.end(), rounded.begin() + id * c.cols, rounded.begin() + (id + 1) * c.cols);
      }
      EXPECT_TRUE(SameNumbers(wide.Read(), want)) << c.cols;
      EXPECT_TRUE(SameNumbers(narrow.Read(), narrow.AsStored(want))) << c.cols;
    }
  }
}

TEST_F(CudaRows, SumsHaveTheBitsOfTheCpu) {
  for (const Case& c : kCases) {
    for (int types = 0; types < 16; ++types) {
      const bool with_bias = (types & 8) != 0;
      const std::vector<float> a = AllKinds(c.rows * c.cols, 2, 1e3F);
      const std::vector<float> b = AllKinds(c.rows * c.cols, 3, 1);
      const std::vector<float> bias = AllKinds(c.cols, 4, 2);
      const TestRows x(a, c.rows, c.cols, (types & 1) != 0, c.gap);
      const TestRows residual(b, c.rows, c.cols, (types & 2) != 0, c.gap);
      const TestRows y(c.rows, c.cols, (types & 4) != 0, c.gap);
      const Array<float> device_bias(bias);
      ASSERT_EQ(AddRows({.x = x.in(),
                         .bias = with_bias ? device_bias.data() : nullptr,
                         .residual = residual.in(),
                         .y = y.out(),
                         .rows = c.rows,
                         .cols = c.cols},
                        nullptr),
                0);
      const std::vector<float> ra = Rounded(a, (types & 1) != 0);
      const std::vector<float> rb = Rounded(b, (types & 2) != 0);
      std::vector<float> want(a.size());
      cpu_.add({}, {.x = {ra.data(), c.rows, c.cols, c.cols},
                    .bias = with_bias ? bias.data() : nullptr,
                    .residual = {rb.data(), c.rows, c.cols, c.cols},
                    .y = {want.data(), c.rows, c.cols, c.cols}});
      EXPECT_TRUE(SameNumbers(y.Read(), y.AsStored(want))) << c.cols << " types " << types;
    }
  }
}

TEST_F(CudaRows, ASumMayReplaceItsResidual) {
  const std::vector<float> a = AllKinds(50, 5, 1);
  const std::vector<float> b = AllKinds(50, 6, 1);
  const TestRows x(a, 2, 25, false, 0);
  const TestRows y(b, 2, 25, false, 0);
  ASSERT_EQ(
      AddRows({.x = x.in(), .residual = y.in(), .y = y.out(), .rows = 2, .cols = 25}, nullptr), 0);
  std::vector<float> want(50);
  cpu_.add({}, {.x = {a.data(), 2, 25, 25},
                .residual = {b.data(), 2, 25, 25},
                .y = {want.data(), 2, 25, 25}});
  EXPECT_TRUE(SameNumbers(y.Read(), want));
}

TEST_F(CudaRows, SwigluHasTheBitsOfTheCpu) {
  for (const Case& c : kCases) {
    for (int types = 0; types < 4; ++types) {
      const bool in = (types & 1) != 0;
      const std::vector<float> a = AllKinds(c.rows * c.cols, 7, 100);
      const std::vector<float> b = AllKinds(c.rows * c.cols, 8, 2);
      const TestRows gate(a, c.rows, c.cols, in, c.gap);
      const TestRows up(b, c.rows, c.cols, in, c.gap);
      const TestRows y(c.rows, c.cols, (types & 2) != 0, c.gap);
      ASSERT_EQ(
          Swiglu({.gate = gate.in(), .up = up.in(), .y = y.out(), .rows = c.rows, .cols = c.cols},
                 nullptr),
          0);
      const std::vector<float> ra = Rounded(a, in);
      const std::vector<float> rb = Rounded(b, in);
      std::vector<float> want(a.size());
      cpu_.swiglu({}, {ra.data(), c.rows, c.cols, c.cols}, {rb.data(), c.rows, c.cols, c.cols},
                  {want.data(), c.rows, c.cols, c.cols});
      EXPECT_TRUE(SameNumbers(y.Read(), y.AsStored(want))) << c.cols << " types " << types;
    }
  }
}

// Through x / (1 + exp(-x)) * 1 every exp of the device is seen.
TEST_F(CudaRows, ExpHasTheBitsOfTheCpu) {
  constexpr int64_t kCount = 30'000;
  std::vector<float> x = AllKinds(kCount, 9, 110);
  for (int64_t i = 0; i < 4096; ++i) x[i] = std::bit_cast<float>(static_cast<uint32_t>(i << 20));
  const std::vector<float> ones(x.size(), 1.0F);
  const TestRows gate(x, 1, kCount, false, 0);
  const TestRows up(ones, 1, kCount, false, 0);
  const TestRows y(1, kCount, false, 0);
  ASSERT_EQ(
      Swiglu({.gate = gate.in(), .up = up.in(), .y = y.out(), .rows = 1, .cols = kCount}, nullptr),
      0);
  std::vector<float> want(x.size());
  cpu_.swiglu({}, {x.data(), 1, kCount, kCount}, {ones.data(), 1, kCount, kCount},
              {want.data(), 1, kCount, kCount});
  EXPECT_TRUE(SameNumbers(y.Read(), want));
}

TEST_F(CudaRows, ConversionHasTheBitsOfTheCpu) {
  for (const Case& c : kCases) {
    for (int types = 0; types < 4; ++types) {
      const std::vector<float> a = AllKinds(c.rows * c.cols, 10, 1e30F);
      const TestRows x(a, c.rows, c.cols, (types & 1) != 0, c.gap);
      const TestRows y(c.rows, c.cols, (types & 2) != 0, c.gap);
      ASSERT_EQ(Convert({.x = x.in(), .y = y.out(), .rows = c.rows, .cols = c.cols}, nullptr), 0);
      EXPECT_TRUE(SameNumbers(y.Read(), y.AsStored(Rounded(a, (types & 1) != 0)))) << c.cols;
    }
  }
}

TEST_F(CudaRows, AddScaledHasTheBitsOfTheCpu) {
  for (const Case& c : kCases) {
    for (const bool bf16 : {false, true}) {
      const std::vector<float> a = AllKinds(c.rows * c.cols, 11, 2);
      const std::vector<float> b = AllKinds(2 * c.rows * c.cols, 12, 2);
      const std::vector<float> weights = AllKinds(c.rows, 13, 2);
      std::vector<int32_t> to;
      for (int64_t i = 0; i < c.rows; ++i)
        to.push_back(static_cast<int32_t>(2 * c.rows - 1 - 2 * i));
      const TestRows x(a, c.rows, c.cols, bf16, c.gap);
      const TestRows y(b, 2 * c.rows, c.cols, false, c.gap);
      const Array<int32_t> device_to(to);
      const Array<float> device_weights(weights);
      ASSERT_EQ(AddScaled({.x = x.in(),
                           .to = device_to.data(),
                           .weights = device_weights.data(),
                           .y = y.out(),
                           .rows = c.rows,
                           .cols = c.cols},
                          nullptr),
                0);
      const std::vector<float> ra = Rounded(a, bf16);
      std::vector<float> want = b;
      cpu_.add_scaled({}, {{ra.data(), c.rows, c.cols, c.cols},
                           to.data(),
                           weights.data(),
                           {want.data(), 2 * c.rows, c.cols, c.cols}});
      EXPECT_TRUE(SameNumbers(y.Read(), want)) << c.cols;
    }
  }
}

TEST_F(CudaRows, AddScaledWantsF32) {
  EXPECT_EQ(AddScaled({.y = {.bf16 = true}, .rows = 1, .cols = 1}, nullptr), kErrorInvalidValue);
}

TEST_F(CudaRows, CopiesTakeAndPlaceRowsByIndex) {
  for (const int64_t bytes : {1, 2, 16, 30, 64, 1000}) {
    for (const int64_t pad : {0, 2, 16}) {
      constexpr int64_t kRows = 9;
      std::vector<uint8_t> x(kRows * (bytes + pad));
      for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * 31 + i / 251);
      const std::vector<int32_t> from = {3, -1, 3, 0, 8};
      const std::vector<int32_t> to = {4, 2, -1, 0, 1};
      const Array<uint8_t> device_x(x);
      const Array<uint8_t> y(static_cast<size_t>(5 * bytes));
      const Array<int32_t> device_from(from);
      const Array<int32_t> device_to(to);
      ASSERT_EQ(CopyRows({.x = device_x.data(),
                          .x_stride_bytes = bytes + pad,
                          .y = y.data(),
                          .y_stride_bytes = bytes,
                          .from = device_from.data(),
                          .to = device_to.data(),
                          .rows = 5,
                          .row_bytes = bytes},
                         nullptr),
                0);
      std::vector<uint8_t> want(static_cast<size_t>(5 * bytes), 0xFF);
      for (size_t i = 0; i < from.size(); ++i) {
        if (to[i] < 0) continue;
        for (int64_t b = 0; b < bytes; ++b) {
          want[static_cast<size_t>(to[i] * bytes + b)] =
              from[i] < 0 ? 0 : x[static_cast<size_t>(from[i] * (bytes + pad) + b)];
        }
      }
      EXPECT_EQ(y.Read(), want) << bytes << " + " << pad;
    }
  }
}

}  // namespace
}  // namespace reprise::cuda
