#include "worker/convert/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "common/test_data.h"
#include "worker/convert/text_score.h"
#include "worker/model/folder_writer.h"
#include "worker/model/model_folder.h"
#include "worker/model/offline.h"
#include "worker/model/test_models.h"

namespace reprise::convert {
namespace {

using testing::HasSubstr;
using worker::ModelConfig;
using worker::ModelFolder;

constexpr int64_t kPrompt = 40;  // tokens of the texts below that are in prompt form

std::string FreshFolder() {
  static int count = 0;
  const std::string dir = testing::TempDir() + "/converted_" + std::to_string(count++);
  std::filesystem::remove_all(dir);
  return dir;
}

ModelConfig Tiny(int64_t heads, int64_t kv_heads) {
  ModelConfig c = *worker::PresetConfig("tiny");
  c.heads = heads;
  c.kv_heads = kv_heads;
  return c;
}

std::string Model(const ModelConfig& config, const std::string& dtype = "f32") {
  return worker::TestModel(config, {.seed = 7, .dtype = dtype});
}

// Of 60 tokens, the last 20 in step form.
std::vector<float> Logits(const std::string& dir) {
  auto model = worker::OfflineModel::Open({.model_dir = dir});
  EXPECT_TRUE(model.ok()) << model.status();
  const auto logits =
      (*model)->ForwardAll(worker::RandomTokens(60, (*model)->vocab(), 3), 0, kPrompt);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return *logits;
}

// Largest difference over the root mean square of `want`.
double Distance(const std::vector<float>& found, const std::vector<float>& want) {
  EXPECT_EQ(found.size(), want.size());
  double square = 0;
  double largest = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    square += static_cast<double>(want[i]) * static_cast<double>(want[i]);
    const double error = std::abs(static_cast<double>(found[i]) - static_cast<double>(want[i]));
    largest = std::isnan(error) ? INFINITY : std::max(largest, error);
  }
  return largest / std::sqrt(square / static_cast<double>(want.size()));
}

std::string ToLatent(const std::string& from, const ToLatentOptions& options = {}) {
  const std::string to = FreshFolder();
  const Status status = ConvertToLatent(from, to, options);
  EXPECT_TRUE(status.ok()) << status;
  return to;
}

std::string ToGrouped(const std::string& from, int64_t kv_heads) {
  const std::string to = FreshFolder();
  const Status status = ConvertToGrouped(from, to, kv_heads);
  EXPECT_TRUE(status.ok()) << status;
  return to;
}

std::string LatentRefusal(const std::string& from, const ToLatentOptions& options = {}) {
  const std::string to = FreshFolder();
  const Status status = ConvertToLatent(from, to, options);
  EXPECT_FALSE(std::filesystem::exists(to)) << "nothing is written";
  return status.ok() ? "accepted" : std::string(status.message());
}

std::string GroupedRefusal(const std::string& from, int64_t kv_heads) {
  const std::string to = FreshFolder();
  const Status status = ConvertToGrouped(from, to, kv_heads);
  EXPECT_FALSE(std::filesystem::exists(to)) << "nothing is written";
  return status.ok() ? "accepted" : std::string(status.message());
}

std::map<std::string, std::vector<uint8_t>> Tensors(const std::string& dir) {
  const auto folder = ModelFolder::Open(dir);
  EXPECT_TRUE(folder.ok()) << folder.status();
  std::map<std::string, std::vector<uint8_t>> tensors;
  for (const auto& [name, view] : folder->tensors()) {
    tensors[name] = {view.bytes.begin(), view.bytes.end()};
  }
  return tensors;
}

double Nats(const std::string& dir, std::span<const int32_t> tokens) {
  const auto score = ScoreText(dir, tokens, {});
  EXPECT_TRUE(score.ok()) << score.status();
  EXPECT_EQ(score->tokens, static_cast<int64_t>(tokens.size()) - 1);
  return score->nats / static_cast<double>(score->tokens);
}

// The weights are the source's numbers or zeros and ones, so only the order of sums and the norm of
// the latent (three roundings a layer) are new: a few units of f32 of each of the model's layers.
// 1e-5 is 84 units.
constexpr double kF32Error = 1e-5;

TEST(ToLatent, AtFullSizeTheModelIsTheSameFunction) {
  for (const auto& [heads, kv_heads] :
       std::vector<std::pair<int64_t, int64_t>>{{4, 4}, {4, 2}, {4, 1}, {6, 3}}) {
    const std::string from = Model(Tiny(heads, kv_heads));
    const std::string to = ToLatent(from);
    EXPECT_LT(Distance(Logits(to), Logits(from)), kF32Error) << heads << " over " << kv_heads;
    const auto folder = ModelFolder::Open(to);
    ASSERT_TRUE(folder.ok()) << folder.status();
    EXPECT_EQ(folder->config().rope_heads(), kv_heads);
    EXPECT_EQ(folder->config().latent->kv_rank, kv_heads * 16);
  }
}

TEST(ToLatent, EveryRotationThatIsTakenKeepsTheFunction) {
  ModelConfig llama3 = *worker::PresetConfig("tiny-llama3");
  ModelConfig linear = Tiny(4, 2);
  linear.rope_scaling = {worker::RopeKind::kLinear, 4};
  linear.rope_theta = 500000;
  for (const ModelConfig& config : {llama3, linear}) {
    const std::string from = Model(config);
    EXPECT_LT(Distance(Logits(ToLatent(from)), Logits(from)), kF32Error);
  }
}

// With 16-bit weights inputs of products are rounded to bf16; the products that are new multiply by
// ones and take what was rounded before, so no rounding is new either.
TEST(ToLatent, AtFullSizeSixteenBitsStayWhatTheyWere) {
  for (const char* dtype : {"bf16", "f16"}) {
    const std::string from = Model(Tiny(4, 2), dtype);
    EXPECT_LT(Distance(Logits(ToLatent(from)), Logits(from)), 1e-2) << dtype;
  }
}

TEST(ToLatent, TheDemoWritesTheSameText) {
  const std::string from = ProjectFile("models/demo");
  const std::string to = ToLatent(from);
  EXPECT_LT(Distance(Logits(to), Logits(from)), 1e-2);
  std::vector<std::vector<int32_t>> texts;
  for (const std::string& dir : {from, to}) {
    auto model = worker::OfflineModel::Open({.model_dir = dir});
    ASSERT_TRUE(model.ok()) << model.status();
    for (const uint64_t seed : {1, 2, 3}) {
      const auto text = (*model)->Greedy(worker::RandomTokens(8, (*model)->vocab(), seed), 64);
      ASSERT_TRUE(text.ok()) << text.status();
      texts.push_back(*text);
    }
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(texts[i + 3], texts[i]);
}

TEST(ToLatent, TheTokenizerComesAlong) {
  const std::string from = Model(Tiny(4, 2));
  const std::string to = ToLatent(from);
  for (const char* name : {"tokenizer.json", "generation_config.json"}) {
    std::stringstream a, b;
    a << std::ifstream(from + "/" + name).rdbuf();
    b << std::ifstream(to + "/" + name).rdbuf();
    EXPECT_EQ(a.str(), b.str()) << name;
    EXPECT_FALSE(a.str().empty());
  }
}

// With all that stands still in the latent, only the rotation of the weaker components is lost:
// where heads are equal there are none.
TEST(ToLatent, EqualHeadsConcentrateWithoutLoss) {
  const std::string from = FreshFolder();
  {
    const std::string mqa = Model(Tiny(4, 1));
    const auto folder = ModelFolder::Open(mqa);
    ASSERT_TRUE(folder.ok()) << folder.status();
    ModelConfig config = folder->config();
    config.kv_heads = 2;
    std::vector<worker::TensorEntry> entries;
    for (const worker::TensorSpec& spec : worker::ModelTensors(config)) {
      entries.push_back({spec.name, worker::TensorType::kF32, spec.shape});
    }
    ASSERT_TRUE(worker::PrepareModelFolder(from).ok());
    worker::TensorFileWriter out(from + "/model.safetensors", entries);
    for (const worker::TensorEntry& entry : entries) {
      const auto bytes = folder->tensor(entry.name).bytes;
      for (uint64_t done = 0; done < entry.bytes(); done += bytes.size()) out.Append(bytes);
    }
    ASSERT_TRUE(out.Close().ok());
    ASSERT_TRUE(worker::WriteModelFile(from, "config.json", worker::ConfigJson(config)).ok());
    EXPECT_EQ(Logits(from), Logits(mqa)) << "the test's model has equal heads";
    EXPECT_EQ(Logits(ToGrouped(from, 1)), Logits(from)) << "their mean is any of them";
  }
  const std::vector<int32_t> tokens = worker::RandomTokens(400, 512, 9);
  const ToLatentOptions one_head = {.sizes = {.rope_dims = 16}, .calibration = tokens};
  // The weights are rounded anew, to f32, and the components are right to 1e-7 of f32 keys.
  EXPECT_LT(Distance(Logits(ToLatent(from, one_head)), Logits(from)), 1e-4);
  const ToLatentOptions small = {.sizes = {.rope_dims = 16, .rank = 16}, .calibration = tokens};
  EXPECT_LT(Distance(Logits(ToLatent(from, small)), Logits(from)), 1e-4)
      << "values of equal heads have 16 directions";
}

TEST(ToLatent, ASmallerModelIsWorseAndTheSameEveryTime) {
  const std::string from = ProjectFile("models/demo");
  auto model = worker::OfflineModel::Open({.model_dir = from});
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<int32_t> prompt = {0};
  const auto text = (*model)->Greedy(prompt, 200);  // what the model itself finds likely
  ASSERT_TRUE(text.ok()) << text.status();
  const ToLatentOptions options = {.sizes = {.rope_dims = 32, .rank = 32}, .calibration = *text};
  const std::string to = ToLatent(from, options);
  EXPECT_EQ(Tensors(ToLatent(from, options)), Tensors(to));
  const double before = Nats(from, *text);
  const double after = Nats(to, *text);
  EXPECT_GT(after, before);
  EXPECT_LT(after, std::log(2048)) << "no worse than no model";
  const auto config = worker::LoadModelConfig(to);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->latent->scale_dims, 0) << "any DeepSeek-V2 server reads it";
  EXPECT_EQ(config->latent->rope_heads, 1);
}

// Latents of one size pass a norm that has just that size: a text of one token alone.
TEST(ToLatent, ALiveNormHasTheSizeOfTheLatents) {
  const std::string from = Model(Tiny(4, 2));
  const std::vector<int32_t> one(200, 5);
  const std::string to = ToLatent(from, {.live_norm = true, .calibration = one});
  const auto logits = [&](const std::string& dir) {
    auto model = worker::OfflineModel::Open({.model_dir = dir});
    EXPECT_TRUE(model.ok()) << model.status();
    return *(*model)->ForwardAll(std::span(one).first(30));
  };
  EXPECT_LT(Distance(logits(to), logits(from)), kF32Error);
  EXPECT_GT(Distance(Logits(to), Logits(from)), 1e-3) << "of other tokens it is another function";
  const auto folder = ModelFolder::Open(to);
  ASSERT_TRUE(folder.ok()) << folder.status();
  const auto& norm = folder->tensor("model.layers.0.self_attn.kv_a_layernorm.weight");
  float weight = 0;
  std::memcpy(&weight, norm.bytes.data(), sizeof(weight));
  EXPECT_GT(weight, 1e-3);
  EXPECT_LT(weight, 1e3);
}

TEST(ToLatent, RefusesByName) {
  const std::vector<int32_t> few = {1, 2, 3};
  const std::string tiny = Model(Tiny(4, 2));
  EXPECT_THAT(LatentRefusal(FreshFolder()), HasSubstr("config.json"));
  EXPECT_THAT(LatentRefusal(worker::TestModel("tiny-bias")), HasSubstr("biases in its attention"));
  EXPECT_THAT(LatentRefusal(worker::TestModel("tiny-mixtral")),
              HasSubstr("is a MixtralForCausalLM; LlamaForCausalLM is converted"));
  EXPECT_THAT(LatentRefusal(worker::TestModel("tiny-deepseek-v2")),
              HasSubstr("its attention already is latent"));
  ModelConfig yarn = Tiny(4, 2);
  yarn.rope_scaling.kind = worker::RopeKind::kYarn;
  yarn.rope_scaling.factor = 4;
  EXPECT_THAT(LatentRefusal(Model(yarn)), HasSubstr("YaRN"));
  EXPECT_THAT(LatentRefusal(tiny, {.sizes = {.rope_dims = 16}}),
              HasSubstr("rope dims 16 of 32, rank 48 of 48 need a calibration text"));
  EXPECT_THAT(LatentRefusal(tiny, {.sizes = {.rank = 7}}), HasSubstr("rank 7 of 32"));
  EXPECT_THAT(LatentRefusal(tiny, {.live_norm = true}), HasSubstr("32 and a norm need a"));
  EXPECT_THAT(LatentRefusal(tiny, {.sizes = {.rank = 7}, .calibration = few}),
              HasSubstr("has 3 tokens, this model's 64 keys and values"));
  EXPECT_THAT(LatentRefusal(tiny, {.calibration = few}), HasSubstr("nothing is left out"));
  const std::vector<int32_t> strange(100, 512);
  EXPECT_THAT(LatentRefusal(tiny, {.sizes = {.rank = 7}, .calibration = strange}),
              HasSubstr("512"));
  const std::string full = ToLatent(tiny);
  EXPECT_THAT(std::string(ConvertToLatent(tiny, full, {}).message()),
              HasSubstr("not an empty folder"));
}

TEST(ToGrouped, TheSameNumberOfHeadsIsTheSameModel) {
  for (const char* preset : {"tiny", "tiny-bias"}) {
    const std::string from = worker::TestModel(preset);
    const std::string to = ToGrouped(from, worker::LoadModelConfig(from)->kv_heads);
    EXPECT_EQ(Tensors(to), Tensors(from));
    EXPECT_EQ(*worker::LoadModelConfig(to), *worker::LoadModelConfig(from));
  }
}

TEST(ToGrouped, PoolsKeysValuesAndTheirBiases) {
  ModelConfig config = Tiny(8, 4);
  config.attention_bias = true;
  const std::string from = Model(config);
  const std::string to = ToGrouped(from, 2);
  const auto before = Tensors(from);
  const auto after = Tensors(to);
  const auto at = [](const std::vector<uint8_t>& bytes, size_t i) {
    float x = 0;
    std::memcpy(&x, bytes.data() + i * sizeof(float), sizeof(float));
    return x;
  };
  for (const char* part : {"k_proj", "v_proj"}) {
    const std::string name = std::string("model.layers.1.self_attn.") + part;
    // Row 3 of the second new head: of the third and the fourth old one.
    const size_t cols = static_cast<size_t>(config.hidden);
    EXPECT_EQ(at(after.at(name + ".weight"), (16 + 3) * cols + 5),
              (at(before.at(name + ".weight"), (32 + 3) * cols + 5) +
               at(before.at(name + ".weight"), (48 + 3) * cols + 5)) /
                  2);
    EXPECT_EQ(at(after.at(name + ".bias"), 16 + 3),
              (at(before.at(name + ".bias"), 32 + 3) + at(before.at(name + ".bias"), 48 + 3)) / 2);
  }
  EXPECT_EQ(after.at("model.layers.1.self_attn.q_proj.weight"),
            before.at("model.layers.1.self_attn.q_proj.weight"));
  EXPECT_GT(Distance(Logits(to), Logits(from)), 1e-3);
}

TEST(ToGrouped, RefusesByName) {
  const std::string tiny = Model(Tiny(4, 2));
  EXPECT_THAT(GroupedRefusal(tiny, 4),
              HasSubstr("asked for are 4, not a divisor of the model's 2"));
  EXPECT_THAT(GroupedRefusal(tiny, 0), HasSubstr("asked for are 0"));
  EXPECT_THAT(GroupedRefusal(Model(Tiny(9, 9)), 2), HasSubstr("not a divisor of the model's 9"));
  EXPECT_THAT(GroupedRefusal(ToLatent(tiny), 1), HasSubstr("already is latent"));
}

TEST(TextScore, EveryTokenButTheFirstIsForetoldOnce) {
  const std::string dir = Model(Tiny(4, 2));
  const std::vector<int32_t> tokens = worker::RandomTokens(500, 512, 4);
  const auto parts = ScoreText(dir, tokens, {.window_tokens = 100});
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_EQ(parts->tokens, 499);
  auto model = worker::OfflineModel::Open({.model_dir = dir});
  ASSERT_TRUE(model.ok()) << model.status();
  double want = 0;
  for (size_t first = 0; first < 499; first += 99) {
    want += *(*model)->NegativeLogLikelihood(
        std::span(tokens).subspan(first, std::min<size_t>(100, 500 - first)));
  }
  EXPECT_EQ(parts->nats, want);
  EXPECT_THAT(std::string(ScoreText(dir, std::span(tokens).first(1), {}).status().message()),
              HasSubstr("has 1 tokens"));
}

}  // namespace
}  // namespace reprise::convert
