#include "coordinator/planner/kv_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace reprise::planner {
namespace {

double GiBAt(const KvLayout& layout, int64_t tokens) {
  return static_cast<double>(*KvBytes(layout, tokens)) / kGiB;
}

// The published table's unit is 2^30 bytes; its GQA has 24 KV heads (4 query heads each), its MLKV
// one KV head in every fourth layer.
TEST(KvLayout, Opt175bAt32768TokenSlots) {
  std::map<std::string, KvLayout> layouts;
  for (const NamedLayout& named : CompareLayouts(*PresetShape("opt-175b"), 4)) {
    layouts[named.name] = named.layout;
  }
  EXPECT_EQ(GiBAt(layouts["MHA"], 32'768), 144);
  EXPECT_EQ(GiBAt(layouts["MQA"], 32'768), 1.5);
  EXPECT_EQ(GiBAt(layouts["GQA"], 32'768), 36);
  EXPECT_EQ(layouts["GQA"].kv_heads, 24);
  EXPECT_EQ(GiBAt(layouts["MLKV"], 32'768), 0.375);
  EXPECT_EQ(layouts["MLKV"].kv_layers, 24);
  EXPECT_EQ(GiBAt(layouts["CLA"], 32'768), 72);
}

// 80 layers x 64 heads x 128 x batch 8 x 1,000 tokens in 16 bit, in 10^9 bytes; Llama-3-70B has 8
// KV heads in truth.
TEST(KvLayout, EightSequencesOfAThousandTokensOf80LayersAnd64Heads) {
  KvLayout layout{.kv_layers = 80, .kv_heads = 64, .head_dim = 128};
  EXPECT_EQ(*KvBytes(layout, 8 * 1000), 20'971'520'000);
  layout.kv_heads = 8;
  EXPECT_EQ(*KvBytes(layout, 8 * 1000), 2'621'440'000);
  EXPECT_EQ(layout, PresetShape("llama-3-70b")->kv);
}

TEST(KvLayout, BytesPerTokenOfThePresets) {
  const auto kib = [](const char* name) {
    return static_cast<double>(BytesPerToken(PresetShape(name)->kv)) / 1024;
  };
  EXPECT_EQ(kib("opt-66b"), 2304);
  EXPECT_EQ(kib("llama-3-70b"), 320);
  EXPECT_EQ(kib("llama-3-8b"), 128);
  EXPECT_EQ(kib("deepseek-v3"), 68.625);
  // DejaVu's simulator has these in 10^9 bytes.
  EXPECT_NEAR(kib("opt-30b") * 1024 / kGB, 0.001375, 2e-6);
  EXPECT_NEAR(kib("bloom-176b") * 1024 / kGB, 0.004, 2e-5);
}

TEST(KvLayout, ElementWidthCounts) {
  KvLayout layout = PresetShape("llama-3-8b")->kv;
  layout.element_bytes = 1;
  EXPECT_EQ(BytesPerToken(layout), 64 << 10);
}

TEST(KvLayout, EveryPresetIsValid) {
  for (const ModelShape& shape : PresetShapes()) {
    EXPECT_TRUE(ValidateShape(shape).ok()) << shape.name;
    for (const NamedLayout& named : CompareLayouts(shape, 4)) {
      EXPECT_TRUE(ValidateLayout(named.layout).ok()) << shape.name << " " << named.name;
    }
  }
  const auto unknown = PresetShape("gpt-9");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(unknown.status().message()), testing::HasSubstr("opt-66b"));
}

TEST(KvLayout, RefusesWhatIsOutOfRange) {
  ModelShape shape = *PresetShape("llama-3-8b");
  shape.kv.kv_heads = 33;
  EXPECT_EQ(ValidateShape(shape).message(), "kv_heads is 33, the range is 1 to 32");
  shape.kv.kv_heads = 8;
  shape.kv.kv_layers = 33;
  EXPECT_EQ(ValidateShape(shape).message(), "kv_layers is 33, the range is 1 to 32");
  shape.kv.kv_layers = 32;
  shape.kv.rope = 64;
  EXPECT_FALSE(ValidateShape(shape).ok());
  EXPECT_EQ(KvBytes(shape.kv, INT64_MAX).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(KvBytes(shape.kv, -1).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(KvLayout, MachinesHoldWeightsAndKv) {
  EXPECT_EQ(MachinesFor(100, 60, 80), 2);
  EXPECT_EQ(MachinesFor(100, 61, 80), 3);
  EXPECT_EQ(MachinesFor(1, 0, 80), 1);
}

}  // namespace
}  // namespace reprise::planner
