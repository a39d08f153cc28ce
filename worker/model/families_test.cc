// Every family beside Llama against the reference's logits (tests/golden/make_golden.py), and
// against itself: the form of a row follows from its position, its bits from nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "common/json.h"
#include "common/test_data.h"
#include "worker/model/model_executor.h"
#include "worker/model/safetensors.h"

namespace reprise::worker {
namespace {

constexpr int kBlock = 16;
constexpr int kPages = 12;

struct Golden {
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // [tokens, vocab]
};

std::string FolderOf(const std::string& name) { return ProjectFile("tests/golden/" + name); }

Golden ReadGolden(const std::string& name) {
  Golden golden;
  std::ifstream in(FolderOf(name) + "/golden.json");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto doc = ParseJson(text);
  EXPECT_TRUE(doc.ok()) << doc.status();
  for (const JsonValue& token : (*doc)["tokens"].GetArray()) {
    golden.tokens.push_back(token.GetInt());
  }
  const auto file = SafetensorsFile::Open(FolderOf(name) + "/golden.safetensors");
  EXPECT_TRUE(file.ok()) << file.status();
  const TensorView& logits = file->header().tensors.at("logits");
  golden.logits.resize(logits.elements());
  std::memcpy(golden.logits.data(), logits.bytes.data(), logits.bytes.size());
  return golden;
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

// The largest difference over the spread of the wanted ones.
double RelativeError(const std::vector<float>& found, const std::vector<float>& want) {
  EXPECT_EQ(found.size(), want.size());
  double error = 0;
  double squares = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error = std::max(error, std::abs(static_cast<double>(found[i]) - want[i]));
    squares += static_cast<double>(want[i]) * want[i];
  }
  return error / std::sqrt(squares / static_cast<double>(want.size()));
}

class FamiliesTest : public ::testing::TestWithParam<const char*> {};

// f32 weights and cache: what is left is the rounding of three layers in f32. 2e-5 is some 300
// roundings of the largest logit.
constexpr double kErrorMax = 2e-5;

TEST_P(FamiliesTest, PromptFormAgreesWithTheReference) {
  const Golden golden = ReadGolden(GetParam());
  Model model(GetParam());
  const double error =
      RelativeError(model.Logits(golden.tokens, {golden.tokens.size()}), golden.logits);
  RecordProperty("error", std::to_string(error));
  EXPECT_LT(error, kErrorMax);
}

TEST_P(FamiliesTest, StepFormAgreesWithTheReference) {
  const Golden golden = ReadGolden(GetParam());
  Model model(GetParam());
  const double error = RelativeError(model.Logits(golden.tokens, {20, 1}, 20), golden.logits);
  RecordProperty("error", std::to_string(error));
  EXPECT_LT(error, kErrorMax);
}

TEST_P(FamiliesTest, BitsDoNotDependOnChunksThreadsOrInstructionSet) {
  const Golden golden = ReadGolden(GetParam());
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
  const Golden golden = ReadGolden(GetParam());
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

TEST(Families, ALatentCacheIsSmall) {
  const kv::KvFormat format = Model("deepseek-v2").executor().info().kv_format;
  ASSERT_EQ(format.fields.size(), 2u);
  EXPECT_EQ(format.fields[0].name, "c_kv");
  EXPECT_EQ(format.fields[1].name, "k_rope");
  EXPECT_EQ(format.row_elements(), 48u);
}

}  // namespace
}  // namespace reprise::worker
