#include "worker/engine/timed_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "common/clock.h"
#include "common/random.h"

namespace reprise::worker {
namespace {

constexpr int32_t kPages = 32;

struct Rig {
  explicit Rig(TimedOptions options = {}) {
    if (options.model.block_tokens == 64) options.model.block_tokens = 4;
    model = options.model;
    executor = std::move(*TimedExecutor::Create(options));
    memory.assign(executor->info().kv_format.block_bytes() * kPages, 0xAB);
    executor->AttachPool(memory.data(), kPages);
  }
  // Rows [first, last) of `tokens` on `pages`.
  Status Run(const std::vector<int32_t>& tokens, const std::vector<int32_t>& pages, size_t first,
             size_t last) {
    StepItem item;
    item.tokens = std::span(tokens).subspan(first, last - first);
    item.first_position = static_cast<int64_t>(first);
    item.pages = pages;
    item.wants_output = true;
    return executor->Run({&item, 1}, nullptr);
  }
  TimedModel model;
  std::unique_ptr<TimedExecutor> executor;
  std::vector<uint8_t> memory;
};

SamplingParams Params(int32_t max_tokens) {
  SamplingParams params;
  params.seed = 42;
  params.max_tokens = max_tokens;
  return params;
}

std::vector<int32_t> Ids(const std::vector<SampledToken>& tokens) {
  std::vector<int32_t> ids;
  ids.reserve(tokens.size());
  for (const SampledToken& token : tokens) ids.push_back(token.id);
  return ids;
}

// Prompt in chunks of `chunk` on scattered pages, then one row at a time.
std::vector<int32_t> Generate(Rig& rig, std::vector<int32_t> tokens, const SamplingParams& params,
                              size_t chunk) {
  std::vector<int32_t> pages(kPages);
  std::iota(pages.rbegin(), pages.rend(), 0);
  const size_t prompt = tokens.size();
  for (size_t at = 0; at < prompt; at += chunk) {
    EXPECT_TRUE(rig.Run(tokens, pages, at, std::min(prompt, at + chunk)).ok());
  }
  std::vector<int32_t> generated;
  SampleInput input;
  input.params = &params;
  for (;;) {
    input.index = static_cast<uint32_t>(generated.size());
    generated.push_back(rig.executor->Sample(0, input).id);
    if (static_cast<int32_t>(generated.size()) == params.max_tokens) return generated;
    tokens.push_back(generated.back());
    EXPECT_TRUE(rig.Run(tokens, pages, tokens.size() - 1, tokens.size()).ok());
  }
}

TEST(TimedExecutor, AnyChunkingGivesTheExpectedTokens) {
  const std::vector<int32_t> prompt = {5, 1, 4, 1, 5, 9, 2, 6, 5, 3};
  const SamplingParams params = Params(20);
  for (const size_t chunk : {1, 3, 4, 10}) {
    SCOPED_TRACE(chunk);
    Rig rig;
    EXPECT_EQ(Generate(rig, prompt, params, chunk),
              Ids(ExpectedTimedTokens(rig.model, prompt, params, 0)));
  }
}

TEST(TimedExecutor, OneFlippedBitInAnyRowChangesTheToken) {
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6, 7};
  const std::vector<int32_t> pages = {9, 3};
  const SamplingParams params = Params(1);
  SampleInput input;
  input.params = &params;
  Rig rig;
  ASSERT_TRUE(rig.Run(tokens, pages, 0, 6).ok());
  ASSERT_TRUE(rig.Run(tokens, pages, 6, 7).ok());
  const float clean = rig.executor->Sample(0, input).logprob;
  const size_t block = rig.executor->info().kv_format.block_bytes();
  const size_t segment = block / rig.model.layers;
  for (uint32_t layer = 0; layer < rig.model.layers; ++layer) {
    for (size_t row = 0; row < 6; ++row) {
      const size_t at = static_cast<size_t>(pages[row / 4]) * block + layer * segment +
                        (row % 4) * rig.model.row_bytes + 8 * layer + row;
      rig.memory[at] ^= 0x10;
      ASSERT_TRUE(rig.Run(tokens, pages, 6, 7).ok());
      EXPECT_NE(rig.executor->Sample(0, input).logprob, clean)
          << "layer " << layer << " row " << row;
      rig.memory[at] ^= 0x10;
    }
  }
  ASSERT_TRUE(rig.Run(tokens, pages, 6, 7).ok());
  EXPECT_EQ(rig.executor->Sample(0, input).logprob, clean);
}

TEST(TimedExecutor, BranchesAndSeedsDrawApart) {
  const std::vector<int32_t> prompt = {1, 2, 3};
  TimedModel model;
  SamplingParams params = Params(8);
  const auto one = Ids(ExpectedTimedTokens(model, prompt, params, 0));
  EXPECT_NE(one, Ids(ExpectedTimedTokens(model, prompt, params, 1)));
  params.seed = 43;
  EXPECT_NE(one, Ids(ExpectedTimedTokens(model, prompt, params, 0)));
}

TEST(TimedExecutor, EndOfSequenceIsBarredBeforeMinTokensAndEndsAfter) {
  const std::vector<int32_t> prompt = {1, 2, 3};
  TimedModel model;
  model.vocab_size = 4;
  SamplingParams params = Params(50);
  params.eos_ids = {0, 1};
  params.min_tokens = 10;
  const auto ids = Ids(ExpectedTimedTokens(model, prompt, params, 0));
  ASSERT_GT(ids.size(), 10u);
  ASSERT_LT(ids.size(), 50u);
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_GE(ids[i], 2) << i;
  EXPECT_LT(ids.back(), 2);
}

TEST(TimedExecutor, TheContextEndsTheExpectation) {
  TimedModel model;
  model.context_tokens = 8;
  const std::vector<int32_t> prompt = {1, 2, 3};
  EXPECT_EQ(ExpectedTimedTokens(model, prompt, Params(50), 0).size(), 5u);
}

TEST(TimedExecutor, LayersAreAnnouncedInOrderOverTheSetTime) {
  TimedOptions options;
  options.step_ms = 4;
  Rig rig(options);
  const std::vector<int32_t> tokens = {1};
  const std::vector<int32_t> pages = {0};
  StepItem item;
  item.tokens = tokens;
  item.pages = pages;
  std::vector<uint32_t> layers;
  const TimeNs start = RealClock().NowNs();
  ASSERT_TRUE(rig.executor
                  ->Run({&item, 1},
                        [&](uint32_t layer) {
                          layers.push_back(layer);
                          EXPECT_GE(RealClock().NowNs() - start,
                                    static_cast<TimeNs>(layer + 1) * kMillisecond);
                        })
                  .ok());
  EXPECT_THAT(layers, testing::ElementsAre(0, 1, 2, 3));
}

TEST(TimedExecutor, HiddenWorkDoesNotDelayTheNextStep) {
  EXPECT_EQ(TimedStepBegin(100, 0, 1), 100);  // the first
  const int64_t due = 50 * kMillisecond;
  EXPECT_EQ(TimedStepBegin(due + kMillisecond, due, 0), due + kMillisecond);
  EXPECT_EQ(TimedStepBegin(due + kMillisecond, due, 1), due);
  EXPECT_EQ(TimedStepBegin(due + kMillisecond + 1, due, 1), due + kMillisecond + 1);
  EXPECT_EQ(TimedStepBegin(due - 1, due, 1), due - 1);
}

TEST(TimedExecutor, RowsWithoutPagesAreRefusedByName) {
  Rig rig;
  const Status status = rig.Run({1, 2, 3, 4, 5}, {0}, 0, 5);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("[0, 5)"));
  EXPECT_FALSE(rig.Run({1}, {kPages}, 0, 1).ok());
}

TEST(TimedExecutor, BadSettingsAreRefusedByName) {
  TimedOptions options;
  options.model.row_bytes = 12;
  EXPECT_THAT(std::string(TimedExecutor::Create(options).status().message()),
              testing::HasSubstr("row_bytes is 12"));
}

}  // namespace
}  // namespace reprise::worker
