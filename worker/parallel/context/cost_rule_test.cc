// The rule's choices, where they are clear, and its estimates, where they can be done by hand.
#include "worker/parallel/context/cost_rule.h"

#include <gtest/gtest.h>

namespace reprise::parallel {
namespace {

Stripes Of(int ranks, int64_t leaves) { return *Stripes::Make(ranks, leaves); }

// 8 KV heads of 128 for 32 query heads, bf16: 4,096 bytes a token.
CostShape Gqa() {
  return {.wire = {.block_tokens = 64,
                   .page_bytes = 64 * 4096,
                   .query_bytes = 4 * 32 * 128,
                   .partial_floats = 32 * 129},
          .pair_macs = 32 * 256,
          .key_macs = 0};
}
// DeepSeek-V2-Lite in prompt form: a latent of 1,152 bytes, expanded where it is used.
CostShape LatentPrompt() {
  return {.wire = {.block_tokens = 64,
                   .page_bytes = 64 * 1152,
                   .query_bytes = 4 * 16 * 192,
                   .partial_floats = 16 * 129},
          .pair_macs = 16 * 320,
          .key_macs = 16 * 512 * 256};
}

TEST(CostRule, EstimatesAreTheFormulas) {
  const Stripes stripes = Of(2, 1);
  const Machine machine{.latency_s = 0.5, .bytes_per_s = 1000, .macs_per_s = 1e6};
  CostShape shape;
  shape.wire = {.block_tokens = 64, .page_bytes = 64, .query_bytes = 8, .partial_floats = 3};
  shape.pair_macs = 10;
  const ContextItem prompt{0, 2048};  // one round: stripes 0 and 3 are rank 0's
  // 1,024 bytes go to the other rank. Queries at the middle of stripes 0 and 3, or 1 and 2, 512 of
  // each: 512 * (256 + 1792) pairs.
  const double transfer = 1024 / 1000.0;
  const double compute = 512 * 2048 * 10 / 1e6;
  EXPECT_DOUBLE_EQ(SecondsOf(Way::kRing, stripes, prompt, shape, machine),
                   std::max(transfer, compute) + 0.5);
  EXPECT_DOUBLE_EQ(SecondsOf(Way::kGather, stripes, prompt, shape, machine),
                   transfer + compute + 0.5);
  // One query at the end, of rank 0. Rank 0 sends 8 bytes, rank 1 the result of its stripes 1 and 2
  // (two nodes): 24. All 2,048 keys are seen, half by each.
  const ContextItem last{2047, 1};
  EXPECT_DOUBLE_EQ(SecondsOf(Way::kQuery, stripes, last, shape, machine),
                   24 / 1000.0 + 1024 * 10 / 1e6 + 2 * 0.5);
}

TEST(CostRule, ALongPromptIsARing) {
  EXPECT_EQ(ChooseWay(Of(4, 8), {0, 131'072}, Gqa(), {}), Way::kRing);
  EXPECT_EQ(ChooseWay(Of(4, 8), {0, 131'072}, LatentPrompt(), {.gather_bytes_max = 0}), Way::kRing);
}

TEST(CostRule, OneTokenAfterALongContextTravelsItself) {
  EXPECT_EQ(ChooseWay(Of(4, 8), {131'071, 1}, Gqa(), {}), Way::kQuery);
}

// New tokens for which queries still travel, in powers of two.
int64_t MostThatTravel(const Stripes& stripes, int64_t cached, const CostShape& shape) {
  const Machine bytes_count{
      .latency_s = 0, .bytes_per_s = 1e9, .macs_per_s = 1e18, .gather_bytes_max = 0};
  int64_t most = 0;
  for (int64_t rows = 1; rows <= 65'536; rows *= 2) {
    if (ChooseWay(stripes, {cached, rows}, shape, bytes_count) == Way::kQuery) most = rows;
  }
  return most;
}

// Results come back stripe by stripe, so what may travel grows with the cached prefix while queries
// are most of the bytes, and then with the stripe: (P - 1) stripe key bytes / result bytes.
TEST(CostRule, NewTokensAgainstTheCachedPrefixDecide) {
  for (const CostShape& shape : {Gqa(), LatentPrompt()}) {
    EXPECT_EQ(MostThatTravel(Of(4, 8), 0, shape), 0);
    EXPECT_LT(MostThatTravel(Of(4, 8), 16'384, shape), MostThatTravel(Of(4, 8), 65'536, shape));
    EXPECT_LT(MostThatTravel(Of(4, 8), 262'144, shape), MostThatTravel(Of(4, 32), 262'144, shape));
  }
  EXPECT_EQ(MostThatTravel(Of(4, 8), 262'144, Gqa()), 2048) << "3 * 4096 * 4096 / 16512 = 3048";
}

TEST(CostRule, SmallContextsAreGatheredWhereStepsCostMoreThanBytes) {
  const Machine far{.latency_s = 1e-3, .bytes_per_s = 1e11, .macs_per_s = 1e13};
  EXPECT_EQ(ChooseWay(Of(4, 1), {0, 32'768}, LatentPrompt(), far), Way::kGather);
  Machine small = far;
  small.gather_bytes_max = 1 << 20;
  EXPECT_EQ(ChooseWay(Of(4, 1), {0, 32'768}, LatentPrompt(), small), Way::kRing)
      << "37 MB of latents do not fit";
}

TEST(CostRule, AloneNothingTravels) {
  EXPECT_EQ(ChooseWay(Of(1, 1), {0, 5000}, Gqa(), {}), Way::kRing);
}

// Of two ranks a tree brings the owner as many bytes as a gather does.
TEST(CostRule, BigResultsOfManyRanksComeUpATreeAndSmallOnesStraight) {
  const std::vector<ContextItem> one = {{131'071, 1}};
  const std::vector<ContextItem> many(64, {131'071, 1});  // all of one owner
  const Machine machine{.latency_s = 20e-6, .bytes_per_s = 1e9};
  EXPECT_EQ(ChooseMerge(Of(8, 16), {{100, 1}}, Gqa(), machine), Merge::kGather);
  EXPECT_EQ(ChooseMerge(Of(8, 16), many, Gqa(), machine), Merge::kTree);
  EXPECT_EQ(ChooseMerge(Of(2, 16), many, Gqa(), machine), Merge::kGather);
  EXPECT_EQ(ChooseMerge(Of(8, 16), one, Gqa(), {.latency_s = 1, .bytes_per_s = 1e9}),
            Merge::kGather);
}

}  // namespace
}  // namespace reprise::parallel
