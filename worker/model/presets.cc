#include "worker/model/presets.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/json.h"

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

const std::vector<Preset>& Presets() {
  static const auto* const presets = new std::vector<Preset>{
      {"tiny", TinyTied()},        {"tiny-mha", Tiny(4)},     {"tiny-mqa", Tiny(1)},
      {"tiny-gqa", Tiny(2)},       {"tiny-bias", TinyBias()}, {"tiny-llama3", TinyLlama3()},
      {"llama-160m", Llama160m()}, {"llama-1b", Llama1b()},   {"llama-8b", Llama8b()},
  };
  return *presets;
}

// Seventeen digits bring any double back to the bit.
std::string Number(double value) { return absl::StrFormat("%.17g", value); }

std::string RopeScalingJson(const RopeScaling& s) {
  if (s.kind == RopeKind::kDefault) return "null";
  JsonWriter writer;
  writer.Field("rope_type", s.kind == RopeKind::kLinear ? "linear" : "llama3");
  writer.Raw("factor", Number(s.factor));
  if (s.kind == RopeKind::kLlama3) {
    writer.Raw("low_freq_factor", Number(s.low_freq_factor))
        .Raw("high_freq_factor", Number(s.high_freq_factor))
        .Field("original_max_position_embeddings", s.original_context);
  }
  return writer.Take();
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

std::string ConfigJson(const ModelConfig& c) {
  JsonWriter writer;
  writer.Raw("architectures", R"(["LlamaForCausalLM"])")
      .Field("model_type", "llama")
      .Field("hidden_size", c.hidden)
      .Field("intermediate_size", c.intermediate)
      .Field("num_hidden_layers", c.layers)
      .Field("num_attention_heads", c.heads)
      .Field("num_key_value_heads", c.kv_heads)
      .Field("head_dim", c.head_dim)
      .Field("vocab_size", c.vocab)
      .Field("max_position_embeddings", c.context)
      .Raw("rms_norm_eps", Number(c.rms_eps))
      .Raw("rope_theta", Number(c.rope_theta))
      .Raw("rope_scaling", RopeScalingJson(c.rope_scaling))
      .Field("hidden_act", "silu")
      .Field("tie_word_embeddings", c.tied_embeddings)
      .Field("attention_bias", c.attention_bias)
      .Field("mlp_bias", c.mlp_bias);
  if (c.bos_id.has_value()) writer.Field("bos_token_id", *c.bos_id);
  writer.Raw("eos_token_id", absl::StrCat("[", absl::StrJoin(c.eos_ids, ", "), "]"));
  if (!c.dtype.empty()) writer.Field("torch_dtype", c.dtype);
  return writer.Take() + "\n";
}

}  // namespace reprise::worker
