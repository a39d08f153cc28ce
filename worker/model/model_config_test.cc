#include "worker/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "common/test_data.h"

namespace reprise::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kBase[] = R"("architectures": ["LlamaForCausalLM"], "hidden_size": 64,
  "intermediate_size": 172, "num_hidden_layers": 5, "num_attention_heads": 8,
  "vocab_size": 512, "max_position_embeddings": 512)";

StatusOr<ModelConfig> Parse(absl::string_view more) {
  return ParseModelConfig(absl::StrCat("{", kBase, more.empty() ? "" : ",", more, "}"));
}

std::string Refusal(absl::string_view more) {
  const auto config = Parse(more);
  return config.ok() ? "accepted" : std::string(config.status().message());
}

// A small DeepSeek-V3; `more` comes first, so that it wins.
std::string DeepseekRefusal(absl::string_view more) {
  const auto config = ParseModelConfig(absl::StrCat(
      "{", more, more.empty() ? "" : ",",
      R"("architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 64, "intermediate_size": 172,
      "num_hidden_layers": 5, "num_attention_heads": 8, "vocab_size": 512,
      "max_position_embeddings": 512)",
      absl::StrContains(more, "kv_lora_rank") ? "" : R"(, "kv_lora_rank": 32)",
      absl::StrContains(more, "qk_rope_head_dim") ? "" : R"(, "qk_rope_head_dim": 16)",
      absl::StrContains(more, "n_routed_experts") ? "" : R"(, "n_routed_experts": 8)",
      absl::StrContains(more, "num_experts_per_tok") ? "" : R"(, "num_experts_per_tok": 2)",
      R"(, "qk_nope_head_dim": 24, "v_head_dim": 20, "moe_intermediate_size": 48})"));
  return config.ok() ? "accepted" : std::string(config.status().message());
}

TEST(ModelConfig, LatentAttentionAndExpertsAreCheckedByName) {
  EXPECT_EQ(DeepseekRefusal(""), "accepted");
  EXPECT_THAT(DeepseekRefusal(R"("kv_lora_rank": 4096)"), HasSubstr("\"kv_lora_rank\" is 4096"));
  EXPECT_THAT(DeepseekRefusal(R"("qk_rope_head_dim": 15)"), HasSubstr("not even"));
  EXPECT_THAT(DeepseekRefusal(R"("n_routed_experts": 9, "n_group": 2)"),
              HasSubstr("not a multiple of \"n_group\", 2"));
  EXPECT_THAT(DeepseekRefusal(R"("num_experts_per_tok": 9)"),
              HasSubstr("is 9, the range is 1 to 8"));
  EXPECT_THAT(DeepseekRefusal(R"("num_experts_per_tok": 5, "n_group": 4, "topk_group": 2)"),
              HasSubstr("the groups kept hold 4 experts"));
  EXPECT_THAT(DeepseekRefusal(R"("scoring_func": "softmax")"), HasSubstr("scoring_func"));
  EXPECT_THAT(DeepseekRefusal(R"("topk_method": "greedy")"), HasSubstr("noaux_tc"));
  EXPECT_THAT(DeepseekRefusal(R"("first_k_dense_replace": 6)"), HasSubstr("range is 0 to 5"));
}

// The two keys of converted models (docs/models.md).
TEST(ModelConfig, ARotatedKeyMayBeSeveralHeadsAndTheScaleItsOwn) {
  EXPECT_EQ(DeepseekRefusal(R"("qk_rope_heads": 4, "query_pre_attn_scalar": 24)"), "accepted");
  EXPECT_THAT(DeepseekRefusal(R"("qk_rope_heads": 0)"), HasSubstr("\"qk_rope_heads\" is 0"));
  EXPECT_THAT(DeepseekRefusal(R"("qk_rope_heads": "2")"), HasSubstr("qk_rope_heads"));
  EXPECT_THAT(DeepseekRefusal(R"("qk_rope_heads": 3)"),
              HasSubstr("is 16, not \"qk_rope_heads\", 3, times an even number"));
  EXPECT_THAT(DeepseekRefusal(R"("qk_rope_heads": 16)"), HasSubstr("16, times an even number"));
  EXPECT_THAT(DeepseekRefusal(R"("query_pre_attn_scalar": 0)"),
              HasSubstr("\"query_pre_attn_scalar\" is 0, the range is 1"));
  ModelConfig c;
  c.head_dim = 48;
  c.latent = LatentAttention{.rope_dim = 32};
  const std::string plain = c.CanonicalText();
  c.latent->rope_heads = 2;
  const std::string heads = c.CanonicalText();
  c.latent->scale_dims = 16;
  EXPECT_NE(heads, plain);
  EXPECT_NE(c.CanonicalText(), heads);
  EXPECT_DOUBLE_EQ(c.attention_scale(), 0.25);
}

TEST(ModelConfig, YarnIsReadAsItsFamiliesMeanIt) {
  const auto both = Parse(
      R"("rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0})");
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_EQ(both->rope_scaling.amplitude, 1);
  const auto plain = Parse(R"("rope_scaling": {"rope_type": "yarn", "factor": 40})");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_NEAR(plain->rope_scaling.amplitude, 1.3688879454, 1e-9);
  // The softmax scale of DeepSeek-V3: 192^-1/2 times 1.3689^2.
  const auto v3 = ParseModelConfig(
      R"({"architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 64, "intermediate_size": 172,
      "num_hidden_layers": 1, "num_attention_heads": 8, "vocab_size": 512,
      "max_position_embeddings": 163840, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
      "qk_nope_head_dim": 128, "v_head_dim": 128, "rope_scaling": {"type": "yarn", "factor": 40,
      "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}})");
  ASSERT_TRUE(v3.ok()) << v3.status();
  EXPECT_NEAR(v3->attention_scale(), 0.13523, 1e-5);
}

TEST(ModelConfig, ReadsTheSmallStoriesModel) {
  const std::string dir = SharedDataOrSkip("stories260k/hf");
  if (dir.empty()) GTEST_SKIP() << SharedDataMissing();
  const auto c = LoadModelConfig(dir);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->kv_heads, 4);
  EXPECT_EQ(c->head_dim, 8);
  EXPECT_TRUE(c->tied_embeddings);
  EXPECT_EQ(c->bos_id, 1);
  EXPECT_THAT(c->eos_ids, ElementsAre(2));
  EXPECT_EQ(c->dtype, "float32");
  EXPECT_EQ(c->parameters(), 260'032);
  const auto defaults = LoadGenerationDefaults(dir, *c);
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_THAT(defaults->eos_ids, ElementsAre(2)) << "from config.json, the other file is absent";
  EXPECT_FALSE(defaults->temperature.has_value());
}

TEST(ModelConfig, FillsInDefaults) {
  const auto c = Parse("");
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->kv_heads, 8);
  EXPECT_EQ(c->head_dim, 8);
  EXPECT_EQ(c->rope_theta, 10000);
  EXPECT_EQ(c->rope_scaling.kind, RopeKind::kDefault);
  EXPECT_FALSE(c->tied_embeddings);
  EXPECT_FALSE(c->bos_id.has_value());
}

TEST(ModelConfig, ReadsBothSpellingsOfRopeScaling) {
  constexpr char kLlama3[] = R"("factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8192)";
  const auto old_form = Parse(absl::StrCat(
      R"("rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", )", kLlama3, "}"));
  const auto new_form = Parse(absl::StrCat(
      R"("rope_parameters": {"rope_theta": 500000, "rope_type": "llama3", )", kLlama3, "}"));
  ASSERT_TRUE(old_form.ok()) << old_form.status();
  ASSERT_TRUE(new_form.ok()) << new_form.status();
  EXPECT_EQ(old_form->rope_scaling.kind, RopeKind::kLlama3);
  EXPECT_EQ(old_form->rope_scaling.original_context, 8192);
  EXPECT_EQ(*old_form, *new_form);
  const auto linear = Parse(R"("rope_scaling": {"type": "linear", "factor": 2})");
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ(linear->rope_scaling.kind, RopeKind::kLinear);
  EXPECT_EQ(Parse(R"("rope_scaling": {"type": "default"})")->rope_scaling, RopeScaling{});
}

TEST(ModelConfig, RefusesByNameLimitAndValue) {
  EXPECT_THAT(Refusal(R"("num_key_value_heads": 3)"), HasSubstr("not a multiple"));
  EXPECT_THAT(Refusal(R"("num_key_value_heads": 0)"), HasSubstr("is 0, the range is 1 to 1024"));
  EXPECT_THAT(Refusal(R"("head_dim": 258)"), HasSubstr("\"head_dim\" is 258, the range is 2 to"));
  EXPECT_THAT(Refusal(R"("head_dim": 7)"), HasSubstr("not even"));
  EXPECT_THAT(Refusal(R"("hidden_act": "gelu")"), HasSubstr("\"hidden_act\" is \"gelu\""));
  EXPECT_THAT(Refusal(R"("model_type": "mistral")"), HasSubstr("\"mistral\""));
  EXPECT_THAT(Refusal(R"("sliding_window": 4096)"), HasSubstr("sliding_window"));
  EXPECT_THAT(Refusal(R"("partial_rotary_factor": 0.5)"), HasSubstr("partial_rotary_factor"));
  EXPECT_THAT(Refusal(R"("rope_scaling": {"rope_type": "longrope", "factor": 2})"),
              HasSubstr("\"longrope\""));
  EXPECT_THAT(Refusal(R"("rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1})"),
              HasSubstr("\"beta_fast\" is 1, not above \"beta_slow\""));
  EXPECT_THAT(Refusal(R"("rope_scaling": {"type": "yarn", "factor": 2, "truncate": false})"),
              HasSubstr("truncate"));
  EXPECT_THAT(Refusal(R"("rope_theta": 1, "rope_scaling": {"type": "yarn", "factor": 2})"),
              HasSubstr("must be above 1"));
  EXPECT_THAT(Refusal(R"("rope_scaling": {"type": "linear"})"), HasSubstr("\"factor\" is 0"));
  EXPECT_THAT(Refusal(R"("rope_scaling": 3)"), HasSubstr("null or an object"));
  EXPECT_THAT(Refusal(R"("rms_norm_eps": 0)"), HasSubstr("\"rms_norm_eps\" is 0"));
  EXPECT_THAT(Refusal(R"("eos_token_id": [1, 512])"), HasSubstr("is 512, the range is 0 to 511"));
  EXPECT_THAT(Refusal(R"("bos_token_id": "a")"), HasSubstr("not an integer"));
  EXPECT_THAT(Refusal(R"("torch_dtype": "float8")"), HasSubstr("float8"));
  EXPECT_THAT(Refusal(R"("attention_bias": 1)"), HasSubstr("must be true or false"));
  EXPECT_THAT(Refusal(R"("vocab_size": 5)"), HasSubstr("twice"));
  EXPECT_THAT(ParseModelConfig(R"({"architectures": ["MistralForCausalLM"]})").status().message(),
              HasSubstr("MistralForCausalLM"));
  EXPECT_THAT(ParseModelConfig(R"({"architectures": ["LlamaForCausalLM"]})").status().message(),
              HasSubstr("\"hidden_size\" is 0"));
  EXPECT_FALSE(ParseModelConfig("[]").ok());
}

TEST(ModelConfig, QuantizationIsFp8ByBlocksOrRefused) {
  const auto with = [](absl::string_view keys) {
    return absl::StrCat("\"quantization_config\": {", keys, "}");
  };
  constexpr char kMethod[] = R"("quant_method": "fp8")";
  constexpr char kSize[] = R"("quant_method": "fp8", "weight_block_size": [128, 64])";
  const auto config = Parse(with(kSize));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(*config->block_scales, (BlockScales{128, 64}));
  EXPECT_NE(config->CanonicalText(), Parse("")->CanonicalText());
  EXPECT_FALSE(Parse(R"("quantization_config": null)")->block_scales.has_value());
  EXPECT_THAT(Refusal(R"("quantization_config": 8)"), HasSubstr("must be null or an object"));
  EXPECT_THAT(Refusal(with("")), HasSubstr("\"quantization_config.quant_method\" is \"\""));
  EXPECT_THAT(Refusal(with(R"("quant_method": "awq")")), HasSubstr("is \"awq\", supported: \"fp8"));
  EXPECT_THAT(Refusal(with(absl::StrCat(kSize, R"(, "fmt": "e5m2")"))), HasSubstr("e5m2"));
  EXPECT_THAT(Refusal(with(absl::StrCat(kSize, R"(, "activation_scheme": "static")"))),
              HasSubstr("static"));
  for (const char* size :
       {"", R"(, "weight_block_size": 128)", R"(, "weight_block_size": [128])"}) {
    EXPECT_THAT(Refusal(with(absl::StrCat(kMethod, size))), HasSubstr("array of two integers"));
  }
  EXPECT_THAT(Refusal(with(absl::StrCat(kMethod, R"(, "weight_block_size": [128, 0])"))),
              HasSubstr("holds 0, the range is 1 to 65536"));
  EXPECT_THAT(Refusal(with(absl::StrCat(kMethod, R"(, "weight_block_size": [65537, 1])"))),
              HasSubstr("holds 65537"));
  EXPECT_THAT(Refusal(with(absl::StrCat(kMethod, R"(, "weight_block_size": [1.5, 1])"))),
              HasSubstr("not an integer"));
}

TEST(ModelConfig, CanonicalTextFollowsWhatIsComputed) {
  const auto text = [](absl::string_view more) { return Parse(more)->CanonicalText(); };
  EXPECT_EQ(text(""), text(R"("eos_token_id": 3, "torch_dtype": "float32")"));
  EXPECT_NE(text(""), text(R"("rope_theta": 10000.000000000002)"));
  EXPECT_NE(text(""), text(R"("rms_norm_eps": 1e-5)"));
  EXPECT_NE(text(""), text(R"("tie_word_embeddings": true)"));
}

TEST(GenerationDefaults, FollowTheFile) {
  const ModelConfig config = *Parse(R"("eos_token_id": 2)");
  const auto d = ParseGenerationDefaults(
      R"({"eos_token_id": [3, 4], "temperature": 0.7, "top_k": 40, "top_p": 0.9,
          "repetition_penalty": 1.1, "max_new_tokens": 64, "do_sample": true})",
      config);
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_THAT(d->eos_ids, ElementsAre(3, 4));
  EXPECT_FLOAT_EQ(*d->temperature, 0.7f);
  EXPECT_EQ(*d->top_k, 40);
  EXPECT_EQ(*d->max_new_tokens, 64);
  const auto greedy = ParseGenerationDefaults(R"({"do_sample": false, "temperature": 1})", config);
  EXPECT_EQ(*greedy->temperature, 0);
  EXPECT_THAT(greedy->eos_ids, ElementsAre(2));
  EXPECT_THAT(ParseGenerationDefaults(R"({"top_p": 1.5})", config).status().message(),
              HasSubstr("\"top_p\" is 1.5"));
  EXPECT_THAT(ParseGenerationDefaults(R"({"eos_token_id": -1})", config).status().message(),
              HasSubstr("is -1"));
}

TEST(ModelConfig, LoaderNamesTheFile) {
  const std::string dir = testing::TempDir() + "/config_folder";
  std::filesystem::create_directories(dir);
  EXPECT_EQ(LoadModelConfig(dir + "/absent").status().code(), absl::StatusCode::kNotFound);
  std::ofstream(dir + "/config.json") << "{";
  EXPECT_THAT(LoadModelConfig(dir).status().message(), HasSubstr(dir + "/config.json"));
  std::ofstream(dir + "/config.json") << std::string((size_t{1} << 20) + 1, ' ');
  EXPECT_EQ(LoadModelConfig(dir).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace reprise::worker
