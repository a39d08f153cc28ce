#include "worker/model/make_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "common/crc32c.h"
#include "common/json.h"
#include "kernels/philox.h"
#include "worker/model/check_model.h"
#include "worker/model/model_folder.h"
#include "worker/model/offline.h"
#include "worker/model/test_models.h"

namespace reprise::worker {
namespace {

using testing::HasSubstr;

std::string Read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(MakeModel, EveryPresetReadsBack) {
  for (const std::string& name : PresetNames()) {
    const ModelConfig config = *PresetConfig(name);
    const auto parsed = ParseModelConfig(ConfigJson(config));
    ASSERT_TRUE(parsed.ok()) << name << ": " << parsed.status();
    EXPECT_EQ(*parsed, config) << name;
  }
  EXPECT_EQ(PresetConfig("llama-160m")->parameters(), 162'417'408);
  EXPECT_EQ(PresetConfig("llama-1b")->parameters(), 1'235'814'400);
  EXPECT_EQ(PresetConfig("llama-8b")->parameters(), 8'030'261'248);
  EXPECT_EQ(PresetConfig("deepseek-v2-lite")->parameters(), 15'706'484'224);
  EXPECT_EQ(PresetConfig("deepseek-v2")->parameters(), 235'741'434'880);
  EXPECT_EQ(PresetConfig("deepseek-v3")->parameters(), 671'026'419'200);
  EXPECT_EQ(PresetConfig("mixtral-8x7b")->parameters(), 46'702'792'704);
  EXPECT_EQ(PresetConfig("qwen3-30b-a3b")->parameters(), 30'532'122'624);
}

TEST(MakeModel, BytesAreAFunctionOfTheSeed) {
  const std::string a = Read(TestModel("tiny", {.seed = 1}) + "/model.safetensors");
  EXPECT_EQ(Read(TestModel("tiny", {.seed = 1}) + "/model.safetensors"), a);
  EXPECT_NE(Read(TestModel("tiny", {.seed = 2}) + "/model.safetensors"), a);
  EXPECT_EQ(Crc32c(a.data(), a.size()), 2421731184u)
      << "a preset and seed name the same bytes for ever";
}

// A tensor of two pieces, in one file and in three.
TEST(MakeModel, ThreadsChangeNoByte) {
  const ModelConfig config = *Resized(*PresetConfig("tiny"), {.vocab = 40'000});
  for (const int shards : {1, 3}) {
    const std::string alone = TestModel(config, {.shards = shards, .threads = 1});
    const std::string together = TestModel(config, {.shards = shards, .threads = 5});
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(alone)) {
      const std::string name = entry.path().filename();
      EXPECT_TRUE(Read(absl::StrCat(alone, "/", name)) == Read(absl::StrCat(together, "/", name)))
          << name;
      ++files;
    }
    EXPECT_EQ(files, shards == 1 ? 4 : 7);
  }
}

// The embedding is the first tensor; its deviation is 2 / sqrt(64).
TEST(MakeModel, AnElementIsAFunctionOfItsPlace) {
  const ModelConfig config = *Resized(*PresetConfig("tiny"), {.vocab = 40'000});
  const auto folder = ModelFolder::Open(TestModel(config, {.seed = 9, .dtype = "f32"}));
  ASSERT_TRUE(folder.ok()) << folder.status();
  const TensorView& tensor = folder->tensor("model.embed_tokens.weight");
  for (const uint32_t element : {0U, 7U, (1U << 14) + 3, (1U << 21) - 1, (1U << 21) + 6}) {
    const uint32_t word = kernels::Philox4x32({element / 4, 0, 0, 0}, {9, 0})[element % 4];
    const uint32_t sum = (word & 255) + (word >> 8 & 255) + (word >> 16 & 255) + (word >> 24);
    const float scale = 0.25f * (1.0f / 147.8f);
    float got;
    std::memcpy(&got, tensor.bytes.data() + size_t{4} * element, 4);
    EXPECT_EQ(got, scale * static_cast<float>(static_cast<int32_t>(sum) - 510)) << element;
  }
}

TEST(MakeModel, ASmallV2LiteDecodes) {
  const auto config = Resized(*PresetConfig("deepseek-v2-lite"), {.layers = 2,
                                                                  .hidden = 128,
                                                                  .intermediate = 96,
                                                                  .experts = 8,
                                                                  .experts_per_token = 2,
                                                                  .expert_intermediate = 32,
                                                                  .vocab = 600});
  ASSERT_TRUE(config.ok()) << config.status();
  const auto decode = [&] {
    const auto model = OfflineModel::Open({.model_dir = TestModel(*config, {.seed = 5})}, 128);
    EXPECT_TRUE(model.ok()) << model.status();
    const auto tokens = (*model)->Greedy(RandomTokens(30, config->vocab, 3), 40);
    EXPECT_TRUE(tokens.ok()) << tokens.status();
    return *tokens;
  };
  const std::vector<int32_t> tokens = decode();
  EXPECT_GT(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 10u) << "varied";
  EXPECT_EQ(decode(), tokens);
}

TEST(MakeModel, SizesReplaceThePresets) {
  const ModelConfig lite = *Resized(*PresetConfig("deepseek-v2-lite"),
                                    {.layers = 5, .experts = 16, .expert_intermediate = 128});
  EXPECT_EQ(lite.mixture->layers, (std::vector<bool>{false, true, true, true, true}));
  EXPECT_EQ(lite.mixture->experts, 16);
  EXPECT_EQ(lite.mixture->shared_intermediate, 256) << "two shared ones";
  EXPECT_EQ(lite.latent, PresetConfig("deepseek-v2-lite")->latent);
  EXPECT_EQ(lite.bos_id, 100'000);
  const ModelConfig short_vocab =
      *Resized(*PresetConfig("deepseek-v2-lite"), {.heads = 4, .vocab = 100'001, .context = 256});
  EXPECT_EQ(short_vocab.bos_id, 100'000);
  EXPECT_EQ(short_vocab.eos_ids, std::vector<int32_t>{0});
  EXPECT_EQ(short_vocab.kv_heads, 4);
  EXPECT_EQ(short_vocab.context, 256);
  const ModelConfig llama = *Resized(*PresetConfig("llama-8b"), {.heads = 8});
  EXPECT_EQ(llama.kv_heads, 2);
  const ModelConfig mixtral = *Resized(*PresetConfig("tiny-mixtral"), {.intermediate = 96});
  EXPECT_EQ(mixtral.mixture->intermediate, 96);
  for (const ModelConfig& config : {lite, short_vocab, llama, mixtral}) {
    const auto parsed = ParseModelConfig(ConfigJson(config));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, config);
  }
  EXPECT_THAT(std::string(Resized(llama, {.experts = 4}).status().message()),
              HasSubstr("no experts"));
}

TEST(MakeModel, ScalesArePlausible) {
  const auto folder = ModelFolder::Open(TestModel("tiny-bias", {.dtype = "f32"}));
  ASSERT_TRUE(folder.ok()) << folder.status();
  const auto moments = [&](const std::string& name) {
    const TensorView& tensor = folder->tensor(name);
    double sum = 0, squares = 0;
    const auto n = static_cast<double>(tensor.elements());
    for (size_t i = 0; i < tensor.elements(); ++i) {
      float f;
      std::memcpy(&f, tensor.bytes.data() + 4 * i, 4);
      sum += f;
      squares += static_cast<double>(f) * f;
    }
    return std::pair(sum / n, std::sqrt(squares / n - sum / n * (sum / n)));
  };
  // Six standard errors of mean and deviation for the element counts.
  const auto [q_mean, q_deviation] = moments("model.layers.0.self_attn.q_proj.weight");
  EXPECT_NEAR(q_mean, 0, 6 * 0.125 / 64);
  EXPECT_NEAR(q_deviation, 0.125, 6 * 0.125 / 90);
  EXPECT_NEAR(moments("model.layers.1.self_attn.o_proj.weight").second, 0.0625, 6 * 0.0625 / 90);
  EXPECT_NEAR(moments("model.norm.weight").first, 1, 6 * 0.1 / 8);
  EXPECT_NEAR(moments("model.embed_tokens.weight").second, 0.25, 6 * 0.25 / 256);
}

// Finite everywhere, and neither flat nor certain: logits spread by about 2.
TEST(MakeModel, EveryFamilyIsAcceptedAndEvaluates) {
  for (const std::string preset : {"tiny-deepseek-v2-lite", "tiny-deepseek-v2", "tiny-deepseek-v3",
                                   "tiny-mixtral", "tiny-qwen3-moe"}) {
    const std::string dir = TestModel(preset);
    const auto report = CheckModel(dir, {.scan_values = true});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->config.family, PresetConfig(preset)->family);
    EXPECT_EQ(report->parameters, PresetConfig(preset)->parameters());
    const auto model = OfflineModel::Open({.model_dir = dir});
    ASSERT_TRUE(model.ok()) << model.status();
    const auto logits = (*model)->ForwardAll(RandomTokens(100, (*model)->vocab(), 7));
    ASSERT_TRUE(logits.ok()) << logits.status();
    double squares = 0;
    for (const float logit : *logits) {
      ASSERT_TRUE(std::isfinite(logit)) << preset;
      squares += static_cast<double>(logit) * logit;
    }
    const double spread = std::sqrt(squares / static_cast<double>(logits->size()));
    EXPECT_GT(spread, 1) << preset;
    EXPECT_LT(spread, 4) << preset;
  }
}

TEST(MakeModel, RoutersChooseAmongManyExperts) {
  const auto folder = ModelFolder::Open(TestModel("tiny-deepseek-v3", {.dtype = "f32"}));
  ASSERT_TRUE(folder.ok()) << folder.status();
  const auto largest = [&](const std::string& name) {
    const TensorView& tensor = folder->tensor(name);
    std::vector<float> values(tensor.elements());
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    for (float& value : values) value = std::abs(value);
    return *std::max_element(values.begin(), values.end());
  };
  const float bias = largest("model.layers.1.mlp.gate.e_score_correction_bias");
  EXPECT_GT(bias, 0);
  EXPECT_LT(bias, 0.2f) << "3.45 deviations at most";
  EXPECT_GT(largest("model.layers.1.mlp.gate.weight"), 0.25f) << "the deviation";
}

TEST(MakeModel, TokenizerCoversTheVocabulary) {
  const std::string dir = TestModel("tiny");
  const auto doc = ParseJson(Read(dir + "/tokenizer.json"), {.unique_keys = true});
  ASSERT_TRUE(doc.ok()) << doc.status();
  const JsonValue& vocab = *FindMember(*FindMember(*doc, "model"), "vocab");
  std::set<int64_t> ids;
  for (const auto& member : vocab.GetObject()) ids.insert(member.value.GetInt64());
  EXPECT_EQ(ids.size(), 512u);
  EXPECT_EQ(*ids.begin(), 0);
  EXPECT_EQ(*ids.rbegin(), 511);
  EXPECT_EQ(*GetInt(vocab, "A", -1), 'A' + 1);
  EXPECT_EQ(*GetInt(vocab, "\xC4\xA0", -1), ' ' + 1);  // U+0120 stands for a space
  EXPECT_EQ(*GetInt(vocab,
                    "\xC4\xA0"
                    "aa",
                    -1),
            257);
  EXPECT_EQ(*GetInt(vocab,
                    "\xC4\xA0"
                    "ba",
                    -1),
            257 + 26);
}

TEST(MakeModel, ShowsProgressToTheEnd) {
  uint64_t last = 0, total = 1;
  const std::string dir = testing::TempDir() + "/progress";
  std::filesystem::remove_all(dir);
  ASSERT_TRUE(MakeModel({.preset = "tiny", .dir = dir}, [&](uint64_t done, uint64_t all) {
                EXPECT_GE(done, last);
                last = done;
                total = all;
              }).ok());
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, 2u * static_cast<uint64_t>(PresetConfig("tiny")->parameters()));
}

TEST(MakeModel, RefusesByName) {
  const std::string dir = testing::TempDir() + "/refused";
  std::filesystem::remove_all(dir);
  EXPECT_THAT(MakeModel({.preset = "llama-3", .dir = dir}).message(),
              HasSubstr("\"llama-3\" is not one of tiny,"));
  EXPECT_THAT(MakeModel({.dir = dir, .dtype = "fp8"}).message(), HasSubstr("dtype \"fp8\""));
  EXPECT_THAT(MakeModel({.dir = dir, .shards = 0}).message(), HasSubstr("shards is 0"));
  const ModelConfig huge = *Resized(*PresetConfig("deepseek-v3"), {.layers = 1024});
  EXPECT_THAT(std::string(MakeModelOf(huge, {.dir = dir, .dtype = "f32"}).message()),
              HasSubstr("MiB free"));
  const ModelConfig greedy = *Resized(*PresetConfig("tiny-mixtral"), {.experts_per_token = 9});
  EXPECT_THAT(std::string(MakeModelOf(greedy, {.dir = dir}).message()),
              HasSubstr("num_experts_per_tok"));
  EXPECT_FALSE(std::filesystem::exists(dir)) << "a refusal leaves nothing";
  std::filesystem::create_directories(dir);
  std::ofstream(dir + "/precious") << "x";
  EXPECT_EQ(MakeModel({.dir = dir}).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(MakeModel({.dir = dir + "/precious"}).code(), absl::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace reprise::worker
