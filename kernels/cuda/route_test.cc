// Routing against the CPU's, bit for bit: ties, groups, biases, every kind of number.
#include "kernels/cuda/route.h"

#include "kernels/cuda/rows_test_util.h"

namespace reprise::cuda {
namespace {

using kernels::CpuOps;
using testing::Array;
using testing::SameNumbers;

class CudaRoute : public testing::OnDevice {
 protected:
  const CpuOps& cpu_ = kernels::Select(kernels::BestIsa());
};

struct Case {
  int experts, groups, kept, per_row;
};
constexpr Case kCases[] = {{1, 1, 1, 1},     {5, 1, 1, 2},    {8, 2, 1, 4},      {16, 16, 3, 2},
                           {33, 3, 2, 22},   {64, 1, 1, 6},   {160, 8, 3, 6},    {256, 8, 4, 8},
                           {256, 256, 9, 8}, {1000, 1, 1, 8}, {1024, 64, 33, 40}};
constexpr int64_t kRows = 9;

enum class Numbers { kUsual, kFewValues, kAllKinds };

std::vector<float> Logits(Numbers numbers, int64_t n, uint32_t stream) {
  if (numbers == Numbers::kAllKinds) return testing::AllKinds(n, stream, 20);
  std::vector<float> v = kernels::testing::Uniform(n, stream, 8);
  if (numbers == Numbers::kFewValues) {
    for (float& x : v) x = std::round(x / 4);
  }
  return v;
}

struct Result {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

TEST_F(CudaRoute, HasTheBitsOfTheCpu) {
  uint32_t stream = 0;
  for (const Case& c : kCases) {
    for (const Numbers numbers : {Numbers::kUsual, Numbers::kFewValues, Numbers::kAllKinds}) {
      for (int form = 0; form < 8; ++form) {
        const bool sigmoid = (form & 1) != 0;
        const bool with_bias = (form & 2) != 0;
        const bool normalize = (form & 4) != 0;
        UseSeed(++stream);
        const int64_t stride = c.experts + 3;
        const std::vector<float> logits = Logits(numbers, kRows * stride, stream);
        const std::vector<float> bias = Logits(numbers, c.experts, stream + 1000);
        const Array<float> device_logits(logits);
        const Array<float> device_bias(bias);
        const Array<int32_t> ids(static_cast<size_t>(kRows * c.per_row));
        const Array<float> weights(static_cast<size_t>(kRows * c.per_row));
        ASSERT_EQ(Route({.logits = device_logits.data(),
                         .logits_stride = stride,
                         .rows = kRows,
                         .experts = c.experts,
                         .sigmoid = sigmoid,
                         .bias = with_bias ? device_bias.data() : nullptr,
                         .groups = c.groups,
                         .groups_kept = c.kept,
                         .per_row = c.per_row,
                         .normalize = normalize,
                         .scale = 2.5F,
                         .ids = ids.data(),
                         .weights = weights.data()},
                        nullptr),
                  0);
        Result want{std::vector<int32_t>(ids.size()), std::vector<float>(ids.size())};
        cpu_.route({}, {.logits = {logits.data(), kRows, c.experts, stride},
                        .gating = sigmoid ? kernels::Gating::kSigmoid : kernels::Gating::kSoftmax,
                        .bias = with_bias ? bias.data() : nullptr,
                        .groups = c.groups,
                        .groups_kept = c.kept,
                        .per_row = c.per_row,
                        .normalize = normalize,
                        .scale = 2.5F,
                        .ids = want.ids.data(),
                        .weights = want.weights.data()});
        EXPECT_EQ(ids.Read(), want.ids) << c.experts << " experts, form " << form;
        EXPECT_TRUE(SameNumbers(weights.Read(), want.weights))
            << c.experts << " experts, form " << form;
      }
    }
  }
}

TEST_F(CudaRoute, NothingIsTheBestOfNothing) {
  const std::vector<float> logits(24, kernels::testing::kNaN);
  const Array<float> device_logits(logits);
  const Array<int32_t> ids(4);
  const Array<float> weights(4);
  ASSERT_EQ(Route({.logits = device_logits.data(),
                   .logits_stride = 12,
                   .rows = 2,
                   .experts = 12,
                   .per_row = 2,
                   .ids = ids.data(),
                   .weights = weights.data()},
                  nullptr),
            0);
  EXPECT_EQ(ids.Read(), (std::vector<int32_t>{0, 1, 0, 1}));
}

TEST_F(CudaRoute, LimitsAreRefused) {
  EXPECT_EQ(Route({.rows = 1, .experts = 1025, .per_row = 1}, nullptr), kErrorInvalidValue);
  EXPECT_EQ(Route({.rows = 1, .experts = 8, .groups = 3, .per_row = 1}, nullptr),
            kErrorInvalidValue);
  EXPECT_EQ(Route({.rows = 1, .experts = 8, .groups = 4, .groups_kept = 2, .per_row = 5}, nullptr),
            kErrorInvalidValue);
  EXPECT_EQ(Route({.rows = 0, .experts = 8, .per_row = 1}, nullptr), 0);
}

}  // namespace
}  // namespace reprise::cuda
