// Mixtures of experts: the choice against double, ties, and the same bits everywhere.
#include "kernels/cpu/thread_pool.h"
#include "kernels/ref/ref.h"
#include "kernels/test_util.h"

namespace reprise::kernels {
namespace {

using namespace testing;

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Routed Route(Isa isa, const std::vector<float>& logits, int64_t rows, RouteArgs args,
             ThreadPool* pool = nullptr) {
  Routed r;
  r.ids.assign(static_cast<size_t>(rows * args.per_row), -1);
  r.weights.assign(r.ids.size(), kNaN);
  const auto experts = static_cast<int64_t>(logits.size()) / rows;
  args.logits = {logits.data(), rows, experts, experts};
  args.ids = r.ids.data();
  args.weights = r.weights.data();
  Exec exec;
  exec.pool = pool;
  Select(isa).route(exec, args);
  return r;
}

TEST(Route, AgreesWithDouble) {
  constexpr int64_t kRows = 60;
  struct Case {
    int64_t experts, per_row, groups, groups_kept;
    Gating gating;
    bool bias, normalize;
    float scale;
  };
  const Case cases[] = {
      {8, 2, 1, 1, Gating::kSoftmax, false, true, 1},      // Mixtral
      {128, 8, 1, 1, Gating::kSoftmax, false, true, 1},    // Qwen3-MoE
      {64, 6, 1, 1, Gating::kSoftmax, false, false, 1},    // DeepSeek-V2-Lite
      {160, 6, 8, 3, Gating::kSoftmax, false, false, 16},  // DeepSeek-V2
      {256, 8, 8, 4, Gating::kSigmoid, true, true, 2.5f},  // DeepSeek-V3
      {4, 4, 4, 4, Gating::kSigmoid, true, true, 1},
  };
  for (const Case& c : cases) {
    const std::vector<float> logits = Uniform(kRows * c.experts, 1, 4);
    const std::vector<float> bias = Uniform(c.experts, 2, 0.2f);
    RouteArgs args;
    args.gating = c.gating;
    args.bias = c.bias ? bias.data() : nullptr;
    args.groups = c.groups;
    args.groups_kept = c.groups_kept;
    args.per_row = c.per_row;
    args.normalize = c.normalize;
    args.scale = c.scale;
    ref::Routing routing{
        c.gating == Gating::kSigmoid, {}, c.groups, c.groups_kept, c.per_row, c.normalize, c.scale};
    if (c.bias) routing.bias = ToDouble(bias);
    const Routed first = Route(Isa::kScalar, logits, kRows, args);
    for (int64_t row = 0; row < kRows; ++row) {
      const std::vector<float> one(logits.begin() + row * c.experts,
                                   logits.begin() + (row + 1) * c.experts);
      const std::map<int64_t, double> want = ref::Route(ToDouble(one), routing);
      auto at = static_cast<size_t>(row * c.per_row);
      for (const auto& [expert, weight] : want) {
        ASSERT_EQ(first.ids[at], expert) << c.experts << " experts, row " << row;
        // exp of 2 ulp, a division, the sum of up to 256 scores in 16 lanes, and two more.
        ASSERT_NEAR(first.weights[at], weight, weight * 0x1p-24 * 40);
        ++at;
      }
    }
    ThreadPool pool(3);
    for (Isa isa : Isas()) {
      const Routed other = Route(isa, logits, kRows, args, &pool);
      EXPECT_EQ(other.ids, first.ids) << IsaName(isa);
      EXPECT_TRUE(SameBits(other.weights, first.weights)) << IsaName(isa);
    }
  }
}

TEST(Route, TiesGoToTheLowestGroupAndExpert) {
  RouteArgs args;
  args.per_row = 3;
  args.groups = 4;
  args.groups_kept = 2;
  for (const Gating gating : {Gating::kSoftmax, Gating::kSigmoid}) {
    args.gating = gating;
    for (Isa isa : Isas()) {
      EXPECT_EQ(Route(isa, std::vector<float>(8, 0.5f), 1, args).ids,
                (std::vector<int32_t>{0, 1, 2}));
      EXPECT_EQ(Route(isa, {0, 0, 0, 0, 2, 2, 2, 2}, 1, args).ids, (std::vector<int32_t>{4, 5, 6}));
    }
  }
}

TEST(Route, ANumberIsChosenBeforeNaN) {
  RouteArgs args;
  args.per_row = 2;
  args.gating = Gating::kSigmoid;
  for (Isa isa : Isas()) {
    EXPECT_EQ(Route(isa, {kNaN, -3, kNaN, -4}, 1, args).ids, (std::vector<int32_t>{1, 3}));
    EXPECT_EQ(Route(isa, {kNaN, kNaN, kNaN, -4}, 1, args).ids, (std::vector<int32_t>{0, 3}));
  }
}

TEST(AddScaled, AddsRowsWhereTheyBelong) {
  constexpr int64_t kCols = 37;
  const std::vector<float> x = Uniform(2 * kCols, 1);
  const std::vector<float> before = Uniform(4 * kCols, 2);
  const int32_t rows[] = {3, 1};
  const float weights[] = {0.7f, -1.3f};
  for (Isa isa : Isas()) {
    std::vector<float> y = before;
    Select(isa).add_scaled(
        {}, {{x.data(), 2, kCols, kCols}, rows, weights, {y.data(), 4, kCols, kCols}});
    std::vector<float> want = before;
    for (int64_t i = 0; i < 2; ++i) {
      for (int64_t c = 0; c < kCols; ++c) {
        float& at = want[static_cast<size_t>(rows[i] * kCols + c)];
        at = std::fma(weights[i], x[static_cast<size_t>(i * kCols + c)], at);
      }
    }
    EXPECT_TRUE(SameBits(y, want)) << IsaName(isa);
  }
}

}  // namespace
}  // namespace reprise::kernels
