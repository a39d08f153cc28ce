// The stage processes with few tokens: what they move arrives, and a killed one loses nothing.
#include "bench/dejavu_run.h"

#include <gtest/gtest.h>

namespace reprise::bench {
namespace {

constexpr char kProgram[] = "bench/dejavu_bench";

DejavuRunOptions FewTokens() {
  return {.program = kProgram,
          .stages = 3,
          .split = {},
          .prompt_s = 0.03,
          .token_s = 0.006,
          .prompt_rows = 8,
          .row_bytes = 4096,
          .new_tokens = {20, 30, 20, 10, 15},
          .replicate = false,
          .kills = {},
          .swap_bytes_per_s = 0};
}

TEST(DejavuRun, EveryRowReachesTheNeighbour) {
  DejavuRunOptions options = FewTokens();
  options.replicate = true;
  const auto result = RunDejavu(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->tokens, 95);
  EXPECT_GT(result->rows_from_peers, 0);
  EXPECT_EQ(result->rows_wrong, 0);
  EXPECT_EQ(result->steps_repeated, 0);
}

TEST(DejavuRun, AKilledStageComesBackAtTheWatermark) {
  DejavuRunOptions options = FewTokens();
  options.replicate = true;
  options.new_tokens = {60, 60, 60, 60};
  options.token_s = 0.02;
  options.kills = {{.stage = 1, .after_tokens = 20, .at_s = 0},
                   {.stage = 2, .after_tokens = 40, .at_s = 0}};
  const auto result = RunDejavu(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->tokens, 240);
  EXPECT_EQ(result->recover_s.size(), 2u);
  EXPECT_GT(result->rows_restored, 0);
  EXPECT_EQ(result->rows_wrong, 0);
}

TEST(DejavuRun, WithoutReplicasEverythingInFlightBeginsAgain) {
  DejavuRunOptions options = FewTokens();
  options.new_tokens = {60, 60, 60};
  options.kills = {{.stage = 0, .after_tokens = 30, .at_s = 0}};
  const auto result = RunDejavu(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->tokens, 180);
  EXPECT_EQ(result->rows_restored, 0);
  EXPECT_GE(result->steps_repeated, 3 * 29);
}

TEST(DejavuRun, ASplitMovesEveryPromptRowOnce) {
  DejavuRunOptions options = FewTokens();
  options.split = planner::Split{.prompt_machines = 2, .token_machines = 1};
  const auto one = RunDejavu(options);
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->tokens, 95);
  EXPECT_EQ(one->rows_from_peers, 5 * 8);
  EXPECT_EQ(one->rows_wrong, 0);
  options.stages = 5;
  options.split = planner::Split{.prompt_machines = 2, .token_machines = 3};
  const auto three = RunDejavu(options);
  ASSERT_TRUE(three.ok()) << three.status();
  EXPECT_EQ(three->rows_from_peers, 5 * 8);
  EXPECT_EQ(three->rows_wrong, 0);
}

TEST(DejavuRun, SwappedMicrobatchesComputeOnTheirOwnRows) {
  DejavuRunOptions options = FewTokens();
  options.stages = 4;
  options.new_tokens = {10, 10, 10, 10};
  options.swap_bytes_per_s = 1'000'000'000;
  const auto result = RunDejavu(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->tokens, 40);
  EXPECT_EQ(result->rows_wrong, 0);
}

TEST(DejavuRun, AKillThatIsNeverDueIsAnError) {
  DejavuRunOptions options = FewTokens();
  options.kills = {{.stage = 1, .after_tokens = 0, .at_s = 1e6}};
  EXPECT_EQ(RunDejavu(options).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(DejavuRun, AProgramThatIsNoStageIsAnError) {
  DejavuRunOptions options = FewTokens();
  options.program = "/nowhere/stage";
  EXPECT_FALSE(RunDejavu(options).ok());
}

}  // namespace
}  // namespace reprise::bench
