// Linear layers against double, and bit for bit against themselves in other company.
#include "kernels/cuda/gemm.h"

#include <cstring>
#include <random>

#include "common/half.h"
#include "kernels/cuda/test_device.h"

namespace reprise::cuda {
namespace {

using testing::Array;

constexpr int64_t kPad = 8;  // elements behind every row, NaN: nobody may read them

std::vector<uint16_t> RandomRows(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<uint16_t> values(static_cast<size_t>(rows * (cols + kPad)), 0xFFFF);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      values[static_cast<size_t>(r * (cols + kPad) + c)] = F32ToBf16(uniform(random));
    }
  }
  return values;
}

GemmMatrix View(const Array<uint16_t>& array, int64_t batch, int64_t rows, int64_t cols) {
  return {array.data(), batch, rows, cols, cols + kPad, rows * (cols + kPad)};
}

class CudaGemm : public testing::OnDevice {};

struct Problem {
  int64_t batch;
  int64_t m;
  int64_t n;
  int64_t k;
  std::vector<uint16_t> x;
  std::vector<uint16_t> w;
  Problem(int64_t b, int64_t rows, int64_t outputs, int64_t depth, uint32_t seed)
      : batch(b),
        m(rows),
        n(outputs),
        k(depth),
        x(RandomRows(b * rows, depth, seed)),
        w(RandomRows(b * outputs, depth, seed + 1)) {}
  double Dot(int64_t b, int64_t row, int64_t weight_batch, int64_t col) const {
    double sum = 0;
    for (int64_t i = 0; i < k; ++i) {
      sum +=
          static_cast<double>(Bf16ToF32(x[static_cast<size_t>((b * m + row) * (k + kPad) + i)])) *
          Bf16ToF32(w[static_cast<size_t>((weight_batch * n + col) * (k + kPad) + i)]);
    }
    return sum;
  }
  // k products below 1, f32 sums.
  double Bound() const { return static_cast<double>(k) * 0x1p-22; }
};

using Kernel = int (*)(const GemmArgs&, Stream);

std::vector<float> Multiplied(const Problem& p, int64_t rows, Kernel kernel = Gemm) {
  const Array<uint16_t> x(p.x);
  const Array<uint16_t> w(p.w);
  const Array<float> y(static_cast<size_t>(p.batch * p.m * p.n));
  GemmWeights weights;
  EXPECT_EQ(MakeGemmWeights(View(w, p.batch, p.n, p.k), &weights), 0);
  GemmMatrix view = View(x, p.batch, p.m, p.k);
  view.rows = rows;
  GemmArgs args;
  args.weights = &weights;
  args.x = view;
  args.y = {.f32 = y.data(), .row_stride = p.n, .batch_stride = p.m * p.n};
  EXPECT_EQ(kernel(args, nullptr), 0);
  return y.Read();
}

TEST_F(CudaGemm, AgreesWithDouble) {
  uint32_t seed = 1;
  for (const int64_t m : {1, 8, 13, 32, 50, 100, 130, 257}) {
    UseSeed(seed);
    const Problem p(1, m, 72, 200, seed += 2);
    const std::vector<float> y = Multiplied(p, m);
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < p.n; ++c) {
        ASSERT_NEAR(y[static_cast<size_t>(r * p.n + c)], p.Dot(0, r, 0, c), p.Bound())
            << m << ": " << r << ", " << c;
      }
    }
  }
}

TEST_F(CudaGemm, RowsHaveTheSameBitsInAnyCompany) {
  const Problem p(1, 200, 136, 320, 5);
  const std::vector<float> all = Multiplied(p, 200);
  for (const int64_t rows : {1, 9, 20, 40, 70, 129}) {
    const std::vector<float> some = Multiplied(p, rows);
    EXPECT_EQ(std::memcmp(some.data(), all.data(), static_cast<size_t>(rows * p.n) * 4), 0) << rows;
  }
}

TEST_F(CudaGemm, LongSumsGoRoundTheStages) {
  const Problem p(1, 5, 64, 1600, 9);
  const std::vector<float> y = Multiplied(p, 5);
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t c = 0; c < 64; ++c) {
      ASSERT_NEAR(y[static_cast<size_t>(r * 64 + c)], p.Dot(0, r, 0, c), p.Bound());
    }
  }
}

TEST_F(CudaGemm, BatchesAreHeads) {
  const Problem p(3, 10, 40, 128, 7);
  const std::vector<float> y = Multiplied(p, 10);
  for (int64_t b = 0; b < 3; ++b) {
    for (int64_t r = 0; r < 10; ++r) {
      for (int64_t c = 0; c < p.n; ++c) {
        ASSERT_NEAR(y[static_cast<size_t>((b * 10 + r) * p.n + c)], p.Dot(b, r, b, c), p.Bound());
      }
    }
  }
}

TEST_F(CudaGemm, OutputsMayLieInPagesAndHeads) {
  constexpr int64_t kHeads = 3;
  constexpr int64_t kDim = 24;
  const Problem p(1, 21, kHeads * kDim, 64, 6);
  const Array<uint16_t> x(p.x);
  const Array<uint16_t> w(p.w);
  GemmWeights weights;
  ASSERT_EQ(MakeGemmWeights(View(w, 1, p.n, p.k), &weights), 0);
  for (const Kernel kernel : {Gemm, GemmSimple}) {
    // [page][head][8 rows][40], of which the last 24.
    const Array<float> y(3 * kHeads * 8 * 40);
    GemmArgs args;
    args.weights = &weights;
    args.x = View(x, 1, p.m, p.k);
    args.y.f32 = y.data() + 16;
    args.y.row_stride = 40;
    args.y.row_group = 8;
    args.y.row_group_stride = kHeads * 8 * 40;
    args.y.column_group = kDim;
    args.y.column_group_stride = 8 * 40;
    ASSERT_EQ(kernel(args, nullptr), 0);
    const std::vector<float> got = y.Read();
    for (int64_t r = 0; r < p.m; ++r) {
      for (int64_t c = 0; c < p.n; ++c) {
        const int64_t at = ((r / 8 * kHeads + c / kDim) * 8 + r % 8) * 40 + 16 + c % kDim;
        ASSERT_NEAR(got[static_cast<size_t>(at)], p.Dot(0, r, 0, c), p.Bound());
      }
    }
  }
}

TEST_F(CudaGemm, TheSimpleKernelAgreesToo) {
  const Problem p(2, 13, 136, 72, 15);
  const std::vector<float> y = Multiplied(p, p.m, GemmSimple);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t r = 0; r < p.m; ++r) {
      for (int64_t c = 0; c < p.n; ++c) {
        ASSERT_NEAR(y[static_cast<size_t>((b * p.m + r) * p.n + c)], p.Dot(b, r, b, c), p.Bound());
      }
    }
  }
}

TEST_F(CudaGemm, AddsBiasThenResidualAndRounds) {
  const Problem p(1, 11, 24, 64, 8);
  const Array<uint16_t> x(p.x);
  const Array<uint16_t> w(p.w);
  std::vector<float> bias(24);
  for (size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i) * 0.25F;
  const Array<float> device_bias(bias);
  std::vector<float> residual(11 * 24);
  for (size_t i = 0; i < residual.size(); ++i) residual[i] = static_cast<float>(i) - 100;
  const Array<float> y(residual);  // its own residual
  const Array<uint16_t> rounded(residual.size());
  GemmWeights weights;
  ASSERT_EQ(MakeGemmWeights(View(w, 1, 24, 64), &weights), 0);
  GemmArgs args;
  args.weights = &weights;
  args.x = View(x, 1, 11, 64);
  args.y = {.f32 = y.data(),
            .bf16 = rounded.data(),
            .row_stride = 24,
            .bias = device_bias.data(),
            .residual = y.data()};
  ASSERT_EQ(Gemm(args, nullptr), 0);
  const std::vector<float> got = y.Read();
  const std::vector<uint16_t> bits = rounded.Read();
  for (size_t i = 0; i < got.size(); ++i) {
    const double want = p.Dot(0, static_cast<int64_t>(i / 24), 0, static_cast<int64_t>(i % 24)) +
                        bias[i % 24] + residual[i];
    ASSERT_NEAR(got[i], want, 1e-4);
    ASSERT_EQ(bits[i], F32ToBf16(got[i]));
  }
}

TEST_F(CudaGemm, ExpertsHaveTheirOwnRows) {
  constexpr int64_t kExperts = 5;
  // One expert has no rows, one many more than a tile.
  const std::vector<int32_t> first_row = {0, 3, 3, 40, 41, 48};
  const Problem p(1, 48, 64, 128, 3);
  Problem experts(kExperts, 1, 64, 128, 4);
  const Array<uint16_t> x(p.x);
  const Array<uint16_t> w(experts.w);
  const Array<int32_t> device_first_row(first_row);
  GemmWeights weights;
  ASSERT_EQ(MakeGemmWeights(View(w, kExperts, 64, 128), &weights), 0);
  experts.x = p.x;
  experts.m = 48;
  for (const Kernel kernel : {Gemm, GemmSimple}) {
    const Array<float> y(48 * 64);
    GemmArgs args;
    args.weights = &weights;
    args.x = View(x, 1, 48, 128);
    args.y = {.f32 = y.data(), .row_stride = 64};
    args.groups = {device_first_row.data()};
    ASSERT_EQ(kernel(args, nullptr), 0);
    const std::vector<float> got = y.Read();
    for (int64_t e = 0; e < kExperts; ++e) {
      for (int64_t r = first_row[static_cast<size_t>(e)]; r < first_row[static_cast<size_t>(e) + 1];
           ++r) {
        for (int64_t c = 0; c < 64; ++c) {
          ASSERT_NEAR(got[static_cast<size_t>(r * 64 + c)], experts.Dot(0, r, e, c), p.Bound())
              << "expert " << e << " row " << r;
        }
      }
    }
  }
}

TEST_F(CudaGemm, RefusesWhatDoesNotFit) {
  const Array<uint16_t> w(RandomRows(24, 64, 1));
  GemmWeights weights;
  EXPECT_EQ(MakeGemmWeights({w.data(), 1, 20, 64, 72, 0}, &weights), kErrorInvalidValue);
  ASSERT_EQ(MakeGemmWeights(View(w, 1, 24, 64), &weights), 0);
  GemmArgs args;
  args.weights = &weights;
  args.x = View(w, 1, 4, 56);
  args.y = {.f32 = reinterpret_cast<float*>(w.data()), .row_stride = 24};
  EXPECT_EQ(Gemm(args, nullptr), kErrorInvalidValue);
}

}  // namespace
}  // namespace reprise::cuda
