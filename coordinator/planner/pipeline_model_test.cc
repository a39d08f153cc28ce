#include "coordinator/planner/pipeline_model.h"

#include <gtest/gtest.h>

#include <numeric>

#include "common/percentile.h"

namespace reprise::planner {
namespace {

constexpr int kMicrobatches = 400;

PipelineLoad Load(double ratio, std::vector<int> tokens) {
  return {
      .prompt_s = ratio, .token_s = 1, .stream_overhead = 1.02, .new_tokens = std::move(tokens)};
}

double FixedGain(int machines, double ratio, int tokens) {
  return SimulateBestSplit(machines, Load(ratio, std::vector<int>(kMicrobatches, tokens))).gain();
}

double LognormalGain(int machines, double ratio, double mean) {
  std::vector<double> gains;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    gains.push_back(
        SimulateBestSplit(
            machines,
            Load(ratio, LognormalLengths({.count = kMicrobatches, .mean = mean, .seed = seed})))
            .gain());
  }
  return Median(gains);
}

// The table of docs/planner.md, which an independent model of the same rules gave.
TEST(PipelineModel, ReproducesTheTableOfGains) {
  const struct {
    int machines;
    double ratio;
    double fixed_200;
    double lognormal_100;
    double lognormal_205;
    double fixed_1000;
  } rows[] = {
      {4, 28, 0.93, 1.51, 1.14, 0.78},  {4, 50, 1.07, 1.46, 1.45, 0.81},
      {6, 28, 1.04, 1.70, 1.46, 0.88},  {6, 50, 0.97, 2.39, 1.58, 0.91},
      {6, 100, 1.24, 3.16, 2.40, 0.98}, {8, 50, 1.08, 2.79, 2.05, 0.94},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(testing::Message() << row.machines << " machines, Y/t " << row.ratio);
    EXPECT_NEAR(FixedGain(row.machines, row.ratio, 200), row.fixed_200, 0.01);
    EXPECT_NEAR(FixedGain(row.machines, row.ratio, 1000), row.fixed_1000, 0.01);
    EXPECT_NEAR(LognormalGain(row.machines, row.ratio, 100) / row.lognormal_100, 1, 0.05);
    EXPECT_NEAR(LognormalGain(row.machines, row.ratio, 205) / row.lognormal_205, 1, 0.05);
  }
}

TEST(PipelineModel, OneStageIsASum) {
  const PipelineLoad load = Load(10, {3, 5});
  EXPECT_DOUBLE_EQ(SimulateMixed(1, load), 10 + 3 + 10 + 5);
  EXPECT_DOUBLE_EQ(SimulateSplit({1, 1}, load), 20.4 + 5);  // the second prompt, then its tokens
}

TEST(PipelineModel, AFullPipelineKeepsEveryStageBusy) {
  // Four equal microbatches: each pays one prompt of its own and, at the start, the three before
  // it.
  const PipelineLoad load = Load(4, std::vector<int>(4, 100));
  EXPECT_NEAR(SimulateMixed(4, load), 4 + 100 + 3 * (4 - 1) / 4.0 + 3 / 4.0, 1.01);
}

TEST(PipelineModel, APromptStallsEverythingBehindIt) {
  // One long microbatch and short ones that keep arriving beside it.
  std::vector<int> tokens(20, 5);
  tokens[0] = 100;
  const PipelineLoad load = Load(50, tokens);
  const SimulatedGain gain = SimulateBestSplit(2, load);
  EXPECT_GT(gain.mixed_s, 19 * 50.0 / 2);
  EXPECT_EQ(gain.split.prompt_machines + gain.split.token_machines, 2);
}

TEST(PipelineModel, LengthsHaveTheMeanAskedForAndDependOnTheSeedAlone) {
  const LengthOptions options{.count = 20'000, .mean = 100, .seed = 3};
  const std::vector<int> lengths = LognormalLengths(options);
  const double mean =
      std::accumulate(lengths.begin(), lengths.end(), 0.0) / static_cast<double>(lengths.size());
  EXPECT_NEAR(mean, 100, 3);
  EXPECT_EQ(lengths, LognormalLengths(options));
  for (const int n : lengths) {
    ASSERT_GE(n, 1);
    ASSERT_LE(n, options.tokens_max);
  }
  LengthOptions other = options;
  other.seed = 4;
  EXPECT_NE(lengths, LognormalLengths(other));
}

}  // namespace
}  // namespace reprise::planner
