#include "bench/llama_cpp.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/gguf_writer.h"
#include "bench/process_output.h"
#include "common/json.h"

namespace reprise::bench {
namespace {

constexpr int64_t kTokensMax = 1 << 20;

uint64_t U(int64_t n) { return static_cast<uint64_t>(n); }

void AddKeys(const worker::ModelConfig& c, GgufWriter& file) {
  const worker::LatentAttention& l = *c.latent;
  file.Text("general.architecture", "deepseek2");
  file.Text("tokenizer.ggml.model", "none");
  const auto integer = [&file](absl::string_view key, int64_t value) {
    file.Integer(absl::StrCat("deepseek2.", key), static_cast<uint32_t>(value));
  };
  integer("vocab_size", c.vocab);
  integer("context_length", c.context);
  integer("embedding_length", c.hidden);
  integer("block_count", c.layers);
  integer("leading_dense_block_count", c.layers);
  integer("feed_forward_length", c.intermediate);
  integer("expert_feed_forward_length", c.intermediate);  // asked for, and used by no layer
  integer("expert_shared_count", 0);
  integer("attention.head_count", c.heads);
  integer("attention.head_count_kv", 1);  // in the latents' space
  integer("attention.q_lora_rank", 0);
  integer("attention.kv_lora_rank", l.kv_rank);
  integer("attention.key_length", l.kv_rank + l.rope_dim);
  integer("attention.value_length", l.kv_rank);
  integer("attention.key_length_mla", c.head_dim);
  integer("attention.value_length_mla", l.value_dim);
  integer("rope.dimension_count", l.rope_dim);
  file.Real("deepseek2.rope.freq_base", static_cast<float>(c.rope_theta));
  file.Real("deepseek2.attention.layer_norm_rms_epsilon", static_cast<float>(c.rms_eps));
}

void AddLayer(const worker::ModelConfig& c, int64_t layer, GgufWriter& file) {
  const worker::LatentAttention& l = *c.latent;
  const auto name = [layer](absl::string_view part) {
    return absl::StrCat("blk.", layer, ".", part, ".weight");
  };
  file.Norm(name("attn_norm"), U(c.hidden));
  file.Weights(name("attn_q"), {U(c.hidden), U(c.heads * c.head_dim)});
  file.Weights(name("attn_kv_a_mqa"), {U(c.hidden), U(l.kv_rank + l.rope_dim)});
  file.Norm(name("attn_kv_a_norm"), U(l.kv_rank));
  file.Weights(name("attn_k_b"), {U(l.nope_dim), U(l.kv_rank), U(c.heads)});
  file.Weights(name("attn_v_b"), {U(l.kv_rank), U(l.value_dim), U(c.heads)});
  file.Weights(name("attn_output"), {U(c.heads * l.value_dim), U(c.hidden)});
  file.Norm(name("ffn_norm"), U(c.hidden));
  file.Weights(name("ffn_gate"), {U(c.hidden), U(c.intermediate)});
  file.Weights(name("ffn_up"), {U(c.hidden), U(c.intermediate)});
  file.Weights(name("ffn_down"), {U(c.intermediate), U(c.hidden)});
}

Status Refused(size_t run, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("llama-bench: run ", run, ": ", why));
}

StatusOr<int64_t> Tokens(const JsonValue& run, size_t index, absl::string_view key) {
  const auto tokens = GetInt(run, key, -1);
  if (!tokens.ok()) return Refused(index, tokens.status().message());
  if (*tokens < 0 || *tokens > kTokensMax) {
    return Refused(index, absl::StrCat(key, " ", *tokens, " is not within 0 and ", kTokensMax));
  }
  return *tokens;
}

StatusOr<std::vector<double>> Seconds(const JsonValue& run, size_t index) {
  const JsonValue* samples = FindMember(run, "samples_ns");
  if (samples == nullptr || !samples->IsArray() || samples->Empty()) {
    return Refused(index, "samples_ns is no list of times");
  }
  std::vector<double> seconds;
  for (const JsonValue& sample : samples->GetArray()) {
    if (!sample.IsInt64() || sample.GetInt64() <= 0) {
      return Refused(index, "samples_ns holds something else than positive integers");
    }
    seconds.push_back(static_cast<double>(sample.GetInt64()) * 1e-9);
  }
  return seconds;
}

StatusOr<LlamaCppTimes> ParseRun(const JsonValue& run, size_t index) {
  if (!run.IsObject()) return Refused(index, "not an object");
  LlamaCppTimes times;
  ASSIGN_OR_RETURN(times.test.prompt_tokens, Tokens(run, index, "n_prompt"));
  ASSIGN_OR_RETURN(times.test.new_tokens, Tokens(run, index, "n_gen"));
  ASSIGN_OR_RETURN(times.test.depth, Tokens(run, index, "n_depth"));
  ASSIGN_OR_RETURN(times.seconds, Seconds(run, index));
  const auto commit = GetString(run, "build_commit", "unknown");
  if (!commit.ok()) return Refused(index, commit.status().message());
  times.build = *commit;
  return times;
}

}  // namespace

Status WriteLatentGguf(const worker::ModelConfig& config, const std::string& path) {
  GgufWriter file;
  AddKeys(config, file);
  file.Weights("token_embd.weight", {U(config.hidden), U(config.vocab)});
  for (int64_t layer = 0; layer < config.layers; ++layer) AddLayer(config, layer, file);
  file.Norm("output_norm.weight", U(config.hidden));
  file.Weights("output.weight", {U(config.hidden), U(config.vocab)});
  return file.Write(path);
}

std::string LlamaCppChoice::ToString() const {
  return absl::StrCat("-fa ", flash_attention ? "on" : "off", " -ctk ", cache_type);
}

StatusOr<std::vector<LlamaCppTimes>> ParseLlamaBench(absl::string_view text) {
  const auto json = ParseJson(text);
  if (!json.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("llama-bench: ", json.status().message()));
  }
  if (!json->IsArray()) return absl::InvalidArgumentError("llama-bench: no list of runs");
  std::vector<LlamaCppTimes> all;
  for (const JsonValue& run : json->GetArray()) {
    ASSIGN_OR_RETURN(LlamaCppTimes times, ParseRun(run, all.size()));
    all.push_back(std::move(times));
  }
  return all;
}

StatusOr<LlamaCpp> LlamaCpp::Open(const std::string& dir, int threads) {
  const std::string program = absl::StrCat(dir, "/bin/llama-bench");
  std::error_code error;
  if (!std::filesystem::is_regular_file(program, error)) {
    return absl::NotFoundError(absl::StrCat(
        program, " is not there: --peer names a build folder of llama.cpp with llama-bench"));
  }
  return LlamaCpp(program, threads);
}

StatusOr<LlamaCppTimes> LlamaCpp::Run(const std::string& model, const LlamaCppChoice& choice,
                                      const LlamaCppTest& test, int repetitions) const {
  SubprocessOptions run;
  run.argv = {program_, "-m", model, "-o", "json", "-dev", "none"};
  const auto add = [&run](const char* flag, const std::string& value) {
    run.argv.insert(run.argv.end(), {flag, value});
  };
  add("-t", absl::StrCat(threads_));
  add("-r", absl::StrCat(repetitions));
  add("-p", absl::StrCat(test.prompt_tokens));
  add("-n", absl::StrCat(test.new_tokens));
  add("-d", absl::StrCat(test.depth));
  add("-fa", choice.flash_attention ? "on" : "off");
  add("-ctk", choice.cache_type);
  add("-ctv", choice.cache_type);
  ASSIGN_OR_RETURN(const std::string text, OutputOf(run));
  ASSIGN_OR_RETURN(std::vector<LlamaCppTimes> all, ParseLlamaBench(text));
  if (all.size() != 1 || all[0].test != test ||
      all[0].seconds.size() != static_cast<size_t>(repetitions)) {
    return absl::InternalError(absl::StrCat("llama-bench ran something else: ", text));
  }
  return std::move(all[0]);
}

}  // namespace reprise::bench
