// Every family beside Llama against the reference's logits (tests/golden/make_golden.py), and
// against itself: the form of a row follows from its position, its bits from nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/test_data.h"
#include "worker/model/golden_logits.h"
#include "worker/model/model_executor.h"

namespace reprise::worker {
namespace {

constexpr int kBlock = 16;
constexpr int kPages = 12;

std::string FolderOf(const std::string& name) { return ProjectFile("tests/golden/" + name); }

GoldenLogits ReadGolden(const std::string& name) {
  auto golden = ReadGoldenLogits(FolderOf(name));
  EXPECT_TRUE(golden.ok()) << golden.status();
  return *std::move(golden);
}

class Model {
 public:
  explicit Model(const std::string& name, ModelExecutorOptions options = {}) {
    options.model_dir = FolderOf(name);
    options.block_tokens = kBlock;
    auto executor = ModelExecutor::Create(options);
    EXPECT_TRUE(executor.ok()) << executor.status();
    executor_ = *std::move(executor);
    pool_.resize(kPages * executor_->info().kv_format.block_bytes());
    executor_->AttachPool(pool_.data(), kPages);
    for (int32_t p = kPages; p-- > 0;) pages_.push_back(p);
  }

  // Logits of all positions, computed in chunks of these sizes, the last repeated.
  std::vector<float> Logits(const std::vector<int32_t>& tokens, const std::vector<size_t>& chunks,
                            int64_t prompt_end = INT64_MAX) {
    std::vector<float> logits;
    size_t next = 0;
    for (size_t first = 0; first < tokens.size();) {
      const size_t n = std::min(chunks[std::min(next++, chunks.size() - 1)], tokens.size() - first);
      const std::vector<StepItem> items = {{std::span(tokens).subspan(first, n),
                                            static_cast<int64_t>(first), pages_, true, prompt_end}};
      const Status status = executor_->RunAll(items);
      EXPECT_TRUE(status.ok()) << status;
      for (size_t i = 0; i < n; ++i) {
        const auto row = executor_->logits(static_cast<int64_t>(i));
        logits.insert(logits.end(), row.begin(), row.end());
      }
      first += n;
    }
    return logits;
  }

  const std::vector<uint8_t>& pool() const { return pool_; }
  ModelExecutor& executor() { return *executor_; }

 private:
  std::unique_ptr<ModelExecutor> executor_;
  std::vector<uint8_t> pool_;
  std::vector<int32_t> pages_;
};

class FamiliesTest : public ::testing::TestWithParam<const char*> {};

TEST_P(FamiliesTest, PromptFormAgreesWithTheReference) {
  const GoldenLogits golden = ReadGolden(GetParam());
  Model model(GetParam());
  const double error =
      RelativeLogitError(model.Logits(golden.tokens, {golden.tokens.size()}), golden.logits);
  RecordProperty("error", std::to_string(error));
  EXPECT_LT(error, kGoldenErrorMax);
}

TEST_P(FamiliesTest, StepFormAgreesWithTheReference) {
  const GoldenLogits golden = ReadGolden(GetParam());
  Model model(GetParam());
  const double error = RelativeLogitError(model.Logits(golden.tokens, {20, 1}, 20), golden.logits);
  RecordProperty("error", std::to_string(error));
  EXPECT_LT(error, kGoldenErrorMax);
}

TEST_P(FamiliesTest, BitsDoNotDependOnChunksThreadsOrInstructionSet) {
  const GoldenLogits golden = ReadGolden(GetParam());
  constexpr int64_t kPromptEnd = 100;
  Model first(GetParam(), {.kv_dtype = "bf16"});
  const std::vector<float> want = first.Logits(golden.tokens, {golden.tokens.size()}, kPromptEnd);
  for (const char* isa : {"scalar", "avx2", "avx512"}) {
    if (!ModelExecutor::Create({.model_dir = FolderOf(GetParam()), .isa = isa}).ok()) continue;
    for (const std::vector<size_t>& chunks :
         {std::vector<size_t>{7}, std::vector<size_t>{64, 36, 1}, std::vector<size_t>{99, 3}}) {
      Model model(GetParam(), {.kv_dtype = "bf16", .threads = 2, .isa = isa});
      const std::vector<float> found = model.Logits(golden.tokens, chunks, kPromptEnd);
      ASSERT_EQ(found.size(), want.size());
      EXPECT_EQ(std::memcmp(found.data(), want.data(), want.size() * sizeof(float)), 0) << isa;
      EXPECT_EQ(model.pool(), first.pool()) << isa;
    }
  }
}

// One multiply-add a piece: every row of a product is one, and every row and head of attention.
TEST_P(FamiliesTest, PiecesOfALayerTickAndChangeNoBit) {
  const GoldenLogits golden = ReadGolden(GetParam());
  constexpr int64_t kPromptEnd = 100;
  Model whole(GetParam());
  Model pieces(GetParam(), {.threads = 2, .piece_macs = 1});
  const auto count = [&](Model& model) {
    int64_t ticks = 0;
    model.executor().SetTick([&ticks] { ++ticks; });
    const auto logits = model.Logits(golden.tokens, {golden.tokens.size()}, kPromptEnd);
    model.executor().SetTick(nullptr);
    return std::pair(ticks, logits);
  };
  const auto [none, want] = count(whole);
  const auto [many, found] = count(pieces);
  EXPECT_EQ(none, 0) << "a layer of this size takes no time";
  EXPECT_GT(many, static_cast<int64_t>(golden.tokens.size()) * 10);
  ASSERT_EQ(found.size(), want.size());
  EXPECT_EQ(std::memcmp(found.data(), want.data(), want.size() * sizeof(float)), 0);
  EXPECT_EQ(pieces.pool(), whole.pool());
}

INSTANTIATE_TEST_SUITE_P(All, FamiliesTest,
                         testing::Values("deepseek-v2-lite", "deepseek-v2", "deepseek-v3",
                                         "deepseek-v3-fp8", "mixtral", "qwen3-moe"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Families, LatentModelsSayThatTheyHaveTwoForms) {
  EXPECT_TRUE(Model("deepseek-v3").executor().info().two_forms);
  EXPECT_FALSE(Model("mixtral").executor().info().two_forms);
}

TEST(Families, ALostLogitIsInfinitelyFar) {
  const std::vector<float> want = {3, 4};
  EXPECT_DOUBLE_EQ(RelativeLogitError(std::vector<float>{3, 5}, want), 1 / std::sqrt(12.5));
  EXPECT_EQ(RelativeLogitError(std::vector<float>{3, NAN}, want), INFINITY);
  EXPECT_EQ(RelativeLogitError(std::vector<float>{3}, want), INFINITY);
}

TEST(Families, ALatentCacheIsSmall) {
  const kv::KvFormat format = Model("deepseek-v2").executor().info().kv_format;
  ASSERT_EQ(format.fields.size(), 2u);
  EXPECT_EQ(format.fields[0].name, "c_kv");
  EXPECT_EQ(format.fields[1].name, "k_rope");
  EXPECT_EQ(format.row_elements(), 48u);
}

}  // namespace
}  // namespace reprise::worker
