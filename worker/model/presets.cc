#include "worker/model/presets.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace reprise::worker {
namespace {

struct Preset {
  absl::string_view name;
  ModelConfig config;
};

// Two layers over 512 tokens: small enough for any test, with every part a large model has.
ModelConfig Tiny(int64_t kv_heads) {
  ModelConfig c;
  c.hidden = 64;
  c.intermediate = 160;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = kv_heads;
  c.head_dim = 16;
  c.vocab = 512;
  c.context = 512;
  c.rms_eps = 1e-5;
  c.bos_id = 0;
  c.eos_ids = {0};
  return c;
}

// Wide and deep enough for two stages of up to eight tensor ranks, long enough for context ranks.
ModelConfig TinyWide() {
  ModelConfig c = Tiny(4);
  c.hidden = 128;
  c.intermediate = 8 * 64;
  c.layers = 4;
  c.heads = 8;
  c.head_dim = 32;
  c.context = 4096;
  return c;
}

ModelConfig TinyBias() {
  ModelConfig c = Tiny(2);
  c.attention_bias = true;
  c.mlp_bias = true;
  return c;
}

// Scaling that meets all three ranges of wavelengths, and a head size apart from hidden / heads.
ModelConfig TinyLlama3() {
  ModelConfig c = Tiny(2);
  c.head_dim = 32;
  c.tied_embeddings = true;
  c.rope_scaling = {RopeKind::kLlama3, 8, 1, 4, 64};
  return c;
}

ModelConfig TinyTied() {
  ModelConfig c = Tiny(2);
  c.tied_embeddings = true;
  return c;
}

ModelConfig Llama160m() {  // JackFram/llama-160m
  ModelConfig c = Tiny(12);
  c.hidden = 768;
  c.intermediate = 3072;
  c.layers = 12;
  c.heads = 12;
  c.head_dim = 64;
  c.vocab = 32000;
  c.context = 2048;
  c.rms_eps = 1e-6;
  return c;
}

ModelConfig Llama1b() {  // Llama-3.2-1B
  ModelConfig c = Tiny(8);
  c.hidden = 2048;
  c.intermediate = 8192;
  c.layers = 16;
  c.heads = 32;
  c.head_dim = 64;
  c.vocab = 128256;
  c.context = 131072;
  c.tied_embeddings = true;
  c.rope_theta = 500000;
  c.rope_scaling = {RopeKind::kLlama3, 32, 1, 4, 8192};
  return c;
}

ModelConfig Llama8b() {  // Llama-3.1-8B
  ModelConfig c = Llama1b();
  c.hidden = 4096;
  c.intermediate = 14336;
  c.layers = 32;
  c.head_dim = 128;
  c.tied_embeddings = false;
  c.rope_scaling.factor = 8;
  return c;
}

RopeScaling Yarn(double factor, int64_t original_context, double mscale) {
  RopeScaling s;
  s.kind = RopeKind::kYarn;
  s.factor = factor;
  s.original_context = original_context;
  s.mscale_all_dim = mscale;
  return s;
}

// `dense` layers with an MLP come first.
void SetMixture(ModelConfig& c, ExpertMixture m, int64_t dense) {
  for (int64_t layer = 0; layer < c.layers; ++layer) m.layers.push_back(layer >= dense);
  c.mixture = std::move(m);
}

// Three layers, so that some stand before, between and after others, with eight experts.
ModelConfig TinyMixture(Family family) {
  ModelConfig c = Tiny(2);
  c.family = family;
  c.layers = 3;
  c.rms_eps = 1e-6;
  return c;
}

ModelConfig TinyDeepseek(Family family, int64_t q_rank) {
  ModelConfig c = TinyMixture(family);
  c.kv_heads = c.heads;
  c.latent = LatentAttention{q_rank, 32, 24, 16, 20};
  c.head_dim = c.latent->nope_dim + c.latent->rope_dim;
  c.rope_scaling = Yarn(8, 64, family == Family::kDeepseekV3 ? 1 : 0.707);
  return c;
}

ModelConfig TinyDeepseekV2Lite() {
  ModelConfig c = TinyDeepseek(Family::kDeepseekV2, 0);
  SetMixture(c, {.experts = 8, .per_token = 3, .intermediate = 32, .shared_intermediate = 64}, 1);
  return c;
}

ModelConfig TinyDeepseekV2() {
  ModelConfig c = TinyDeepseek(Family::kDeepseekV2, 28);
  SetMixture(c,
             {.experts = 8,
              .per_token = 3,
              .intermediate = 32,
              .shared_intermediate = 64,
              .groups = 4,
              .groups_kept = 2,
              .scale = 4},
             1);
  return c;
}

ExpertMixture V3Gate(ExpertMixture m) {
  m.sigmoid = m.bias = m.normalize = true;
  m.scale = 2.5;
  return m;
}

ModelConfig TinyDeepseekV3() {
  ModelConfig c = TinyDeepseek(Family::kDeepseekV3, 28);
  SetMixture(c,
             V3Gate({.experts = 8,
                     .per_token = 3,
                     .intermediate = 32,
                     .shared_intermediate = 32,
                     .groups = 4,
                     .groups_kept = 2}),
             1);
  return c;
}

ModelConfig TinyMixtral() {
  ModelConfig c = TinyMixture(Family::kMixtral);
  c.rope_theta = 1e6;
  SetMixture(c, {.experts = 8, .per_token = 2, .intermediate = 160, .normalize = true}, 0);
  return c;
}

ModelConfig TinyQwen3Moe() {
  ModelConfig c = TinyMixture(Family::kQwen3Moe);
  c.rope_theta = 1e6;
  c.qk_norm = true;
  SetMixture(c, {.experts = 8, .per_token = 3, .intermediate = 32, .normalize = true}, 1);
  return c;
}

ModelConfig DeepseekV2Lite() {  // deepseek-ai/DeepSeek-V2-Lite
  ModelConfig c;
  c.family = Family::kDeepseekV2;
  c.hidden = 2048;
  c.intermediate = 10944;
  c.layers = 27;
  c.heads = c.kv_heads = 16;
  c.head_dim = 192;
  c.vocab = 102400;
  c.context = 163840;
  c.latent = LatentAttention{0, 512, 128, 64, 128};
  c.rope_scaling = Yarn(40, 4096, 0.707);
  c.bos_id = 100000;
  c.eos_ids = {100001};
  SetMixture(c, {.experts = 64, .per_token = 6, .intermediate = 1408, .shared_intermediate = 2816},
             1);
  return c;
}

ModelConfig DeepseekV2() {  // deepseek-ai/DeepSeek-V2
  ModelConfig c = DeepseekV2Lite();
  c.hidden = 5120;
  c.intermediate = 12288;
  c.layers = 60;
  c.heads = c.kv_heads = 128;
  c.latent->q_rank = 1536;
  SetMixture(c,
             {.experts = 160,
              .per_token = 6,
              .intermediate = 1536,
              .shared_intermediate = 3072,
              .groups = 8,
              .groups_kept = 3,
              .scale = 16},
             1);
  return c;
}

ModelConfig DeepseekV3() {  // deepseek-ai/DeepSeek-V3
  ModelConfig c = DeepseekV2();
  c.family = Family::kDeepseekV3;
  c.hidden = 7168;
  c.intermediate = 18432;
  c.layers = 61;
  c.vocab = 129280;
  c.rope_scaling = Yarn(40, 4096, 1);
  c.bos_id = 0;
  c.eos_ids = {1};
  SetMixture(c,
             V3Gate({.experts = 256,
                     .per_token = 8,
                     .intermediate = 2048,
                     .shared_intermediate = 2048,
                     .groups = 8,
                     .groups_kept = 4}),
             3);
  return c;
}

ModelConfig Mixtral8x7b() {  // mistralai/Mixtral-8x7B-v0.1
  ModelConfig c;
  c.family = Family::kMixtral;
  c.hidden = 4096;
  c.intermediate = 14336;
  c.layers = 32;
  c.heads = 32;
  c.kv_heads = 8;
  c.head_dim = 128;
  c.vocab = 32000;
  c.context = 32768;
  c.rms_eps = 1e-5;
  c.rope_theta = 1e6;
  c.bos_id = 1;
  c.eos_ids = {2};
  SetMixture(c, {.experts = 8, .per_token = 2, .intermediate = 14336, .normalize = true}, 0);
  return c;
}

ModelConfig Qwen3Moe30b() {  // Qwen/Qwen3-30B-A3B
  ModelConfig c;
  c.family = Family::kQwen3Moe;
  c.hidden = 2048;
  c.intermediate = 6144;
  c.layers = 48;
  c.heads = 32;
  c.kv_heads = 4;
  c.head_dim = 128;
  c.vocab = 151936;
  c.context = 40960;
  c.rope_theta = 1e6;
  c.qk_norm = true;
  c.bos_id = 151643;
  c.eos_ids = {151645};
  SetMixture(c, {.experts = 128, .per_token = 8, .intermediate = 768, .normalize = true}, 0);
  return c;
}

const std::vector<Preset>& Presets() {
  static const auto* const presets = new std::vector<Preset>{
      {"tiny", TinyTied()},
      {"tiny-mha", Tiny(4)},
      {"tiny-mqa", Tiny(1)},
      {"tiny-gqa", Tiny(2)},
      {"tiny-bias", TinyBias()},
      {"tiny-llama3", TinyLlama3()},
      {"tiny-wide", TinyWide()},
      {"llama-160m", Llama160m()},
      {"llama-1b", Llama1b()},
      {"llama-8b", Llama8b()},
      {"tiny-deepseek-v2-lite", TinyDeepseekV2Lite()},
      {"tiny-deepseek-v2", TinyDeepseekV2()},
      {"tiny-deepseek-v3", TinyDeepseekV3()},
      {"tiny-mixtral", TinyMixtral()},
      {"tiny-qwen3-moe", TinyQwen3Moe()},
      {"deepseek-v2-lite", DeepseekV2Lite()},
      {"deepseek-v2", DeepseekV2()},
      {"deepseek-v3", DeepseekV3()},
      {"mixtral-8x7b", Mixtral8x7b()},
      {"qwen3-30b-a3b", Qwen3Moe30b()},
  };
  return *presets;
}

void Take(int64_t size, int64_t& to) {
  if (size != 0) to = size;
}

void ResizeMixture(const ShapeSizes& sizes, ModelConfig& c) {
  ExpertMixture& m = *c.mixture;
  m.layers.resize(static_cast<size_t>(c.layers), m.layers.back());
  Take(sizes.experts, m.experts);
  Take(sizes.experts_per_token, m.per_token);
  const int64_t shared = m.shared_intermediate / m.intermediate;
  Take(c.family == Family::kMixtral ? sizes.intermediate : 0, m.intermediate);
  Take(sizes.expert_intermediate, m.intermediate);
  m.shared_intermediate = shared * m.intermediate;
  if (c.family == Family::kMixtral) c.intermediate = m.intermediate;  // its files have one key
}

}  // namespace

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : Presets()) names.emplace_back(preset.name);
  return names;
}

StatusOr<ModelConfig> PresetConfig(absl::string_view name) {
  for (const Preset& preset : Presets()) {
    if (preset.name == name) return preset.config;
  }
  return absl::NotFoundError(
      absl::StrCat("preset \"", name, "\" is not one of ", absl::StrJoin(PresetNames(), ", ")));
}

StatusOr<ModelConfig> Resized(ModelConfig c, const ShapeSizes& sizes) {
  if (!c.mixture &&
      (sizes.experts != 0 || sizes.experts_per_token != 0 || sizes.expert_intermediate != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(FamilyName(c.family), " of this shape has no experts to resize"));
  }
  const int64_t sharing = c.heads / c.kv_heads;
  Take(sizes.layers, c.layers);
  Take(sizes.hidden, c.hidden);
  Take(sizes.heads, c.heads);
  Take(sizes.intermediate, c.intermediate);
  Take(sizes.vocab, c.vocab);
  Take(sizes.context, c.context);
  c.kv_heads = c.heads / sharing;
  if (c.mixture) ResizeMixture(sizes, c);
  if (c.bos_id.has_value() && *c.bos_id >= c.vocab) c.bos_id = 0;
  for (int32_t& id : c.eos_ids) {
    if (id >= c.vocab) id = 0;
  }
  return c;
}

}  // namespace reprise::worker
