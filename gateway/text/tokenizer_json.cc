#include "gateway/text/tokenizer_json.h"

#include "common/limits.h"
#include "gateway/text/json_object.h"

namespace reprise {
namespace {

const JsonValue& MemberOrNull(const JsonValue& object, absl::string_view key) {
  static const auto* const null = new JsonValue();
  const JsonValue* value = FindMember(object, key);
  return value == nullptr ? *null : *value;
}

StatusOr<std::vector<Bpe::Merge>> ParseMerges(const JsonValue& array) {
  if (array.Size() > limits::kMergesMax) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "tokenizer.json: ", array.Size(), " merges are over the limit of ", limits::kMergesMax));
  }
  std::vector<Bpe::Merge> out;
  out.reserve(array.Size());
  for (const JsonValue& item : array.GetArray()) {
    if (item.IsString()) {
      const absl::string_view line(item.GetString(), item.GetStringLength());
      if (line.substr(0, 8) == "#version") continue;
      ASSIGN_OR_RETURN(Bpe::Merge merge, ParseMergeLine(line, out.size()));
      out.push_back(std::move(merge));
      continue;
    }
    if (!item.IsArray() || item.Size() != 2 || !item[0].IsString() || !item[1].IsString()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.json: merge ", out.size(), " must be a string or two of them"));
    }
    out.emplace_back(std::string(item[0].GetString(), item[0].GetStringLength()),
                     std::string(item[1].GetString(), item[1].GetStringLength()));
  }
  return out;
}

// Settings that change tokens and that no byte-level or SentencePiece-style file uses.
Status RefuseModelSettings(const JsonValue& model, absl::string_view what) {
  ASSIGN_OR_RETURN(const double dropout, GetNumber(model, "dropout", 0));
  if (dropout != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " dropout ", dropout, " is not supported"));
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string affix, GetString(model, key, ""));
    if (affix.empty()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(what, " ", key, " ", JsonQuote(affix), " is not supported"));
  }
  return absl::OkStatus();
}

StatusOr<Bpe> ParseModel(const JsonValue& model) {
  constexpr absl::string_view kWhat = "tokenizer.json: model";
  if (!model.IsObject())
    return absl::InvalidArgumentError(absl::StrCat(kWhat, " must be an object"));
  ASSIGN_OR_RETURN(const std::string type, GetString(model, "type", "BPE"));
  if (type != "BPE") return Unsupported(kWhat, type);
  RETURN_IF_ERROR(CheckObject(
      model, kWhat,
      {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
       "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  RETURN_IF_ERROR(RefuseModelSettings(model, kWhat));
  BpeOptions options;
  ASSIGN_OR_RETURN(options.unk_token, GetString(model, "unk_token", ""));
  ASSIGN_OR_RETURN(options.fuse_unk, GetBool(model, "fuse_unk", false));
  ASSIGN_OR_RETURN(options.byte_fallback, GetBool(model, "byte_fallback", false));
  ASSIGN_OR_RETURN(options.ignore_merges, GetBool(model, "ignore_merges", false));
  ASSIGN_OR_RETURN(Vocabulary vocab, ParseVocab(MemberOrNull(model, "vocab"), kWhat));
  ASSIGN_OR_RETURN(const JsonValue* array, RequireArray(model, kWhat, "merges"));
  ASSIGN_OR_RETURN(const std::vector<Bpe::Merge> merges, ParseMerges(*array));
  auto bpe = Bpe::Create(std::move(vocab), merges, options);
  if (!bpe.ok()) return Annotate(bpe.status(), kWhat);
  return bpe;
}

StatusOr<std::vector<AddedToken>> ParseAddedTokens(const JsonValue& value) {
  std::vector<AddedToken> out;
  if (value.IsNull()) return out;
  constexpr absl::string_view kWhat = "tokenizer.json: added token";
  if (!value.IsArray()) {
    return absl::InvalidArgumentError("tokenizer.json: \"added_tokens\" must be an array");
  }
  for (const JsonValue& item : value.GetArray()) {
    RETURN_IF_ERROR(
        CheckObject(item, kWhat,
                    {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
    ASSIGN_OR_RETURN(const int64_t id, GetInt(item, "id", -1));
    ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(item, kWhat, id));
    out.push_back(std::move(token));
  }
  return out;
}

constexpr absl::string_view kPost = "tokenizer.json: post_processor";

// The ids that a SpecialToken of a template stands for.
Status AppendTemplateIds(const JsonValue& processor, const JsonValue& special,
                         std::vector<int32_t>& out) {
  ASSIGN_OR_RETURN(const std::string name, RequireString(special, kPost, "id"));
  const JsonValue& tokens = MemberOrNull(processor, "special_tokens");
  const JsonValue* token = FindMember(tokens, name);
  const std::string what = absl::StrCat(kPost, " special token ", JsonQuote(name));
  if (token == nullptr) return absl::InvalidArgumentError(absl::StrCat(what, " is not listed"));
  ASSIGN_OR_RETURN(const JsonValue* ids, RequireArray(*token, what, "ids"));
  for (const JsonValue& id : ids->GetArray()) {
    if (!id.IsInt())
      return absl::InvalidArgumentError(absl::StrCat(what, " has an id of no integer"));
    out.push_back(id.GetInt());
  }
  return absl::OkStatus();
}

Status ParseTemplate(const JsonValue& processor, TokenizerParts& parts) {
  const std::string what = absl::StrCat(kPost, " TemplateProcessing");
  RETURN_IF_ERROR(CheckObject(processor, what, {"type", "single", "pair", "special_tokens"}));
  ASSIGN_OR_RETURN(const JsonValue* items, RequireArray(processor, what, "single"));
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  int sequences = 0;
  for (const JsonValue& item : items->GetArray()) {
    RETURN_IF_ERROR(CheckObject(item, what, {"SpecialToken", "Sequence"}));
    if (const JsonValue* special = FindMember(item, "SpecialToken")) {
      RETURN_IF_ERROR(AppendTemplateIds(processor, *special, sequences == 0 ? before : after));
    } else {
      ASSIGN_OR_RETURN(const std::string id,
                       RequireString(MemberOrNull(item, "Sequence"), what, "id"));
      if (id != "A") return absl::InvalidArgumentError(absl::StrCat(what, " names sequence ", id));
      ++sequences;
    }
  }
  if (sequences != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " must hold sequence A once, found ", sequences));
  }
  parts.prefix.insert(parts.prefix.begin(), before.begin(), before.end());
  parts.suffix.insert(parts.suffix.end(), after.begin(), after.end());
  return absl::OkStatus();
}

Status ParsePostProcessor(const JsonValue& value, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const auto stages, FlattenSequence(value, kPost, "processors"));
  for (const JsonValue* stage : stages) {
    ASSIGN_OR_RETURN(const std::string type, RequireString(*stage, kPost, "type"));
    if (type == "TemplateProcessing") {
      RETURN_IF_ERROR(ParseTemplate(*stage, parts));
    } else if (type == "ByteLevel") {  // about offsets, which nobody asks for here
      RETURN_IF_ERROR(CheckObject(*stage, absl::StrCat(kPost, " ByteLevel"),
                                  {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
    } else {
      return Unsupported(kPost, type);
    }
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<TokenizerParts> ParseTokenizerJson(absl::string_view text) {
  JsonLimits limits;
  limits.bytes_max = limits::kTokenizerBytesMax;
  limits.unique_keys = true;
  auto parsed = ParseJson(text, limits);
  if (!parsed.ok()) return Annotate(parsed.status(), "tokenizer.json");
  const JsonValue& root = *parsed;
  RETURN_IF_ERROR(CheckObject(root, "tokenizer.json",
                              {"version", "truncation", "padding", "added_tokens", "normalizer",
                               "pre_tokenizer", "post_processor", "decoder", "model"}));
  ASSIGN_OR_RETURN(Normalizer normalizer, Normalizer::Parse(MemberOrNull(root, "normalizer")));
  ASSIGN_OR_RETURN(PreTokenizer pre, PreTokenizer::Parse(MemberOrNull(root, "pre_tokenizer")));
  ASSIGN_OR_RETURN(Decoder decoder, Decoder::Parse(MemberOrNull(root, "decoder")));
  ASSIGN_OR_RETURN(auto added, ParseAddedTokens(MemberOrNull(root, "added_tokens")));
  ASSIGN_OR_RETURN(Bpe bpe, ParseModel(MemberOrNull(root, "model")));
  TokenizerParts parts = {.normalizer = std::move(normalizer),
                          .pre_tokenizer = std::move(pre),
                          .bpe = std::move(bpe),
                          .added = std::move(added),
                          .prefix = {},
                          .suffix = {},
                          .decoder = std::move(decoder),
                          .ids = {}};
  RETURN_IF_ERROR(ParsePostProcessor(MemberOrNull(root, "post_processor"), parts));
  return parts;
}

StatusOr<Vocabulary> ParseVocab(const JsonValue& vocab, absl::string_view what) {
  if (!vocab.IsObject()) {
    return absl::InvalidArgumentError(absl::StrCat(what, " \"vocab\" must be an object"));
  }
  std::vector<Vocabulary::Entry> entries;
  entries.reserve(vocab.MemberCount());
  for (const auto& member : vocab.GetObject()) {
    std::string token(member.name.GetString(), member.name.GetStringLength());
    if (!member.value.IsInt64()) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, " \"vocab\": the id of ", JsonQuote(token), " must be an integer"));
    }
    entries.emplace_back(std::move(token), member.value.GetInt64());
  }
  auto out = Vocabulary::Create(std::move(entries));
  if (!out.ok()) return Annotate(out.status(), what);
  return out;
}

StatusOr<Bpe::Merge> ParseMergeLine(absl::string_view line, size_t rank) {
  const size_t space = line.find(' ');
  if (space == absl::string_view::npos || line.find(' ', space + 1) != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("merge ", rank, " ", JsonQuote(line),
                                                   " must be two pieces with one space between"));
  }
  return Bpe::Merge(line.substr(0, space), line.substr(space + 1));
}

StatusOr<AddedToken> ParseAddedToken(const JsonValue& value, absl::string_view what, int64_t id) {
  AddedToken out;
  ASSIGN_OR_RETURN(out.content, RequireString(value, what, "content"));
  if (id < 0 || id >= limits::kVocabEntriesMax) {
    return absl::InvalidArgumentError(absl::StrCat(what, " ", JsonQuote(out.content), " has id ",
                                                   id, ", outside of 0..",
                                                   limits::kVocabEntriesMax - 1));
  }
  out.id = static_cast<int32_t>(id);
  ASSIGN_OR_RETURN(out.single_word, GetBool(value, "single_word", false));
  ASSIGN_OR_RETURN(out.lstrip, GetBool(value, "lstrip", false));
  ASSIGN_OR_RETURN(out.rstrip, GetBool(value, "rstrip", false));
  ASSIGN_OR_RETURN(out.special, GetBool(value, "special", false));
  ASSIGN_OR_RETURN(out.normalized, GetBool(value, "normalized", !out.special));
  return out;
}

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(absl::string_view json, SequenceIds ids) {
  ASSIGN_OR_RETURN(TokenizerParts parts, ParseTokenizerJson(json));
  parts.ids = std::move(ids);
  return Create(std::move(parts));
}

}  // namespace reprise
