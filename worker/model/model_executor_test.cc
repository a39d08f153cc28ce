// What the laws promise of the executor: bits that depend on nothing but a sequence's own tokens,
// and steps that are refused by name when they are wrong.
#include "worker/model/model_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <string>
#include <vector>

#include "worker/model/offline.h"
#include "worker/model/test_models.h"

namespace reprise::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

testing::AssertionResult SameBits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return testing::AssertionFailure() << a.size() << " vs " << b.size();
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) {
      return testing::AssertionFailure() << "element " << i << ": " << a[i] << " vs " << b[i];
    }
  }
  return testing::AssertionSuccess();
}

// Grouped heads, biases, scaled rotation, and room for several attention leaves.
ModelConfig LongConfig() {
  ModelConfig config = *PresetConfig("tiny-llama3");
  config.attention_bias = true;
  config.context = 2048;
  return config;
}

std::unique_ptr<OfflineModel> Open(const ModelExecutorOptions& options) {
  auto model = OfflineModel::Open(options);
  EXPECT_TRUE(model.ok()) << model.status();
  return std::move(*model);
}

struct RunResult {
  std::vector<float> logits;
  std::vector<uint8_t> pool;
};

RunResult RunWith(const ModelExecutorOptions& options, std::span<const int32_t> tokens,
                  int64_t chunk) {
  const auto model = Open(options);
  RunResult result{*model->ForwardAll(tokens, chunk), {}};
  result.pool.assign(model->pool().begin(), model->pool().end());
  return result;
}

std::vector<std::string> Isas() {
  std::vector<std::string> names;
  for (const kernels::Isa isa :
       {kernels::Isa::kScalar, kernels::Isa::kAvx2, kernels::Isa::kAvx512}) {
    if (kernels::Supported(isa)) names.emplace_back(kernels::IsaName(isa));
  }
  return names;
}

TEST(ModelExecutor, ChunksChangeNoBit) {
  for (const std::string dtype : {"bf16", "f32"}) {
    const ModelExecutorOptions options{.model_dir = TestModel(LongConfig(), {.dtype = dtype}),
                                       .block_tokens = 16};
    const std::vector<int32_t> tokens = RandomTokens(1100, 512, 1);
    const RunResult whole = RunWith(options, tokens, 0);
    for (const int64_t chunk : {1, 7, 64}) {
      const RunResult cut = RunWith(options, tokens, chunk);
      EXPECT_TRUE(SameBits(cut.logits, whole.logits)) << dtype << ", chunks of " << chunk;
      EXPECT_EQ(cut.pool, whole.pool) << dtype << ", chunks of " << chunk;
    }
  }
}

TEST(ModelExecutor, ThreadsAndInstructionSetsChangeNoBit) {
  for (const std::string dtype : {"bf16", "f32", "f16"}) {
    ModelExecutorOptions options{.model_dir = TestModel(LongConfig(), {.dtype = dtype})};
    const std::vector<int32_t> tokens = RandomTokens(600, 512, 2);
    const RunResult want = RunWith(options, tokens, 100);
    for (options.threads = 1; options.threads <= 3; ++options.threads) {
      for (const std::string& isa : Isas()) {
        options.isa = isa;
        const RunResult got = RunWith(options, tokens, 100);
        EXPECT_TRUE(SameBits(got.logits, want.logits))
            << dtype << " " << isa << " " << options.threads << " threads";
        EXPECT_EQ(got.pool, want.pool) << dtype << " " << isa << " " << options.threads;
      }
    }
  }
}

TEST(ModelExecutor, PageSizeChangesNoLogit) {
  ModelExecutorOptions options{.model_dir = TestModel(LongConfig())};
  const std::vector<int32_t> tokens = RandomTokens(600, 512, 3);
  const RunResult want = RunWith(options, tokens, 0);
  for (const int block_tokens : {1, 16, 100}) {
    options.block_tokens = block_tokens;
    EXPECT_TRUE(SameBits(RunWith(options, tokens, 90).logits, want.logits)) << block_tokens;
  }
}

TEST(ModelExecutor, TranscriptAsPromptGivesTheSameBits) {
  const auto model = Open({.model_dir = TestModel(LongConfig(), {.seed = 9})});
  const std::vector<int32_t> prompt = RandomTokens(70, 512, 4);
  std::vector<int32_t> tokens = prompt;
  std::vector<std::vector<float>> stepped;
  SamplingParams params;
  params.seed = 3;
  for (uint32_t step = 0; step < 80; ++step) {
    const size_t first = step == 0 ? 0 : tokens.size() - 1;
    const StepItem item{std::span(tokens).subspan(first), static_cast<int64_t>(first),
                        model->pages(), true};
    ASSERT_TRUE(model->executor().Run({&item, 1}, nullptr).ok());
    const std::span<const float> logits = model->executor().logits(0);
    stepped.emplace_back(logits.begin(), logits.end());
    tokens.push_back(model->executor().Sample(0, {&params, 0, step, prompt, {}}).id);
  }
  const std::vector<float> all = *model->ForwardAll(tokens);
  for (size_t i = 0; i < stepped.size(); ++i) {
    const auto row = std::span(all).subspan((prompt.size() - 1 + i) * 512, 512);
    ASSERT_TRUE(SameBits(stepped[i], row)) << "generated position " << i;
  }
}

// Three sequences on interleaved pages of one pool.
class Batch : public testing::Test {
 protected:
  static constexpr int32_t kPagesEach = 8;

  Batch() : executor_(*ModelExecutor::Create({.model_dir = TestModel(LongConfig())})) {
    pool_.resize(3 * kPagesEach * executor_->info().kv_format.block_bytes());
    executor_->AttachPool(pool_.data(), 3 * kPagesEach);
    for (int32_t s = 0; s < 3; ++s) {
      tokens_.push_back(RandomTokens(200, 512, 20 + static_cast<uint64_t>(s)));
      for (int32_t p = 0; p < kPagesEach; ++p) pages_[s].push_back(3 * p + s);
    }
  }

  StepItem Item(size_t s, size_t first, size_t n, bool output) const {
    return {std::span(tokens_[s]).subspan(first, n), static_cast<int64_t>(first), pages_[s],
            output};
  }
  // Runs the items together and returns the outputs in order.
  std::vector<std::vector<float>> Run(std::vector<StepItem> items) {
    const Status status = executor_->Run(items, nullptr);
    EXPECT_TRUE(status.ok()) << status;
    std::vector<std::vector<float>> outputs;
    for (const StepItem& item : items) {
      if (!item.wants_output) continue;
      const auto logits = executor_->logits(static_cast<int64_t>(outputs.size()));
      outputs.emplace_back(logits.begin(), logits.end());
    }
    return outputs;
  }

  std::unique_ptr<ModelExecutor> executor_;
  std::vector<uint8_t> pool_;
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<int32_t> pages_[3];
};

TEST_F(Batch, CompanyChangesNoBit) {
  // Alone: sequence 0 in one go, 1 as a prompt and a step, 2 as two chunks.
  const auto zero = Run({Item(0, 0, 150, true)});
  Run({Item(1, 0, 90, false)});
  const auto one = Run({Item(1, 90, 1, true)});
  Run({Item(2, 0, 64, false)});
  const auto two = Run({Item(2, 64, 33, true)});
  const std::vector<uint8_t> pool = pool_;

  std::fill(pool_.begin(), pool_.end(), uint8_t{0});
  Run({Item(2, 0, 64, false), Item(0, 0, 149, false), Item(1, 0, 90, false)});
  const auto together = Run({Item(1, 90, 1, true), Item(2, 64, 33, true), Item(0, 149, 1, true)});
  ASSERT_EQ(together.size(), 3u);
  EXPECT_TRUE(SameBits(together[0], one[0]));
  EXPECT_TRUE(SameBits(together[1], two[0]));
  EXPECT_TRUE(SameBits(together[2], zero[0]));
  EXPECT_EQ(pool_, pool);
}

TEST_F(Batch, OutputsAreThoseOfTheItemsThatWantThem) {
  const auto all = Run({Item(0, 0, 50, true), Item(1, 0, 60, true), Item(2, 0, 3, true)});
  const auto some = Run({Item(0, 0, 50, false), Item(1, 0, 60, true), Item(2, 0, 3, false)});
  ASSERT_EQ(some.size(), 1u);
  EXPECT_TRUE(SameBits(some[0], all[1])) << "dropping rows after the last layer's KV";
  // With every row wanted no row is dropped: the other path to the same logits.
  const StepItem item = Item(1, 0, 60, false);
  ASSERT_TRUE(executor_->RunAll({&item, 1}).ok());
  EXPECT_TRUE(SameBits(executor_->logits(59), all[1]));
}

TEST_F(Batch, SamplesFromTheItemsOwnLogits) {
  const auto outputs = Run({Item(0, 0, 5, false), Item(1, 0, 6, true), Item(2, 0, 7, true)});
  SamplingParams params;
  params.temperature = 0;
  const auto best = [](const std::vector<float>& logits) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  };
  EXPECT_EQ(executor_->Sample(1, {&params, 0, 0, {}, {}}).id, best(outputs[0]));
  EXPECT_EQ(executor_->Sample(2, {&params, 0, 0, {}, {}}).id, best(outputs[1]));
  params.logit_bias = {{3, 100.0f}};
  EXPECT_EQ(executor_->Sample(1, {&params, 0, 0, {}, {}}).id, 3);
  params.logit_bias.clear();
  EXPECT_EQ(executor_->Sample(1, {&params, 1, 0, {}, {}}).id, best(outputs[0]))
      << "one branch's adjustments must not reach the next";
}

TEST_F(Batch, ReportsEachLayerOnceItsRowsAreWritten) {
  const auto& format = executor_->info().kv_format;
  std::vector<uint32_t> layers;
  const auto written = [&](uint32_t layer) {
    const uint8_t* segment = pool_.data() + layer * format.segment_bytes();  // of page 0
    return std::any_of(segment, segment + format.segment_bytes(), [](uint8_t b) { return b != 0; });
  };
  const StepItem item = Item(0, 0, 10, true);
  const Status status = executor_->Run({&item, 1}, [&](uint32_t layer) {
    layers.push_back(layer);
    EXPECT_TRUE(written(layer));
    if (layer + 1 < format.layers) EXPECT_FALSE(written(layer + 1));
  });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(layers, ElementsAre(0, 1));
}

TEST_F(Batch, RefusesWrongStepsByName) {
  const auto refusal = [&](const StepItem& item) {
    const std::vector<uint8_t> before = pool_;
    const std::vector<StepItem> items = {Item(1, 0, 4, true), item};
    const Status status = executor_->Run(items, nullptr);
    EXPECT_EQ(pool_, before) << "a refused step writes nothing";
    return std::string(status.message());
  };
  const std::vector<int32_t> foreign = {512}, far = {24}, negative = {-1}, one = {1};
  EXPECT_THAT(refusal(Item(0, 0, 0, true)), HasSubstr("step item 1: it holds no tokens"));
  EXPECT_THAT(refusal({foreign, 0, pages_[0], true}), HasSubstr("token 512 is outside"));
  EXPECT_THAT(refusal({negative, 0, pages_[0], true}), HasSubstr("token -1 is outside"));
  EXPECT_THAT(refusal({one, 0, far, true}), HasSubstr("page 24 is outside the pool of 24"));
  EXPECT_THAT(refusal({one, 512, pages_[0], true}), HasSubstr("has 8 of 9 pages"));
  EXPECT_THAT(refusal({one, 2048, pages_[0], true}), HasSubstr("exceed the context of 2048"));
  EXPECT_THAT(refusal({one, -1, pages_[0], true}), HasSubstr("positions -1 + 1"));
  EXPECT_THAT(executor_->Run({}, nullptr).message(), HasSubstr("at least one item"));
}

TEST(ModelExecutor, NeedsAPool) {
  const auto executor = ModelExecutor::Create({.model_dir = TestModel("tiny")});
  ASSERT_TRUE(executor.ok()) << executor.status();
  const std::vector<int32_t> one = {1}, page = {0};
  const StepItem item{one, 0, page, true};
  EXPECT_EQ((*executor)->Run({&item, 1}, nullptr).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ModelExecutor, DescribesItsCache) {
  const auto executor = MakeModelExecutor(
      {.model_dir = TestModel("tiny") + "/", .block_tokens = 32, .chunk_tokens = 48});
  ASSERT_TRUE(executor.ok()) << executor.status();
  const ExecutorInfo& info = (*executor)->info();
  EXPECT_THAT(info.model_name, testing::StartsWith("model_"));
  EXPECT_EQ(info.vocab_size, 512);
  EXPECT_EQ(info.context_tokens, 512);
  EXPECT_EQ(info.chunk_tokens_max, 48);
  EXPECT_EQ(info.kv_format.codec, kv::ElementCodec::kBF16);
  EXPECT_EQ(info.kv_format.row_elements(), 2u * 2 * 16);
  EXPECT_EQ(info.kv_format.block_bytes(), 2u * 32 * 64 * 2);
  EXPECT_EQ(info.kv_format.fields[0].name, "k");
  EXPECT_TRUE(info.kv_format.fields[0].position_bearing);
  EXPECT_FALSE(info.kv_format.fields[1].position_bearing);
}

TEST(ModelExecutor, ClassNamesTheArithmeticAndNotTheMachine) {
  const std::string dir = TestModel("tiny");
  const auto digest = [&](ModelExecutorOptions options) {
    options.model_dir = dir;
    return (*ModelExecutor::Create(options))->info().kv_format.numerics_class;
  };
  const Digest256 want = digest({});
  for (const std::string& isa : Isas()) EXPECT_EQ(digest({.isa = isa}), want) << isa;
  EXPECT_EQ(digest({.threads = 2}), want);
  EXPECT_NE(digest({.kv_dtype = "f32"}), want);
  EXPECT_NE(digest({.kv_dtype = "f16"}), digest({.kv_dtype = "f32"}));
}

TEST(ModelExecutor, FingerprintNamesTheModelAndNotItsFiles) {
  const auto fingerprint = [](const std::string& dir) {
    const auto executor = ModelExecutor::Create({.model_dir = dir});
    EXPECT_TRUE(executor.ok()) << executor.status();
    return (*executor)->info().kv_format.model_fingerprint;
  };
  const Digest256 single = fingerprint(TestModel("tiny-bias", {.seed = 1}));
  EXPECT_EQ(fingerprint(TestModel("tiny-bias", {.seed = 1, .shards = 3})), single);
  EXPECT_NE(fingerprint(TestModel("tiny-bias", {.seed = 2})), single);
  EXPECT_NE(fingerprint(TestModel("tiny-bias", {.seed = 1, .dtype = "f32"})), single);
  ModelConfig config = *PresetConfig("tiny-bias");
  config.rope_theta = 20000;
  EXPECT_NE(fingerprint(TestModel(config, {.seed = 1})), single);
}

TEST(ModelExecutor, RefusesWrongOptionsByName) {
  const std::string dir = TestModel("tiny");
  const auto refusal = [&](ModelExecutorOptions options) {
    if (options.model_dir.empty()) options.model_dir = dir;
    return std::string(ModelExecutor::Create(options).status().message());
  };
  EXPECT_THAT(refusal({.kv_dtype = "fp8"}),
              HasSubstr("kv_dtype \"fp8\" is for workers on a device"));
  EXPECT_THAT(refusal({.kv_dtype = "int8"}), HasSubstr("kv_dtype \"int8\" is not one of"));
  EXPECT_THAT(refusal({.isa = "sse"}), HasSubstr("isa \"sse\""));
  EXPECT_THAT(refusal({.threads = 0}), HasSubstr("threads is 0, the range is 1 to 256"));
  EXPECT_THAT(refusal({.block_tokens = 2000}), HasSubstr("block_tokens is 2000"));
  EXPECT_THAT(refusal({.chunk_tokens = -1}), HasSubstr("chunk_tokens is -1"));
  EXPECT_THAT(refusal({.model_dir = "/nowhere"}), HasSubstr("/nowhere/config.json"));
}

TEST(ModelExecutor, BoundsChunksByTheTimeOfALayer) {
  const auto bound = [](const char* preset, kernels::Isa isa, int threads) {
    return AutoChunk(*PresetConfig(preset), isa, threads);
  };
  const auto chunk = [&](const char* preset, kernels::Isa isa, int threads) {
    return bound(preset, isa, threads).tokens;
  };
  const auto chunk_at = [&](const char* preset, int64_t first) {
    const ChunkBound b = bound(preset, kernels::Isa::kAvx512, 2);
    return ChunkBudget(b.tokens, b.cost).Take(first, INT32_MAX);
  };
  EXPECT_EQ(chunk("tiny", kernels::Isa::kAvx512, 1), 512);
  EXPECT_LT(chunk("llama-8b", kernels::Isa::kAvx2, 1), 16);
  EXPECT_GE(chunk("llama-8b", kernels::Isa::kScalar, 1), 1);
  EXPECT_EQ(chunk("deepseek-v3", kernels::Isa::kAvx512, 1), 256) << "its layers tick within";
  EXPECT_GT(chunk_at("llama-1b", 0), 64) << "a long context does not shorten its first chunks";
  EXPECT_LT(chunk_at("llama-1b", 100'000), 16);
  EXPECT_GE(chunk_at("llama-1b", 131'000), 1);
  EXPECT_GT(chunk("llama-1b", kernels::Isa::kAvx512, 4), chunk("llama-1b", kernels::Isa::kAvx2, 4));
}

}  // namespace
}  // namespace reprise::worker
