// Both forms of latent attention against the reference in double: no element outside its derived
// bound, in f32 and with bf16 weights and cache, and the two forms no further apart than their
// bounds together.
#include "worker/model/latent_reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "common/random.h"
#include "worker/model/latent_layer.h"
#include "worker/model/test_models.h"
#include "worker/model/weights.h"

namespace reprise::worker {
namespace {

using kernels::DType;

constexpr int64_t kRows = 100;  // crosses blocks of 64 keys and pages of 16

// One layer of a made model, its inputs, and everything that computes with them.
struct Layer {
  ModelFolder folder;
  ModelWeights weights;
  LatentReference reference;
  std::vector<float> x;
};

// Values like those that come out of a norm, about one, either sign; eight bits of significand, so
// that bf16 products take them as they are.
std::vector<float> Inputs(int64_t rows, int64_t hidden) {
  SplitMix64 random(11);
  std::vector<float> x(static_cast<size_t>(rows * hidden));
  for (float& value : x) {
    value = static_cast<float>(static_cast<int64_t>(random.Below(255)) - 127) * 0x1p-6F;
  }
  return x;
}

Layer Make(const ModelConfig& config, const std::string& dtype) {
  auto folder = ModelFolder::Open(TestModel(config, {.dtype = dtype}));
  EXPECT_TRUE(folder.ok()) << folder.status();
  auto weights = LoadModelWeights(*folder);
  EXPECT_TRUE(weights.ok()) << weights.status();
  auto reference = LatentReference::Load(*folder, 0);
  EXPECT_TRUE(reference.ok()) << reference.status();
  std::vector<float> x = Inputs(kRows, folder->config().hidden);
  return {*std::move(folder), *std::move(weights), *std::move(reference), std::move(x)};
}

Layer Make(const std::string& preset, const std::string& dtype) {
  return Make(*PresetConfig(preset), dtype);
}

kernels::F32 InputsOf(Layer& layer) {
  const int64_t hidden = layer.folder.config().hidden;
  return {layer.x.data(), kRows, hidden, hidden};
}

LatentLayer Computer(Layer& layer, DType cache) {
  return {layer.folder.config(),
          layer.weights.layers[0],
          {.threads = 2, .kv_dtype = cache, .block_tokens = 16, .pages = (kRows + 15) / 16}};
}

struct Case {
  const char* preset;
  const char* dtype;
  DType cache;
};
class LatentBounds : public testing::TestWithParam<Case> {};

TEST_P(LatentBounds, HoldInBothFormsAndBetweenThem) {
  const Case& c = GetParam();
  Layer layer = Make(c.preset, c.dtype);
  const LatentRounding rounding{std::string(c.dtype) == "bf16" ? DType::kBF16 : DType::kF32,
                                c.cache};
  std::vector<float> found[2];
  Bounded want[2];
  for (const LatentForm form : {LatentForm::kExpanded, LatentForm::kAbsorbed}) {
    LatentLayer computer = Computer(layer, c.cache);
    const bool expanded = form == LatentForm::kExpanded;
    const kernels::F32 out = computer.Run(InputsOf(layer), expanded ? kRows : 0);
    const auto i = static_cast<size_t>(form);
    want[i] = layer.reference.Attended(InputsOf(layer), form, rounding);
    const double share = LargestShareOfBound(out, want[i]);
    EXPECT_LE(share, 1) << (expanded ? "expanded" : "absorbed");
    const bool f32 = rounding.weights == DType::kF32 && c.cache == DType::kF32;
    EXPECT_GT(share, f32 ? 1e-3 : 0.05) << "a bound that far away would hold for anything";
    RecordProperty(expanded ? "expanded" : "absorbed", std::to_string(share));
    found[i].assign(out.data, out.data + want[i].rows * want[i].cols);
  }
  EXPECT_EQ(want[0].value.size(), want[1].value.size());
  EXPECT_NE(found[0], found[1]) << "two forms, two roundings";
  for (size_t i = 0; i < found[0].size(); ++i) {
    ASSERT_NEAR(want[0].value[i], want[1].value[i], 1e-12) << "one function";
    ASSERT_LE(std::abs(static_cast<double>(found[0][i]) - found[1][i]),
              want[0].bound[i] + want[1].bound[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, LatentBounds,
                         testing::Values(Case{"tiny-deepseek-v2-lite", "f32", DType::kF32},
                                         Case{"tiny-deepseek-v2-lite", "f32", DType::kBF16},
                                         Case{"tiny-deepseek-v2-lite", "bf16", DType::kBF16},
                                         Case{"tiny-deepseek-v2", "bf16", DType::kBF16},
                                         Case{"tiny-deepseek-v3", "bf16", DType::kF32},
                                         Case{"tiny-deepseek-v3", "bf16", DType::kBF16}));

// No size but the rotated one needs to be even, or to fill a vector.
TEST(LatentBounds, HoldAtOddSizes) {
  ModelConfig config = *PresetConfig("tiny-deepseek-v2");
  config.latent =
      LatentAttention{.q_rank = 27, .kv_rank = 35, .nope_dim = 23, .rope_dim = 10, .value_dim = 19};
  config.head_dim = 33;
  Layer layer = Make(config, "bf16");
  for (const LatentForm form : {LatentForm::kExpanded, LatentForm::kAbsorbed}) {
    LatentLayer computer = Computer(layer, DType::kBF16);
    const kernels::F32 out =
        computer.Run(InputsOf(layer), form == LatentForm::kExpanded ? kRows : 0);
    const Bounded want =
        layer.reference.Attended(InputsOf(layer), form, {DType::kBF16, DType::kBF16});
    EXPECT_LE(LargestShareOfBound(out, want), 1);
  }
}

// The bound is of this computation: one with an error of its own leaves it.
TEST(LatentBounds, AWrongSoftmaxScaleIsOutside) {
  Layer layer = Make("tiny-deepseek-v3", "bf16");
  ModelConfig config = layer.folder.config();
  config.rope_scaling.mscale_all_dim = 0;  // YaRN's share of the scale left out
  for (const int64_t prompt_end : {kRows, int64_t{0}}) {
    LatentLayer computer(config, layer.weights.layers[0], {.pages = 3});
    const kernels::F32 out = computer.Run(InputsOf(layer), prompt_end);
    const LatentForm form = prompt_end > 0 ? LatentForm::kExpanded : LatentForm::kAbsorbed;
    const Bounded want =
        layer.reference.Attended(InputsOf(layer), form, {DType::kBF16, DType::kBF16});
    EXPECT_GT(LargestShareOfBound(out, want), 1);
  }
}

TEST(LatentBounds, ALostNumberIsInfinitelyFar) {
  Bounded want{1, 2, {1, 1}, {1, 1}};
  std::vector<float> found = {1, NAN};
  EXPECT_EQ(LargestShareOfBound({found.data(), 1, 2, 2}, want), INFINITY);
  found[1] = 3;
  EXPECT_EQ(LargestShareOfBound({found.data(), 1, 2, 2}, want), 2);
}

TEST(LatentReference, IsForLatentAttention) {
  const auto folder = ModelFolder::Open(TestModel("tiny"));
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_THAT(LatentReference::Load(*folder, 0).status().message(),
              testing::HasSubstr("the reference computes latent attention"));
}

}  // namespace
}  // namespace reprise::worker
