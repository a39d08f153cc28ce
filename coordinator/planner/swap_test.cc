#include "coordinator/planner/swap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace reprise::planner {
namespace {

// 1,000 bytes a token at double batch over 1 MB/s: one millisecond a token of context.
SwapInput OneMillisecondAToken() {
  return {.stages = 4,
          .batch = 1,
          .kv_bytes_per_token = 500,
          .link_bytes_per_s = 1e6,
          .token_s = 0.5,
          .prompt_tokens = 100,
          .new_tokens = 400};
}

TEST(Swap, HiddenTransfersDoubleTheThroughput) {
  const SwapPlan plan = *PlanSwap(OneMillisecondAToken());
  EXPECT_TRUE(plan.refusal.ok()) << plan.refusal;
  EXPECT_DOUBLE_EQ(plan.last_transfer_s, 0.5);
  EXPECT_DOUBLE_EQ(plan.speedup, 2);
  EXPECT_EQ(plan.hidden_tokens, 500);
}

TEST(Swap, RefusesWhereTheLinkCannotHideTheLastStep) {
  SwapInput input = OneMillisecondAToken();
  input.new_tokens = 401;
  const SwapPlan plan = *PlanSwap(input);
  EXPECT_EQ(plan.refusal.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(
      plan.refusal.message(),
      "at 501 tokens a microbatch takes 501 ms to swap in, a step takes 500 ms; the link hides "
      "contexts up to 500 tokens");
  EXPECT_TRUE(plan.pays());
}

TEST(Swap, SumOfStepsDecidesWhetherARequestGains) {
  SwapInput input = OneMillisecondAToken();
  input.token_s = 0.05;
  input.prompt_tokens = 100;
  input.new_tokens = 100;
  // Steps 101..200 ms exposed: mean 150.5 ms against 2 x 50 ms.
  const SwapPlan plan = *PlanSwap(input);
  EXPECT_NEAR(plan.speedup, 100 / 150.5, 1e-12);
  EXPECT_FALSE(plan.pays());
  EXPECT_FALSE(plan.refusal.ok());
}

// disagg: OPT-66B at 1,500 tokens, batch 1 doubled, over 24 GB/s: 2 x 1,500 x 2.36 MB.
TEST(Swap, Opt66bOverPcie4) {
  SwapInput input{.stages = 4,
                  .batch = 1,
                  .kv_bytes_per_token = 2'359'296,
                  .link_bytes_per_s = 24e9,
                  .token_s = 0.05,
                  .prompt_tokens = 500,
                  .new_tokens = 1000};
  const SwapPlan plan = *PlanSwap(input);
  EXPECT_NEAR(plan.last_transfer_s, 0.2949, 1e-4);
  EXPECT_EQ(plan.hidden_tokens, 254);
  EXPECT_FALSE(plan.refusal.ok());
}

TEST(Swap, TwoResidentMicrobatchesNeedFourStagesOfRoom) {
  SwapInput input = OneMillisecondAToken();
  const SwapPlan four = *PlanSwap(input);
  EXPECT_DOUBLE_EQ(four.resident_bytes, four.unswapped_bytes);
  input.stages = 3;
  const SwapPlan three = *PlanSwap(input);
  EXPECT_GT(three.resident_bytes, three.unswapped_bytes);
  EXPECT_THAT(std::string(three.refusal.message()), testing::HasSubstr("there are 3 stages"));
}

TEST(Swap, RefusesNonsense) {
  SwapInput input = OneMillisecondAToken();
  input.link_bytes_per_s = 0;
  EXPECT_FALSE(PlanSwap(input).ok());
  input = OneMillisecondAToken();
  input.new_tokens = 0;
  EXPECT_FALSE(PlanSwap(input).ok());
  input = OneMillisecondAToken();
  input.batch = 0;
  EXPECT_EQ(PlanSwap(input).status().message(), "batch is 0, the range is 1 to 1048576");
}

}  // namespace
}  // namespace reprise::planner
