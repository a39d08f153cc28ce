#include "coordinator/planner/split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/random.h"

namespace reprise::planner {
namespace {

// Memory that never binds, times in units of t.
SplitInput Times(int machines, double prompt, double tokens) {
  return {.machines = machines,
          .machine_bytes = 1e12,
          .layers = 64,
          .weight_bytes_per_layer = 1,
          .prompt_kv_bytes_per_layer = 1,
          .new_kv_bytes_per_layer = 1,
          .prompt_s = prompt,
          .token_s = 1,
          .new_tokens = tokens,
          .stream_overhead = 1.02};
}

TEST(Split, ClosedFormBalancesBothSides) {
  const SplitPlan plan = *PlanSplit(Times(8, 50, 200));
  EXPECT_DOUBLE_EQ(plan.ideal_token_machines, 8 * 200 / (51.0 + 200));
  EXPECT_DOUBLE_EQ(plan.ideal_prompt_machines, 8 * 51 / (51.0 + 200));
  EXPECT_DOUBLE_EQ(8 * 200 / plan.ideal_token_machines, 51 + 200);
}

// The column "closed form at N = 200" of docs/planner.md.
TEST(Split, IdealGainAtTwoHundredTokens) {
  const struct {
    int machines;
    double ratio;
    double gain;
  } rows[] = {{4, 28, 1.09}, {4, 50, 1.14},  {6, 28, 1.10},
              {6, 50, 1.16}, {6, 100, 1.27}, {8, 50, 1.17}};
  for (const auto& row : rows) {
    const SplitInput input = Times(row.machines, row.ratio, 200);
    EXPECT_NEAR(MixedSeconds(input) / (1.02 * row.ratio + 200), row.gain, 0.006)
        << row.machines << " machines, Y/t " << row.ratio;
  }
}

TEST(Split, WinsFromTheThresholdOn) {
  EXPECT_DOUBLE_EQ(WinRatioMin(4, 1), 1);
  EXPECT_DOUBLE_EQ(WinRatioMin(4, 1.5), 3);
  EXPECT_TRUE(std::isinf(WinRatioMin(4, 1.75)));
  for (const double m : {1.0, 1.1, 1.5}) {
    const double threshold = WinRatioMin(6, m);
    for (const double factor : {0.9, 1.1}) {
      SplitInput input = Times(6, threshold * factor, 300);
      input.stream_overhead = m;
      EXPECT_EQ(m * input.prompt_s + 300 < MixedSeconds(input), factor > 1) << m << " " << factor;
    }
  }
}

TEST(Split, NeighbourSearchFindsTheBestFeasibleIntegers) {
  SplitMix64 random(7);
  int clamped = 0;
  for (int round = 0; round < 2000; ++round) {
    SplitInput input = Times(2 + static_cast<int>(random.Below(15)), 1 + random.Uniform() * 200,
                             1 + random.Uniform() * 1000);
    input.machine_bytes = 20 + random.Uniform() * 400;
    input.weight_bytes_per_layer = random.Uniform() * 10 + 0.1;
    input.prompt_kv_bytes_per_layer = random.Uniform() + 0.01;
    input.new_kv_bytes_per_layer = random.Uniform() + 0.01;
    const auto plan = PlanSplit(input);
    double best = INFINITY;
    const auto prompt_min = PromptMachinesMin(input);
    const auto token_min = TokenMachinesMin(input);
    for (int token = 1; token < input.machines; ++token) {
      const Split split{input.machines - token, token};
      if (!prompt_min.ok() || split.prompt_machines < *prompt_min) continue;
      if (!token_min.ok() || token < *token_min) continue;
      best = std::min(best, SplitSeconds(input, split));
    }
    ASSERT_EQ(plan.ok(), std::isfinite(best)) << plan.status();
    if (!plan.ok()) continue;
    EXPECT_EQ(plan->split_s, best);
    clamped += std::abs(plan->split.token_machines - plan->ideal_token_machines) >= 1 ? 1 : 0;
  }
  EXPECT_GT(clamped, 50) << "memory should have decided some of the splits";
}

TEST(Split, MemoryBounds) {
  SplitInput input = Times(6, 50, 200);
  input.machine_bytes = 100;
  input.layers = 10;
  input.weight_bytes_per_layer = 30;
  input.prompt_kv_bytes_per_layer = 5;
  input.new_kv_bytes_per_layer = 1;
  EXPECT_EQ(*PromptMachinesMin(input), 5);  // two layers a machine
  EXPECT_EQ(*TokenMachinesMin(input), 8);   // 300 / (100 - 60), rounded up
  EXPECT_EQ(PlanSplit(input).status().message(),
            "a split needs 5 prompt and 8 token machines, there are 6");
  input.machines = 13;
  EXPECT_EQ(PlanSplit(input)->split, (Split{5, 8}));
}

TEST(Split, KvThatFillsEveryMachineIsRefusedWhateverTheirNumber) {
  SplitInput input = Times(1000, 50, 200);
  input.machine_bytes = 100;
  input.new_kv_bytes_per_layer = 2;
  const auto plan = PlanSplit(input);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(plan.status().message()), testing::HasSubstr("192 bytes of every"));
  input.weight_bytes_per_layer = 100;
  EXPECT_THAT(std::string(PlanSplit(input).status().message()),
              testing::HasSubstr("one layer's weights and prompt KV take 101 bytes"));
}

TEST(Split, RefusesNonsense) {
  SplitInput input = Times(4, 50, 200);
  input.stream_overhead = 2;
  EXPECT_EQ(PlanSplit(input).status().message(), "stream_overhead is 2, the range is 1 to below 2");
  input = Times(0, 50, 200);
  EXPECT_FALSE(PlanSplit(input).ok());
  input = Times(4, std::nan(""), 200);
  EXPECT_FALSE(PlanSplit(input).ok());
}

}  // namespace
}  // namespace reprise::planner
