// Tokenizer::Load(): which files of a model folder say what.
#include <algorithm>
#include <filesystem>
#include <fstream>

#include "common/limits.h"
#include "gateway/text/json_object.h"
#include "gateway/text/scanners.h"
#include "gateway/text/tokenizer.h"
#include "gateway/text/tokenizer_json.h"

namespace reprise {
namespace {

namespace fs = std::filesystem;

StatusOr<std::string> ReadFile(const fs::path& path) {
  std::error_code error;
  const uintmax_t bytes = fs::file_size(path, error);
  std::ifstream in(path, std::ios::binary);
  if (error || !in) return absl::NotFoundError(absl::StrCat(path.string(), " cannot be read"));
  if (bytes > limits::kTokenizerBytesMax) {
    return absl::ResourceExhaustedError(absl::StrCat(
        path.string(), " of ", bytes, " bytes is over the limit of ", limits::kTokenizerBytesMax));
  }
  std::string text(bytes, '\0');
  in.read(text.data(), static_cast<std::streamsize>(bytes));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

StatusOr<JsonDocument> ReadJson(const fs::path& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  auto out = ParseJson(text, {.bytes_max = limits::kTokenizerBytesMax});
  if (!out.ok()) return Annotate(out.status(), path.string());
  return out;
}

// An empty object when the file is absent.
StatusOr<JsonDocument> ReadOptionalJson(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path, error)) return ReadJson(path);
  JsonDocument empty;
  empty.SetObject();
  return empty;
}

// A token of tokenizer_config.json: its text, or an object with the text under "content".
StatusOr<std::string> ConfiguredToken(const JsonValue& config, absl::string_view key) {
  const JsonValue* value = FindMember(config, key);
  if (value != nullptr && value->IsObject()) return GetString(*value, "content", "");
  return GetString(config, key, "");
}

// Token ids under `key`: one, or an array of them. Nothing when absent or null.
StatusOr<std::vector<int32_t>> ConfiguredIds(const JsonValue& config, absl::string_view key) {
  std::vector<int32_t> out;
  const auto add = [&](const JsonValue& id) -> Status {
    if (!id.IsInt64() || id.GetInt64() < 0 || id.GetInt64() >= limits::kVocabEntriesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat(JsonQuote(key), " must hold ids in 0..", limits::kVocabEntriesMax - 1));
    }
    out.push_back(static_cast<int32_t>(id.GetInt64()));
    return absl::OkStatus();
  };
  const JsonValue* value = FindMember(config, key);
  if (value == nullptr || value->IsNull()) return out;
  if (!value->IsArray()) {
    RETURN_IF_ERROR(add(*value));
    return out;
  }
  for (const JsonValue& id : value->GetArray()) RETURN_IF_ERROR(add(id));
  return out;
}

using FindId = absl::FunctionRef<std::optional<int32_t>(absl::string_view)>;

StatusOr<SequenceIds> ReadSequenceIds(const fs::path& folder, const JsonValue& tokenizer_config,
                                      FindId find) {
  SequenceIds out;
  for (const char* name : {"generation_config.json", "config.json"}) {
    ASSIGN_OR_RETURN(const JsonDocument config, ReadOptionalJson(folder / name));
    auto bos = ConfiguredIds(config, "bos_token_id");
    auto eos = ConfiguredIds(config, "eos_token_id");
    for (const Status& status : {bos.status(), eos.status()}) {
      if (!status.ok()) return Annotate(status, (folder / name).string());
    }
    if (!out.bos && !bos->empty()) out.bos = bos->front();
    if (out.eos.empty()) out.eos = std::move(*eos);
  }
  ASSIGN_OR_RETURN(const std::string bos, ConfiguredToken(tokenizer_config, "bos_token"));
  ASSIGN_OR_RETURN(const std::string eos, ConfiguredToken(tokenizer_config, "eos_token"));
  if (!out.bos) out.bos = find(bos);
  if (const auto id = find(eos); id && out.eos.empty()) out.eos = {*id};
  return out;
}

StatusOr<std::vector<Bpe::Merge>> ParseMergesFile(absl::string_view text) {
  std::vector<Bpe::Merge> out;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    absl::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || line.substr(0, 8) == "#version") continue;
    ASSIGN_OR_RETURN(Bpe::Merge merge, ParseMergeLine(line, out.size()));
    out.push_back(std::move(merge));
    if (out.size() > limits::kMergesMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("more merges than the limit of ", limits::kMergesMax));
    }
  }
  return out;
}

// Added tokens by id; files without them name the special tokens of the vocabulary instead.
StatusOr<std::vector<AddedToken>> ReadAddedTokens(const JsonValue& config,
                                                  const Vocabulary& vocab) {
  constexpr absl::string_view kWhat = "tokenizer_config.json: added token";
  std::vector<AddedToken> out;
  const JsonValue* listed = FindMember(config, "added_tokens_decoder");
  if (listed != nullptr && listed->IsObject()) {
    for (const auto& member : listed->GetObject()) {
      int64_t id = -1;
      const absl::string_view key(member.name.GetString(), member.name.GetStringLength());
      if (!absl::SimpleAtoi(key, &id)) {
        return absl::InvalidArgumentError(
            absl::StrCat(kWhat, " id ", JsonQuote(key), " is no number"));
      }
      ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(member.value, kWhat, id));
      out.push_back(std::move(token));
    }
    return out;
  }
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    ASSIGN_OR_RETURN(const std::string content, ConfiguredToken(config, key));
    const int32_t id = vocab.Find(content);
    const bool known = std::any_of(out.begin(), out.end(),
                                   [&](const AddedToken& token) { return token.id == id; });
    if (id >= 0 && !known) out.push_back({.id = id, .content = content, .special = true});
  }
  return out;
}

Status SetClass(const JsonValue& config, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const std::string name, GetString(config, "tokenizer_class", ""));
  parts.decoder = Decoder::ByteLevel();
  if (name == "Qwen2Tokenizer" || name == "Qwen2TokenizerFast") {
    parts.normalizer = Normalizer::Nfc();
    ASSIGN_OR_RETURN(parts.pre_tokenizer, PreTokenizer::ByteLevelSplit(kQwen2Pattern));
    return absl::OkStatus();
  }
  if (name == "GPT2Tokenizer" || name == "GPT2TokenizerFast") {
    ASSIGN_OR_RETURN(const bool add_prefix_space, GetBool(config, "add_prefix_space", false));
    parts.pre_tokenizer = PreTokenizer::Gpt2(add_prefix_space);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("tokenizer_config.json: tokenizer_class ",
                                                 JsonQuote(name),
                                                 " is not supported without a tokenizer.json"));
}

StatusOr<TokenizerParts> ReadVocabAndMerges(const fs::path& folder, const JsonValue& config) {
  ASSIGN_OR_RETURN(const JsonDocument vocab_json, ReadJson(folder / "vocab.json"));
  ASSIGN_OR_RETURN(Vocabulary vocab, ParseVocab(vocab_json, "vocab.json"));
  ASSIGN_OR_RETURN(auto added, ReadAddedTokens(config, vocab));
  ASSIGN_OR_RETURN(const std::string merges_text, ReadFile(folder / "merges.txt"));
  auto merges = ParseMergesFile(merges_text);
  if (!merges.ok()) return Annotate(merges.status(), "merges.txt");
  auto bpe = Bpe::Create(std::move(vocab), *merges, {});
  if (!bpe.ok()) return Annotate(bpe.status(), "merges.txt");
  TokenizerParts parts = {.normalizer = {},
                          .pre_tokenizer = {},
                          .bpe = std::move(bpe).value(),
                          .added = std::move(added),
                          .prefix = {},
                          .suffix = {},
                          .decoder = {},
                          .ids = {}};
  RETURN_IF_ERROR(SetClass(config, parts));
  return parts;
}

// Begin and end tokens that classes without a template add by setting.
Status AddConfiguredEnds(const JsonValue& config, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const bool add_bos, GetBool(config, "add_bos_token", false));
  ASSIGN_OR_RETURN(const bool add_eos, GetBool(config, "add_eos_token", false));
  if (add_bos && parts.ids.bos) parts.prefix = {*parts.ids.bos};
  if (add_eos && !parts.ids.eos.empty()) parts.suffix = {parts.ids.eos.front()};
  return absl::OkStatus();
}

StatusOr<std::unique_ptr<Tokenizer>> LoadFolder(const fs::path& folder) {
  ASSIGN_OR_RETURN(const JsonDocument config, ReadOptionalJson(folder / "tokenizer_config.json"));
  std::error_code error;
  const bool has_json = fs::exists(folder / "tokenizer.json", error);
  StatusOr<TokenizerParts> parts = absl::UnknownError("");
  if (has_json) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(folder / "tokenizer.json"));
    parts = ParseTokenizerJson(text);
  } else if (fs::exists(folder / "vocab.json", error)) {
    parts = ReadVocabAndMerges(folder, config);
  } else {
    return absl::NotFoundError("there is neither a tokenizer.json nor a vocab.json");
  }
  RETURN_IF_ERROR(parts.status());
  const auto find = [&](absl::string_view token) -> std::optional<int32_t> {
    if (token.empty()) return std::nullopt;
    if (const int32_t id = parts->bpe.vocab().Find(token); id >= 0) return id;
    for (const AddedToken& added : parts->added) {
      if (added.content == token) return added.id;
    }
    return std::nullopt;
  };
  ASSIGN_OR_RETURN(parts->ids, ReadSequenceIds(folder, config, find));
  if (!has_json) RETURN_IF_ERROR(AddConfiguredEnds(config, *parts));
  return Tokenizer::Create(std::move(parts).value());
}

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& folder) {
  auto out = LoadFolder(folder);
  if (!out.ok()) return Annotate(out.status(), folder);
  return out;
}

}  // namespace reprise
