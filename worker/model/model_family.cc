// The parts of a configuration that Llama has not: latent attention and mixtures of experts, as the
// families' config.json files spell them.

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "worker/model/config_reader.h"

namespace reprise::worker {
namespace {

Status ReadRequired(const JsonValue& object, absl::string_view key, IntRange range,
                    int64_t* value) {
  *value = range.min - 1;  // no default: an absent one is out of range
  return ReadInt(object, key, range, value);
}

Status ReadLatent(const JsonValue& object, ModelConfig* c) {
  LatentAttention l;
  const IntRange rank{1, limits::kHiddenSizeMax};
  const IntRange dim{1, limits::kHeadDimMax};
  const JsonValue* q_rank = FindMember(object, "q_lora_rank");
  if (q_rank != nullptr && !q_rank->IsNull()) {
    RETURN_IF_ERROR(ReadRequired(object, "q_lora_rank", rank, &l.q_rank));
  }
  RETURN_IF_ERROR(ReadRequired(object, "kv_lora_rank", {1, limits::kLatentRankMax}, &l.kv_rank));
  RETURN_IF_ERROR(ReadRequired(object, "qk_nope_head_dim", dim, &l.nope_dim));
  RETURN_IF_ERROR(ReadRequired(object, "qk_rope_head_dim", {2, limits::kHeadDimMax}, &l.rope_dim));
  RETURN_IF_ERROR(ReadRequired(object, "v_head_dim", dim, &l.value_dim));
  if (l.rope_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"qk_rope_head_dim\" is ", l.rope_dim, ", not even"));
  }
  RETURN_IF_ERROR(ReadInt(object, "qk_rope_heads", {1, limits::kAttentionHeadsMax}, &l.rope_heads));
  if (l.rope_dim % (2 * l.rope_heads) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("\"qk_rope_head_dim\" is ", l.rope_dim,
                                                   ", not \"qk_rope_heads\", ", l.rope_heads,
                                                   ", times an even number"));
  }
  const JsonValue* scale = FindMember(object, "query_pre_attn_scalar");
  if (scale != nullptr && !scale->IsNull()) {
    RETURN_IF_ERROR(ReadNumber(object, "query_pre_attn_scalar", {1, 1e6}, &l.scale_dims));
  }
  ASSIGN_OR_RETURN(l.interleaved, GetBool(object, "rope_interleave", true));
  c->head_dim = l.nope_dim + l.rope_dim;
  c->latent = l;
  return absl::OkStatus();
}

// What every mixture has, under the names of its family.
Status ReadExperts(const JsonValue& object, absl::string_view count, absl::string_view inner,
                   ExpertMixture* m) {
  RETURN_IF_ERROR(ReadRequired(object, count, {1, limits::kExpertsMax}, &m->experts));
  RETURN_IF_ERROR(ReadRequired(object, "num_experts_per_tok", {1, m->experts}, &m->per_token));
  return ReadRequired(object, inner, {1, limits::kIntermediateSizeMax}, &m->intermediate);
}

Status ReadMixtral(const JsonValue& object, ModelConfig* c) {
  ExpertMixture m;
  RETURN_IF_ERROR(ReadExperts(object, "num_local_experts", "intermediate_size", &m));
  m.normalize = true;
  m.layers.assign(static_cast<size_t>(c->layers), true);
  c->mixture = std::move(m);
  return absl::OkStatus();
}

Status ReadQwen3Moe(const JsonValue& object, ModelConfig* c) {
  ExpertMixture m;
  RETURN_IF_ERROR(ReadExperts(object, "num_experts", "moe_intermediate_size", &m));
  ASSIGN_OR_RETURN(m.normalize, GetBool(object, "norm_topk_prob", false));
  int64_t every = 1;
  RETURN_IF_ERROR(ReadInt(object, "decoder_sparse_step", {1, limits::kLayersMax}, &every));
  for (int64_t layer = 0; layer < c->layers; ++layer) m.layers.push_back((layer + 1) % every == 0);
  const JsonValue* dense = FindMember(object, "mlp_only_layers");
  if (dense != nullptr && !dense->IsNull()) {
    if (!dense->IsArray()) {
      return absl::InvalidArgumentError("\"mlp_only_layers\" must be an array");
    }
    for (const JsonValue& layer : dense->GetArray()) {
      if (!layer.IsInt64() || layer.GetInt64() < 0 || layer.GetInt64() >= c->layers) {
        return absl::InvalidArgumentError(absl::StrCat(
            "\"mlp_only_layers\" holds what is not a layer, the range is 0 to ", c->layers - 1));
      }
      m.layers[static_cast<size_t>(layer.GetInt64())] = false;
    }
  }
  c->qk_norm = true;
  c->mixture = std::move(m);
  return absl::OkStatus();
}

// Groups and scaling of DeepSeek's gates, checked against what the family computes.
Status ReadDeepseekGate(const JsonValue& object, Family family, ExpertMixture* m) {
  const bool v3 = family == Family::kDeepseekV3;
  m->sigmoid = m->bias = v3;
  ASSIGN_OR_RETURN(const std::string method,
                   GetString(object, "topk_method", v3 ? "noaux_tc" : "greedy"));
  const bool grouped = v3 ? method == "noaux_tc" : method == "group_limited_greedy";
  if (!grouped && (v3 || method != "greedy")) {
    return Unsupported("topk_method", JsonQuote(method),
                       v3 ? "\"noaux_tc\"" : "\"greedy\", \"group_limited_greedy\"");
  }
  const std::string function = v3 ? "sigmoid" : "softmax";
  ASSIGN_OR_RETURN(const std::string scoring, GetString(object, "scoring_func", function));
  if (scoring != function) return Unsupported("scoring_func", JsonQuote(scoring), function);
  if (grouped) {
    RETURN_IF_ERROR(ReadInt(object, "n_group", {1, m->experts}, &m->groups));
    RETURN_IF_ERROR(ReadInt(object, "topk_group", {1, m->groups}, &m->groups_kept));
  }
  if (m->experts % m->groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat("\"n_routed_experts\" is ", m->experts,
                                                   ", not a multiple of \"n_group\", ", m->groups));
  }
  if (m->per_token > m->experts / m->groups * m->groups_kept) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"num_experts_per_tok\" is ", m->per_token, ", the groups kept hold ",
                     m->experts / m->groups * m->groups_kept, " experts"));
  }
  ASSIGN_OR_RETURN(m->normalize, GetBool(object, "norm_topk_prob", v3));
  RETURN_IF_ERROR(ReadNumber(object, "routed_scaling_factor", {1e-6, 1e6}, &m->scale));
  // DeepSeek-V2's own code does one or the other.
  if (!v3 && m->normalize) m->scale = 1;
  return absl::OkStatus();
}

Status ReadDeepseek(const JsonValue& object, ModelConfig* c) {
  RETURN_IF_ERROR(ReadLatent(object, c));
  RETURN_IF_ERROR(
      ReadInt(object, "num_nextn_predict_layers", {0, limits::kLayersMax}, &c->predict_layers));
  const JsonValue* routed = FindMember(object, "n_routed_experts");
  if (routed == nullptr || routed->IsNull()) return absl::OkStatus();
  ExpertMixture m;
  RETURN_IF_ERROR(ReadExperts(object, "n_routed_experts", "moe_intermediate_size", &m));
  int64_t shared = 0;
  const JsonValue* has_shared = FindMember(object, "n_shared_experts");
  if (has_shared != nullptr && !has_shared->IsNull()) {
    RETURN_IF_ERROR(ReadInt(object, "n_shared_experts", {0, limits::kExpertsMax}, &shared));
  }
  m.shared_intermediate = shared * m.intermediate;
  RETURN_IF_ERROR(ReadDeepseekGate(object, c->family, &m));
  int64_t first = 0;
  int64_t every = 1;
  RETURN_IF_ERROR(ReadInt(object, "first_k_dense_replace", {0, c->layers}, &first));
  RETURN_IF_ERROR(ReadInt(object, "moe_layer_freq", {1, limits::kLayersMax}, &every));
  for (int64_t layer = 0; layer < c->layers; ++layer) {
    m.layers.push_back(layer >= first && layer % every == 0);
  }
  c->mixture = std::move(m);
  return absl::OkStatus();
}

}  // namespace

Status ReadFamilyParts(const JsonValue& object, ModelConfig* config) {
  switch (config->family) {
    case Family::kLlama:
      return absl::OkStatus();
    case Family::kMixtral:
      return ReadMixtral(object, config);
    case Family::kQwen3Moe:
      return ReadQwen3Moe(object, config);
    case Family::kDeepseekV2:
    case Family::kDeepseekV3:
      return ReadDeepseek(object, config);
  }
  return absl::OkStatus();
}

std::string FamilyText(const ModelConfig& c) {
  std::string text;
  if (c.family != Family::kLlama) {
    absl::StrAppend(&text, " family=", static_cast<int>(c.family), " qk_norm=", c.qk_norm);
  }
  const RopeScaling& s = c.rope_scaling;
  if (s.kind == RopeKind::kYarn) {
    absl::StrAppend(&text, " yarn=", Exact(s.beta_fast), ":", Exact(s.beta_slow), ":",
                    Exact(s.amplitude), ":", Exact(s.mscale_all_dim));
  }
  if (c.latent) {
    const LatentAttention& l = *c.latent;
    absl::StrAppend(&text, " latent=", l.q_rank, ":", l.kv_rank, ":", l.nope_dim, ":", l.rope_dim,
                    ":", l.value_dim, ":", l.interleaved);
    // Left out where they change nothing: older folders keep their fingerprints.
    if (l.rope_heads != 1) absl::StrAppend(&text, " rope_heads=", l.rope_heads);
    if (l.scale_dims != 0) absl::StrAppend(&text, " scale_dims=", Exact(l.scale_dims));
  }
  if (c.mixture) {
    const ExpertMixture& m = *c.mixture;
    absl::StrAppend(&text, " experts=", m.experts, ":", m.per_token, ":", m.intermediate, ":",
                    m.shared_intermediate, ":", m.sigmoid, ":", m.bias, ":", m.groups, ":",
                    m.groups_kept, ":", m.normalize, ":", Exact(m.scale), ":");
    for (const bool layer : m.layers) text += layer ? '1' : '0';
  }
  if (c.block_scales) {
    absl::StrAppend(&text, " scales=", c.block_scales->rows, ":", c.block_scales->cols);
  }
  return text;
}

}  // namespace reprise::worker
