// config.json as each family's own files spell it.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/json.h"
#include "worker/model/presets.h"

namespace reprise::worker {
namespace {

// Seventeen digits bring any double back to the bit.
std::string Number(double value) { return absl::StrFormat("%.17g", value); }

absl::string_view RopeTypeName(RopeKind kind) {
  switch (kind) {
    case RopeKind::kDefault:
      return "default";
    case RopeKind::kLinear:
      return "linear";
    case RopeKind::kLlama3:
      return "llama3";
    case RopeKind::kYarn:
      return "yarn";
  }
  return "default";
}

std::string RopeScalingJson(const RopeScaling& s) {
  if (s.kind == RopeKind::kDefault) return "null";
  JsonWriter writer;
  writer.Field("rope_type", RopeTypeName(s.kind)).Raw("factor", Number(s.factor));
  if (s.kind == RopeKind::kLinear) return writer.Take();
  writer.Field("original_max_position_embeddings", s.original_context);
  if (s.kind == RopeKind::kLlama3) {
    writer.Raw("low_freq_factor", Number(s.low_freq_factor))
        .Raw("high_freq_factor", Number(s.high_freq_factor));
    return writer.Take();
  }
  writer.Raw("beta_fast", Number(s.beta_fast)).Raw("beta_slow", Number(s.beta_slow));
  writer.Raw("mscale_all_dim", Number(s.mscale_all_dim));
  // Equal weights leave cos and sin alone, as DeepSeek's files say it.
  if (s.amplitude == 1 && s.mscale_all_dim != 0) {
    writer.Raw("mscale", Number(s.mscale_all_dim));
  } else {
    writer.Raw("attention_factor", Number(s.amplitude));
  }
  return writer.Take();
}

void AddQwen3Moe(const ModelConfig& c, JsonWriter& writer) {
  const ExpertMixture& m = *c.mixture;
  std::vector<int64_t> dense;
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    if (!c.is_mixture(layer)) dense.push_back(layer);
  }
  writer.Field("num_experts", m.experts)
      .Field("num_experts_per_tok", m.per_token)
      .Field("moe_intermediate_size", m.intermediate)
      .Field("norm_topk_prob", m.normalize)
      .Field("decoder_sparse_step", int64_t{1})
      .Raw("mlp_only_layers", absl::StrCat("[", absl::StrJoin(dense, ", "), "]"));
}

void AddLatent(const LatentAttention& l, JsonWriter& writer) {
  l.q_rank == 0 ? writer.Raw("q_lora_rank", "null") : writer.Field("q_lora_rank", l.q_rank);
  writer.Field("kv_lora_rank", l.kv_rank)
      .Field("qk_nope_head_dim", l.nope_dim)
      .Field("qk_rope_head_dim", l.rope_dim)
      .Field("v_head_dim", l.value_dim)
      .Field("rope_interleave", l.interleaved);
  if (l.rope_heads != 1) writer.Field("qk_rope_heads", l.rope_heads);
  if (l.scale_dims != 0) writer.Raw("query_pre_attn_scalar", Number(l.scale_dims));
}

void AddDeepseekMixture(const ExpertMixture& m, bool v3, JsonWriter& writer) {
  const auto first = std::find(m.layers.begin(), m.layers.end(), true);
  const bool grouped = v3 || m.groups > 1;
  writer.Field("n_routed_experts", m.experts)
      .Field("num_experts_per_tok", m.per_token)
      .Field("moe_intermediate_size", m.intermediate)
      .Field("n_shared_experts", m.shared_intermediate / m.intermediate)
      .Field("topk_method", v3        ? "noaux_tc"
                            : grouped ? "group_limited_greedy"
                                      : "greedy")
      .Field("scoring_func", m.sigmoid ? "sigmoid" : "softmax")
      .Field("n_group", m.groups)
      .Field("topk_group", m.groups_kept)
      .Field("norm_topk_prob", m.normalize)
      .Raw("routed_scaling_factor", Number(m.scale))
      .Field("first_k_dense_replace", static_cast<int64_t>(first - m.layers.begin()))
      .Field("moe_layer_freq", int64_t{1});
}

void AddFamilyParts(const ModelConfig& c, JsonWriter& writer) {
  switch (c.family) {
    case Family::kLlama:
      return;
    case Family::kMixtral:
      writer.Field("num_local_experts", c.mixture->experts)
          .Field("num_experts_per_tok", c.mixture->per_token);
      return;
    case Family::kQwen3Moe:
      return AddQwen3Moe(c, writer);
    case Family::kDeepseekV2:
    case Family::kDeepseekV3:
      AddLatent(*c.latent, writer);
      if (c.mixture) {
        AddDeepseekMixture(*c.mixture, c.family == Family::kDeepseekV3, writer);
      } else {
        writer.Field("first_k_dense_replace", c.layers);  // or transformers makes experts
      }
      return;
  }
}

std::string QuantizationJson(const BlockScales& blocks) {
  return JsonWriter()
      .Field("quant_method", "fp8")
      .Field("fmt", "e4m3")
      .Field("activation_scheme", "dynamic")
      .Raw("weight_block_size", absl::StrCat("[", blocks.rows, ", ", blocks.cols, "]"))
      .Take();
}

}  // namespace

std::string ConfigJson(const ModelConfig& c) {
  JsonWriter writer;
  writer.Raw("architectures", absl::StrCat("[", JsonQuote(FamilyName(c.family)), "]"))
      .Field("model_type", ModelTypeName(c.family))
      .Field("hidden_size", c.hidden)
      .Field("intermediate_size", c.intermediate)
      .Field("num_hidden_layers", c.layers)
      .Field("num_attention_heads", c.heads)
      .Field("num_key_value_heads", c.kv_heads)
      // Of a latent head the rotated part, as transformers has it.
      .Field("head_dim", c.rotary_dim())
      .Field("vocab_size", c.vocab)
      .Field("max_position_embeddings", c.context)
      .Raw("rms_norm_eps", Number(c.rms_eps))
      .Raw("rope_theta", Number(c.rope_theta))
      .Raw("rope_scaling", RopeScalingJson(c.rope_scaling))
      .Field("hidden_act", "silu")
      .Field("tie_word_embeddings", c.tied_embeddings)
      .Field("attention_bias", c.attention_bias)
      .Field("mlp_bias", c.mlp_bias);
  AddFamilyParts(c, writer);
  if (c.predict_layers > 0) writer.Field("num_nextn_predict_layers", c.predict_layers);
  if (c.block_scales) writer.Raw("quantization_config", QuantizationJson(*c.block_scales));
  if (c.bos_id.has_value()) writer.Field("bos_token_id", *c.bos_id);
  writer.Raw("eos_token_id", absl::StrCat("[", absl::StrJoin(c.eos_ids, ", "), "]"));
  if (!c.dtype.empty()) writer.Field("torch_dtype", c.dtype);
  return writer.Take() + "\n";
}

}  // namespace reprise::worker
