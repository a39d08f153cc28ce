// FP8 checkpoints scaled by blocks: the widening against the formula in double, every refusal by
// name, and whole folders against the same model stored wide.
#include "worker/model/block_scaled.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/bytes.h"
#include "common/json.h"
#include "common/limits.h"
#include "kernels/e4m3.h"
#include "worker/model/check_model.h"
#include "worker/model/model_folder.h"
#include "worker/model/offline.h"
#include "worker/model/test_models.h"

namespace reprise::worker {
namespace {

using kernels::DType;
using testing::HasSubstr;

// A tensor with bytes of its own.
struct Stored {
  TensorType type = TensorType::kF32;
  std::vector<uint64_t> shape;
  std::vector<uint8_t> bytes;
  TensorView view() const { return {type, shape, bytes}; }
};

Stored Floats(std::vector<uint64_t> shape, const std::vector<float>& values) {
  Stored stored{TensorType::kF32, std::move(shape), {}};
  stored.bytes.resize(values.size() * sizeof(float));
  std::memcpy(stored.bytes.data(), values.data(), stored.bytes.size());
  return stored;
}

uint64_t Ceil(uint64_t n, int64_t by) {
  return (n + static_cast<uint64_t>(by) - 1) / static_cast<uint64_t>(by);
}

// Random codes, no NaN among them, and scales between 2^-8 and 2^-7.
std::pair<Stored, Stored> RandomMatrix(uint64_t rows, uint64_t cols, BlockScales blocks,
                                       uint64_t seed) {
  SplitMix64 random(seed);
  Stored matrix{TensorType::kF8E4M3, {rows, cols}, {}};
  for (uint64_t i = 0; i < rows * cols; ++i) {
    matrix.bytes.push_back(static_cast<uint8_t>(random.Below(2) * 128 + random.Below(127)));
  }
  const uint64_t down = Ceil(rows, blocks.rows);
  const uint64_t across = Ceil(cols, blocks.cols);
  std::vector<float> scales;
  for (uint64_t i = 0; i < down * across; ++i) {
    scales.push_back((1 + static_cast<float>(random.Below(1 << 23)) * 0x1p-23F) * 0x1p-8F);
  }
  return {std::move(matrix), Floats({down, across}, scales)};
}

float FloatAt(const std::vector<uint8_t>& bytes, size_t i) {
  float value;
  std::memcpy(&value, bytes.data() + i * sizeof(float), sizeof(float));
  return value;
}

uint16_t WordAt(const std::vector<uint8_t>& bytes, size_t i) {
  uint16_t word;
  std::memcpy(&word, bytes.data() + i * sizeof(word), sizeof(word));
  return word;
}

// Nearest even of a normal number.
uint16_t Bf16Of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

TEST(BlockScaled, WidensEveryElementWithTheScaleOfItsBlock) {
  const struct {
    uint64_t rows, cols;
    BlockScales blocks;
  } kCases[] = {
      {128, 128, {128, 128}}, {256, 384, {128, 128}}, {130, 257, {128, 128}}, {1, 1, {128, 128}},
      {127, 129, {128, 128}}, {50, 33, {16, 8}},      {5, 7, {1, 1}},         {3, 300, {2, 256}},
  };
  for (const auto& c : kCases) {
    const auto [matrix, scales] = RandomMatrix(c.rows, c.cols, c.blocks, c.rows * 1000 + c.cols);
    const auto wide = WidenBlockScaled(matrix.view(), scales.view(), c.blocks, DType::kF32);
    const auto half = WidenBlockScaled(matrix.view(), scales.view(), c.blocks, DType::kBF16);
    ASSERT_TRUE(wide.ok()) << wide.status();
    ASSERT_TRUE(half.ok()) << half.status();
    ASSERT_EQ(wide->size(), 4 * c.rows * c.cols);
    ASSERT_EQ(half->size(), 2 * c.rows * c.cols);
    const uint64_t across = Ceil(c.cols, c.blocks.cols);
    for (uint64_t i = 0; i < c.rows * c.cols; ++i) {
      const uint64_t block = i / c.cols / static_cast<uint64_t>(c.blocks.rows) * across +
                             i % c.cols / static_cast<uint64_t>(c.blocks.cols);
      // Exact in double: 4 bits of code by 24 of scale.
      const double product = static_cast<double>(kernels::E4m3ToF32(matrix.bytes[i])) *
                             static_cast<double>(FloatAt(scales.bytes, block));
      ASSERT_EQ(FloatAt(*wide, i), static_cast<float>(product)) << c.rows << "x" << c.cols;
      ASSERT_EQ(WordAt(*half, i), Bf16Of(static_cast<float>(product)));
    }
  }
}

TEST(BlockScaled, RefusesShapesAndTypesByWhatTheyAre) {
  const std::pair<Stored, Stored> pair = RandomMatrix(130, 257, {128, 128}, 1);
  const Stored& matrix = pair.first;
  const Stored& scales = pair.second;
  const auto refusal = [&](const TensorView& m, const TensorView& s) {
    return std::string(CheckBlockScales(m, s, {128, 128}).message());
  };
  EXPECT_EQ(refusal(matrix.view(), scales.view()), "");
  TensorView flat = matrix.view();
  flat.shape = {130 * 257};
  EXPECT_THAT(refusal(flat, scales.view()), HasSubstr("shape [33410] is not a matrix's"));
  TensorView turned = scales.view();
  turned.shape = {3, 2};
  EXPECT_THAT(refusal(matrix.view(), turned),
              HasSubstr("have shape [3, 2], [130, 257] in blocks of [128, 128] needs [2, 3]"));
  TensorView whole = scales.view();
  whole.type = TensorType::kI32;
  EXPECT_THAT(refusal(matrix.view(), whole), HasSubstr("scales are I32, supported: F32, BF16"));
}

TEST(BlockScaled, RefusesWhatIsNotFiniteByPlace) {
  std::pair<Stored, Stored> pair = RandomMatrix(4, 6, {2, 3}, 2);
  Stored& matrix = pair.first;
  const auto refusal = [&](const Stored& s) {
    return std::string(
        WidenBlockScaled(matrix.view(), s.view(), {2, 3}, DType::kF32).status().message());
  };
  const auto with = [&](float scale) { return Floats({2, 2}, {1, 1, 1, scale}); };
  EXPECT_EQ(refusal(with(0)), "") << "a block of zeros may say so";
  EXPECT_EQ(refusal(with(limits::kBlockScaleMax)), "");
  EXPECT_THAT(refusal(with(-1)), HasSubstr("scale of block (1, 1) is -1, the range is 0 to"));
  EXPECT_THAT(refusal(with(std::nextafter(limits::kBlockScaleMax, INFINITY))),
              HasSubstr("scale of block (1, 1) is"));
  EXPECT_THAT(refusal(with(INFINITY)), HasSubstr("is inf"));
  EXPECT_THAT(refusal(with(std::numeric_limits<float>::quiet_NaN())), HasSubstr("is nan"));
  for (const uint8_t nan : {0x7F, 0xFF}) {
    matrix.bytes[10] = nan;
    EXPECT_THAT(refusal(pair.second), HasSubstr("element 10 is not finite"));
  }
}

TEST(BlockScaled, ScalesMayBeBf16) {
  const Stored matrix{TensorType::kF8E4M3, {1, 2}, {0x38, 0xC0}};            // 1 and -2
  const Stored scales{TensorType::kBF16, {1, 2}, {0xC0, 0x3F, 0x00, 0x3E}};  // 1.5 and 0.125
  ASSERT_TRUE(CheckBlockScales(matrix.view(), scales.view(), {1, 1}).ok());
  const auto wide = WidenBlockScaled(matrix.view(), scales.view(), {1, 1}, DType::kF32);
  ASSERT_TRUE(wide.ok()) << wide.status();
  EXPECT_EQ(FloatAt(*wide, 0), 1.5F);
  EXPECT_EQ(FloatAt(*wide, 1), -0.25F);
}

TEST(BlockScaled, TheLargestWeightStaysFinite) {
  const Stored matrix{TensorType::kF8E4M3, {1, 2}, {0x7E, 0xFE}};
  const Stored scale = Floats({1, 1}, {limits::kBlockScaleMax});
  const auto wide = WidenBlockScaled(matrix.view(), scale.view(), {128, 128}, DType::kBF16);
  ASSERT_TRUE(wide.ok()) << wide.status();
  EXPECT_EQ(WordAt(*wide, 0), Bf16Of(448 * limits::kBlockScaleMax));
  EXPECT_LT(WordAt(*wide, 0), 0x7F80);
}

// Whole folders ----------------------------------------------------------------------------------

using Tensors = std::map<std::string, Stored>;

void WriteTensors(const std::string& path, const Tensors& tensors) {
  JsonWriter header;
  uint64_t at = 0;
  for (const auto& [name, tensor] : tensors) {
    const uint64_t end = at + tensor.bytes.size();
    header.Raw(name, JsonWriter()
                         .Field("dtype", TensorTypeName(tensor.type))
                         .Raw("shape", absl::StrCat("[", absl::StrJoin(tensor.shape, ", "), "]"))
                         .Raw("data_offsets", absl::StrCat("[", at, ", ", end, "]"))
                         .Take());
    at = end;
  }
  const std::string text = header.Take();
  std::string file;
  ByteWriter(file).U64(text.size());
  file += text;
  for (const auto& [name, tensor] : tensors) file.append(tensor.bytes.begin(), tensor.bytes.end());
  std::ofstream(path, std::ios::binary)
      .write(file.data(), static_cast<std::streamsize>(file.size()));
}

struct Fp8Model {
  ModelConfig config;
  Tensors fp8;   // linear layers as codes and scales
  Tensors wide;  // the same weights in `dtype`
};

// A model of the preset whose linear layers hold random codes.
Fp8Model MakeFp8(const std::string& preset, const std::string& dtype, BlockScales blocks) {
  Fp8Model model;
  model.config = *PresetConfig(preset);
  const auto folder = ModelFolder::Open(TestModel(model.config, {.dtype = dtype}));
  EXPECT_TRUE(folder.ok()) << folder.status();
  uint64_t seed = 1;
  for (const TensorSpec& spec : ModelTensors(model.config)) {
    const TensorView& tensor = folder->tensor(spec.name);
    const Stored plain{tensor.type, tensor.shape, {tensor.bytes.begin(), tensor.bytes.end()}};
    model.fp8[spec.name] = model.wide[spec.name] = plain;
    if (!spec.linear) continue;
    auto [matrix, scales] = RandomMatrix(spec.shape[0], spec.shape[1], blocks, seed++);
    const auto wide = WidenBlockScaled(matrix.view(), scales.view(), blocks,
                                       dtype == "bf16" ? DType::kBF16 : DType::kF32);
    EXPECT_TRUE(wide.ok()) << wide.status();
    model.wide[spec.name].bytes = *wide;
    model.fp8[spec.name] = std::move(matrix);
    model.fp8[ScalesName(spec.name)] = std::move(scales);
  }
  model.config.block_scales = blocks;
  return model;
}

std::string Folder(ModelConfig config, const Tensors& tensors) {
  std::string dir = TestModel(std::move(config));
  WriteTensors(dir + "/model.safetensors", tensors);
  return dir;
}

std::vector<float> Logits(const std::string& dir) {
  const auto model = OfflineModel::Open({.model_dir = dir});
  EXPECT_TRUE(model.ok()) << model.status();
  if (!model.ok()) return {};
  const auto logits = (*model)->ForwardAll(RandomTokens(40, (*model)->vocab(), 3));
  EXPECT_TRUE(logits.ok()) << logits.status();
  return *logits;
}

TEST(BlockScaledFolder, ComputesTheBitsOfTheSameModelStoredWide) {
  for (const std::string preset : {"tiny-deepseek-v3", "tiny-qwen3-moe"}) {
    for (const std::string dtype : {"bf16", "f32"}) {
      const Fp8Model model = MakeFp8(preset, dtype, {16, 24});
      const std::vector<float> fp8 = Logits(Folder(model.config, model.fp8));
      ModelConfig plain = model.config;
      plain.block_scales.reset();
      const std::vector<float> wide = Logits(Folder(plain, model.wide));
      ASSERT_EQ(fp8.size(), wide.size());
      EXPECT_EQ(std::memcmp(fp8.data(), wide.data(), fp8.size() * sizeof(float)), 0)
          << preset << " " << dtype;
    }
  }
}

TEST(BlockScaledFolder, IsCheckedAndCounted) {
  Fp8Model model = MakeFp8("tiny-deepseek-v3", "bf16", {128, 128});
  const auto report = CheckModel(Folder(model.config, model.fp8), {.scan_values = true});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->tensors_by_type.at("F8_E4M3"), 0);
  EXPECT_EQ(report->tensors_by_type.at("F8_E4M3"), report->tensors_by_type.at("F32"));
  const std::string name = "model.layers.1.mlp.experts.3.up_proj.weight";
  model.fp8[name].bytes[17] = 0x7F;
  const std::string dir = Folder(model.config, model.fp8);
  EXPECT_TRUE(CheckModel(dir).ok()) << "values are looked at on request";
  const std::string message = absl::StrCat("tensor \"", name, "\": element 17 is not finite");
  EXPECT_THAT(CheckModel(dir, {.scan_values = true}).status().message(), HasSubstr(message));
  EXPECT_THAT(OfflineModel::Open({.model_dir = dir}).status().message(), HasSubstr(message));
}

TEST(BlockScaledFolder, RefusesByTensor) {
  const Fp8Model model = MakeFp8("tiny-deepseek-v3", "bf16", {16, 24});
  const std::string name = "model.layers.0.self_attn.o_proj.weight";
  const auto refusal = [&](const std::function<void(ModelConfig&, Tensors&)>& damage) {
    ModelConfig config = model.config;
    Tensors tensors = model.fp8;
    damage(config, tensors);
    const auto folder = ModelFolder::Open(Folder(config, tensors));
    return folder.ok() ? "accepted" : std::string(folder.status().message());
  };
  EXPECT_EQ(refusal([](ModelConfig&, Tensors&) {}), "accepted");
  EXPECT_THAT(refusal([](ModelConfig& c, Tensors&) { c.block_scales.reset(); }),
              HasSubstr("is F8_E4M3, config.json has no \"quantization_config\""));
  EXPECT_THAT(
      refusal([&](ModelConfig&, Tensors& t) { t.erase(ScalesName(name)); }),
      HasSubstr(absl::StrCat("tensor \"", name, "\": its scales \"", name, "_scale_inv\"")));
  EXPECT_THAT(
      refusal([&](ModelConfig&, Tensors& t) {
        t[ScalesName(name)].shape = {t[ScalesName(name)].shape[0] * t[ScalesName(name)].shape[1]};
      }),
      HasSubstr(absl::StrCat("tensor \"", name, "\": its scales have shape")));
  EXPECT_THAT(refusal([](ModelConfig& c, Tensors&) { c.block_scales->cols = 12; }),
              HasSubstr("in blocks of [16, 12] needs"));
  EXPECT_THAT(refusal([&](ModelConfig&, Tensors& t) { t[name].type = TensorType::kF8E5M2; }),
              HasSubstr("is F8_E5M2, supported: F32, BF16, F16, F8_E4M3"));
  const std::string gate = "model.layers.1.mlp.gate.weight";
  EXPECT_THAT(refusal([&](ModelConfig&, Tensors& t) {
                t[gate].type = TensorType::kF8E4M3;
                t[gate].bytes.resize(t[gate].bytes.size() / 2);
              }),
              HasSubstr(absl::StrCat("\"", gate, "\" is F8_E4M3, supported: F32, BF16, F16")));
  EXPECT_THAT(refusal([&](ModelConfig&, Tensors& t) { t[ScalesName(gate)] = t[ScalesName(name)]; }),
              HasSubstr("gate.weight_scale_inv\" is not part of the model"));
}

// DeepSeek-V3's own files end with a layer that predicts a second token.
TEST(BlockScaledFolder, LeavesOutPredictionLayersThatTheConfigurationNames) {
  Fp8Model model = MakeFp8("tiny-deepseek-v3", "bf16", {16, 24});
  model.fp8["model.layers.3.eh_proj.weight"] = Floats({1, 1}, {1});
  model.fp8["model.layers.3.shared_head.norm.weight"] = Floats({1}, {1});
  EXPECT_THAT(ModelFolder::Open(Folder(model.config, model.fp8)).status().message(),
              HasSubstr("eh_proj.weight\" is not part of the model"));
  model.config.predict_layers = 1;
  const auto folder = ModelFolder::Open(Folder(model.config, model.fp8));
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->tensors().count("model.layers.3.eh_proj.weight"), 0u);
  model.fp8["model.layers.4.eh_proj.weight"] = Floats({1, 1}, {1});
  EXPECT_THAT(ModelFolder::Open(Folder(model.config, model.fp8)).status().message(),
              HasSubstr("model.layers.4.eh_proj.weight\" is not part of the model"));
}

}  // namespace
}  // namespace reprise::worker
