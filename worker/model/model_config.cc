#include "worker/model/model_config.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/json.h"
#include "common/limits.h"
#include "worker/model/config_reader.h"
#include "worker/model/small_file.h"

namespace reprise::worker {
namespace {

struct FamilyNames {
  Family family;
  absl::string_view architecture;
  absl::string_view model_type;
};
constexpr FamilyNames kFamilies[] = {
    {Family::kLlama, "LlamaForCausalLM", "llama"},
    {Family::kMixtral, "MixtralForCausalLM", "mixtral"},
    {Family::kQwen3Moe, "Qwen3MoeForCausalLM", "qwen3_moe"},
    {Family::kDeepseekV2, "DeepseekV2ForCausalLM", "deepseek_v2"},
    {Family::kDeepseekV3, "DeepseekV3ForCausalLM", "deepseek_v3"},
};

StatusOr<Family> ReadFamily(const JsonValue& object) {
  const JsonValue* names = FindMember(object, "architectures");
  if (names == nullptr || !names->IsArray() || names->Size() != 1 || !(*names)[0].IsString()) {
    return absl::InvalidArgumentError("\"architectures\" must be an array of one string");
  }
  const absl::string_view name((*names)[0].GetString(), (*names)[0].GetStringLength());
  std::vector<std::string> known;
  for (const FamilyNames& family : kFamilies) {
    known.push_back(JsonQuote(family.architecture));
    if (name != family.architecture) continue;
    ASSIGN_OR_RETURN(const std::string type,
                     GetString(object, "model_type", std::string(family.model_type)));
    if (type != family.model_type) {
      return Unsupported("model_type", JsonQuote(type), JsonQuote(family.model_type));
    }
    ASSIGN_OR_RETURN(const std::string act, GetString(object, "hidden_act", "silu"));
    if (act != "silu") return Unsupported("hidden_act", JsonQuote(act), "\"silu\"");
    return family.family;
  }
  return Unsupported("architectures", JsonQuote(name), absl::StrJoin(known, ", "));
}

// Keys whose presence means another computation.
Status CheckNoOtherFeatures(const JsonValue& object) {
  const JsonValue* window = FindMember(object, "sliding_window");
  if (window != nullptr && !window->IsNull()) return Unsupported("sliding_window", "set", "null");
  ASSIGN_OR_RETURN(const double rotary, GetNumber(object, "partial_rotary_factor", 1));
  if (rotary != 1) return Unsupported("partial_rotary_factor", absl::StrCat(rotary), "1");
  return absl::OkStatus();
}

Status ReadDimensions(const JsonValue& object, ModelConfig* c) {
  RETURN_IF_ERROR(ReadInt(object, "hidden_size", {1, limits::kHiddenSizeMax}, &c->hidden));
  RETURN_IF_ERROR(
      ReadInt(object, "intermediate_size", {1, limits::kIntermediateSizeMax}, &c->intermediate));
  RETURN_IF_ERROR(ReadInt(object, "num_hidden_layers", {1, limits::kLayersMax}, &c->layers));
  const IntRange heads{1, limits::kAttentionHeadsMax};
  RETURN_IF_ERROR(ReadInt(object, "num_attention_heads", heads, &c->heads));
  c->kv_heads = c->heads;
  RETURN_IF_ERROR(ReadInt(object, "num_key_value_heads", heads, &c->kv_heads));
  if (c->heads % c->kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("\"num_attention_heads\" is ", c->heads,
                                                   ", not a multiple of \"num_key_value_heads\", ",
                                                   c->kv_heads));
  }
  const JsonValue* head_dim = FindMember(object, "head_dim");
  if (head_dim == nullptr || head_dim->IsNull()) {
    if (c->hidden % c->heads != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"hidden_size\" is ", c->hidden, ", not a multiple of \"num_attention_heads\", ",
          c->heads, ", and \"head_dim\" is absent"));
    }
    c->head_dim = c->hidden / c->heads;
  }
  RETURN_IF_ERROR(ReadInt(object, "head_dim", {2, limits::kHeadDimMax}, &c->head_dim));
  if (c->head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("\"head_dim\" is ", c->head_dim, ", not even"));
  }
  RETURN_IF_ERROR(ReadInt(object, "vocab_size", {1, limits::kVocabMax}, &c->vocab));
  return ReadInt(object, "max_position_embeddings", {1, limits::kContextTokensMax}, &c->context);
}

double Mscale(double factor, double weight) {
  return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1;
}

Status ReadYarn(const JsonValue& rope, RopeScaling* scaling) {
  scaling->kind = RopeKind::kYarn;
  RETURN_IF_ERROR(ReadNumber(rope, "beta_fast", {1e-3, 1e6}, &scaling->beta_fast));
  RETURN_IF_ERROR(ReadNumber(rope, "beta_slow", {1e-3, 1e6}, &scaling->beta_slow));
  if (scaling->beta_fast <= scaling->beta_slow) {
    return absl::InvalidArgumentError(absl::StrCat("\"beta_fast\" is ", scaling->beta_fast,
                                                   ", not above \"beta_slow\", ",
                                                   scaling->beta_slow));
  }
  ASSIGN_OR_RETURN(const bool truncate, GetBool(rope, "truncate", true));
  if (!truncate) return Unsupported("truncate", "false", "true");
  double mscale = 0;
  RETURN_IF_ERROR(ReadNumber(rope, "mscale", {0, 100}, &mscale));
  RETURN_IF_ERROR(ReadNumber(rope, "mscale_all_dim", {0, 100}, &scaling->mscale_all_dim));
  const bool both = mscale != 0 && scaling->mscale_all_dim != 0;
  scaling->amplitude =
      both ? Mscale(scaling->factor, mscale) / Mscale(scaling->factor, scaling->mscale_all_dim)
           : Mscale(scaling->factor, 1);
  return ReadNumber(rope, "attention_factor", {1e-3, 1e3}, &scaling->amplitude);
}

Status ReadRopeScaling(const JsonValue& rope, absl::string_view key, const ModelConfig& c,
                       RopeScaling* scaling) {
  if (!rope.IsObject()) {
    return absl::InvalidArgumentError(absl::StrCat(JsonQuote(key), " must be null or an object"));
  }
  ASSIGN_OR_RETURN(const std::string old_name, GetString(rope, "type", "default"));
  ASSIGN_OR_RETURN(const std::string type, GetString(rope, "rope_type", old_name));
  if (type == "default") return absl::OkStatus();
  if (type != "linear" && type != "llama3" && type != "yarn") {
    return Unsupported(absl::StrCat(key, ".rope_type"), JsonQuote(type),
                       "\"default\", \"linear\", \"llama3\", \"yarn\"");
  }
  scaling->factor = 0;  // no default: an absent factor is out of range
  RETURN_IF_ERROR(ReadNumber(rope, "factor", {1, 1e6}, &scaling->factor));
  scaling->kind = RopeKind::kLinear;
  if (type == "linear") return absl::OkStatus();
  scaling->original_context = c.context;
  RETURN_IF_ERROR(ReadInt(rope, "original_max_position_embeddings", {1, limits::kContextTokensMax},
                          &scaling->original_context));
  if (type == "yarn") return ReadYarn(rope, scaling);
  scaling->kind = RopeKind::kLlama3;
  RETURN_IF_ERROR(ReadNumber(rope, "low_freq_factor", {1e-6, 1e6}, &scaling->low_freq_factor));
  RETURN_IF_ERROR(ReadNumber(rope, "high_freq_factor", {1e-6, 1e6}, &scaling->high_freq_factor));
  if (scaling->high_freq_factor <= scaling->low_freq_factor) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"high_freq_factor\" is ", scaling->high_freq_factor,
                     ", not above \"low_freq_factor\", ", scaling->low_freq_factor));
  }
  return absl::OkStatus();
}

// rope_theta and rope_scaling, or both in "rope_parameters" as newer files have it.
Status ReadRope(const JsonValue& object, ModelConfig* c) {
  const NumberRange theta{1, 1e12};
  RETURN_IF_ERROR(ReadNumber(object, "rope_theta", theta, &c->rope_theta));
  for (const absl::string_view key : {"rope_scaling", "rope_parameters"}) {
    const JsonValue* rope = FindMember(object, key);
    if (rope == nullptr || rope->IsNull()) continue;
    RopeScaling scaling;
    RETURN_IF_ERROR(ReadRopeScaling(*rope, key, *c, &scaling));
    if (key == "rope_parameters") {
      RETURN_IF_ERROR(ReadNumber(*rope, "rope_theta", theta, &c->rope_theta));
      if (c->rope_scaling.kind != RopeKind::kDefault && c->rope_scaling != scaling) {
        return absl::InvalidArgumentError(
            "\"rope_scaling\" and \"rope_parameters\" contradict each other");
      }
    }
    c->rope_scaling = scaling;
  }
  if (c->rope_scaling.kind == RopeKind::kYarn && c->rope_theta <= 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"rope_theta\" is ", c->rope_theta, ", with yarn it must be above 1"));
  }
  return absl::OkStatus();
}

Status CheckTokenId(absl::string_view key, const JsonValue& value, int64_t vocab) {
  if (value.IsInt64() && value.GetInt64() >= 0 && value.GetInt64() < vocab) {
    return absl::OkStatus();
  }
  const std::string found =
      value.IsInt64() ? absl::StrCat(value.GetInt64()) : std::string("not an integer");
  return absl::InvalidArgumentError(
      absl::StrCat(JsonQuote(key), " is ", found, ", the range is 0 to ", vocab - 1));
}

// An id or a list of ids; absent or null leaves *ids.
Status ReadTokenIds(const JsonValue& object, absl::string_view key, int64_t vocab,
                    std::vector<int32_t>* ids) {
  const JsonValue* v = FindMember(object, key);
  if (v == nullptr || v->IsNull()) return absl::OkStatus();
  std::vector<int32_t> found;
  if (!v->IsArray()) {
    RETURN_IF_ERROR(CheckTokenId(key, *v, vocab));
    found.push_back(static_cast<int32_t>(v->GetInt64()));
  } else {
    if (v->Size() > limits::kEosIdsMax) {
      return absl::InvalidArgumentError(absl::StrCat(JsonQuote(key), " holds ", v->Size(),
                                                     " ids, the limit is ", limits::kEosIdsMax));
    }
    for (const JsonValue& id : v->GetArray()) {
      RETURN_IF_ERROR(CheckTokenId(key, id, vocab));
      found.push_back(static_cast<int32_t>(id.GetInt64()));
    }
  }
  *ids = std::move(found);
  return absl::OkStatus();
}

Status ReadBosAndEos(const JsonValue& object, int64_t vocab, std::optional<int32_t>* bos,
                     std::vector<int32_t>* eos) {
  std::vector<int32_t> begin;
  RETURN_IF_ERROR(ReadTokenIds(object, "bos_token_id", vocab, &begin));
  if (!begin.empty()) *bos = begin.front();
  return ReadTokenIds(object, "eos_token_id", vocab, eos);
}

Status ReadDtype(const JsonValue& object, std::string* dtype) {
  ASSIGN_OR_RETURN(*dtype, GetString(object, "torch_dtype", ""));
  ASSIGN_OR_RETURN(*dtype, GetString(object, "dtype", *dtype));
  for (const absl::string_view known : {"", "float32", "bfloat16", "float16"}) {
    if (*dtype == known) return absl::OkStatus();
  }
  return Unsupported("torch_dtype", JsonQuote(*dtype), "float32, bfloat16, float16");
}

StatusOr<JsonDocument> ParseObject(absl::string_view json) {
  JsonLimits json_limits;
  json_limits.bytes_max = limits::kConfigBytesMax;
  json_limits.depth_max = 16;
  json_limits.unique_keys = true;
  ASSIGN_OR_RETURN(JsonDocument doc, ParseJson(json, json_limits));
  if (!doc.IsObject()) return absl::InvalidArgumentError("the text must be a JSON object");
  return doc;
}

template <typename T>
Status ReadOptional(const JsonValue& object, absl::string_view key, NumberRange range,
                    std::optional<T>* out) {
  const JsonValue* v = FindMember(object, key);
  if (v == nullptr || v->IsNull()) return absl::OkStatus();
  if constexpr (std::is_integral_v<T>) {
    int64_t value = 0;
    RETURN_IF_ERROR(ReadInt(
        object, key, {static_cast<int64_t>(range.min), static_cast<int64_t>(range.max)}, &value));
    *out = static_cast<T>(value);
  } else {
    double value = 0;
    RETURN_IF_ERROR(ReadNumber(object, key, range, &value));
    *out = static_cast<T>(value);
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view FamilyName(Family family) {
  for (const FamilyNames& names : kFamilies) {
    if (names.family == family) return names.architecture;
  }
  return "unknown";
}

absl::string_view ModelTypeName(Family family) {
  for (const FamilyNames& names : kFamilies) {
    if (names.family == family) return names.model_type;
  }
  return "unknown";
}

StatusOr<ModelConfig> ParseModelConfig(absl::string_view json) {
  ASSIGN_OR_RETURN(const JsonDocument doc, ParseObject(json));
  ModelConfig c;
  ASSIGN_OR_RETURN(c.family, ReadFamily(doc));
  RETURN_IF_ERROR(CheckNoOtherFeatures(doc));
  RETURN_IF_ERROR(ReadDimensions(doc, &c));
  RETURN_IF_ERROR(ReadFamilyParts(doc, &c));
  RETURN_IF_ERROR(ReadQuantization(doc, &c));
  RETURN_IF_ERROR(ReadNumber(doc, "rms_norm_eps", {1e-12, 1}, &c.rms_eps));
  RETURN_IF_ERROR(ReadRope(doc, &c));
  ASSIGN_OR_RETURN(c.tied_embeddings, GetBool(doc, "tie_word_embeddings", false));
  ASSIGN_OR_RETURN(c.attention_bias, GetBool(doc, "attention_bias", false));
  ASSIGN_OR_RETURN(c.mlp_bias, GetBool(doc, "mlp_bias", false));
  RETURN_IF_ERROR(ReadBosAndEos(doc, c.vocab, &c.bos_id, &c.eos_ids));
  RETURN_IF_ERROR(ReadDtype(doc, &c.dtype));
  return c;
}

StatusOr<ModelConfig> LoadModelConfig(const std::string& dir) {
  const std::string path = dir + "/config.json";
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, limits::kConfigBytesMax));
  StatusOr<ModelConfig> config = ParseModelConfig(text);
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

StatusOr<GenerationDefaults> ParseGenerationDefaults(absl::string_view json,
                                                     const ModelConfig& config) {
  ASSIGN_OR_RETURN(const JsonDocument doc, ParseObject(json));
  GenerationDefaults d;
  d.bos_id = config.bos_id;
  d.eos_ids = config.eos_ids;
  RETURN_IF_ERROR(ReadBosAndEos(doc, config.vocab, &d.bos_id, &d.eos_ids));
  RETURN_IF_ERROR(ReadOptional(doc, "temperature", {0, 100}, &d.temperature));
  RETURN_IF_ERROR(ReadOptional(doc, "top_k", {0, INT32_MAX}, &d.top_k));
  RETURN_IF_ERROR(ReadOptional(doc, "top_p", {1e-6, 1}, &d.top_p));
  RETURN_IF_ERROR(ReadOptional(doc, "min_p", {0, 1}, &d.min_p));
  RETURN_IF_ERROR(ReadOptional(doc, "repetition_penalty", {1e-3, 1e3}, &d.repetition_penalty));
  RETURN_IF_ERROR(ReadOptional(doc, "max_new_tokens", {1, INT32_MAX}, &d.max_new_tokens));
  ASSIGN_OR_RETURN(const bool sample, GetBool(doc, "do_sample", true));
  if (!sample) d.temperature = 0;
  return d;
}

StatusOr<GenerationDefaults> LoadGenerationDefaults(const std::string& dir,
                                                    const ModelConfig& config) {
  const std::string path = dir + "/generation_config.json";
  StatusOr<std::string> text = ReadSmallFile(path, limits::kConfigBytesMax);
  if (absl::IsNotFound(text.status())) text = "{}";
  if (!text.ok()) return text.status();
  StatusOr<GenerationDefaults> defaults = ParseGenerationDefaults(*text, config);
  if (!defaults.ok()) return Annotate(defaults.status(), path);
  return defaults;
}

std::string ModelConfig::CanonicalText() const {
  return absl::StrCat(
      "reprise.llama.v1 hidden=", hidden, " intermediate=", intermediate, " layers=", layers,
      " heads=", heads, " kv_heads=", kv_heads, " head_dim=", head_dim, " vocab=", vocab,
      " context=", context, " eps=", Exact(rms_eps), " theta=", Exact(rope_theta),
      " rope=", static_cast<int>(rope_scaling.kind), ":", Exact(rope_scaling.factor), ":",
      Exact(rope_scaling.low_freq_factor), ":", Exact(rope_scaling.high_freq_factor), ":",
      rope_scaling.original_context, " tied=", tied_embeddings, " attention_bias=", attention_bias,
      " mlp_bias=", mlp_bias, FamilyText(*this));
}

double ModelConfig::attention_scale() const {
  const bool own = latent && latent->scale_dims > 0;
  const double plain = 1 / std::sqrt(own ? latent->scale_dims : static_cast<double>(head_dim));
  if (!latent || rope_scaling.kind != RopeKind::kYarn || rope_scaling.mscale_all_dim == 0) {
    return plain;
  }
  const double m = Mscale(rope_scaling.factor, rope_scaling.mscale_all_dim);
  return plain * m * m;
}

}  // namespace reprise::worker
