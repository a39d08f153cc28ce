#include "gateway/text/decoder.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_replace.h"
#include "common/limits.h"
#include "gateway/text/byte_alphabet.h"
#include "gateway/text/json_object.h"

namespace reprise {
namespace {

constexpr absl::string_view kWhat = "tokenizer.json: decoder";

Status WrongPlace(absl::string_view what, absl::string_view after) {
  return absl::InvalidArgumentError(absl::StrCat(what, " after ", after, " is not supported"));
}

bool IsOneCharacter(absl::string_view text) {
  size_t next = 0;
  if (text.empty()) return false;
  NextCodePoint(text, next);
  return next == text.size();
}

int HexDigit(char c) { return c >= '0' && c <= '9' ? c - '0' : absl::ascii_tolower(c) - 'a' + 10; }

// The byte that "<0xNN>" names.
std::optional<uint8_t> FallbackByte(absl::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  if (!absl::ascii_isxdigit(token[3]) || !absl::ascii_isxdigit(token[4])) return std::nullopt;
  return static_cast<uint8_t>(HexDigit(token[3]) * 16 + HexDigit(token[4]));
}

std::string StripToken(absl::string_view token, char32_t content, int64_t start, int64_t stop) {
  size_t begin = 0;
  for (int64_t i = 0; i < start && begin < token.size(); ++i) {
    size_t next = begin;
    if (NextCodePoint(token, next) != content) break;
    begin = next;
  }
  size_t end = token.size();
  for (int64_t i = 0; i < stop && end > begin; ++i) {
    size_t previous = end;
    U8_BACK_1(reinterpret_cast<const uint8_t*>(token.data()), 0, previous);
    size_t next = previous;
    if (NextCodePoint(token, next) != content) break;
    end = previous;
  }
  return std::string(token.substr(begin, end - begin));
}

}  // namespace

StatusOr<Decoder> Decoder::Parse(const JsonValue& value) {
  Decoder out;
  ASSIGN_OR_RETURN(const auto stages, FlattenSequence(value, kWhat, "decoders"));
  out.join_with_spaces_ = value.IsNull();
  Phase phase = Phase::kTokens;
  for (const JsonValue* stage : stages) RETURN_IF_ERROR(out.AddStage(*stage, phase));
  return out;
}

Decoder Decoder::ByteLevel() {
  Decoder out;
  out.token_rules_.push_back({.kind = TokenRule::Kind::kByteLevel, .from = "", .to = ""});
  out.byte_mode_ = Bytes::kByteLevel;
  return out;
}

Status Decoder::AddStage(const JsonValue& value, Phase& phase) {
  ASSIGN_OR_RETURN(const std::string type, RequireString(value, kWhat, "type"));
  const std::string what = absl::StrCat(kWhat, " ", type);
  if (type == "Replace") return AddReplace(value, what, phase);
  if (type == "Strip") return AddStrip(value, what, phase);
  if (type == "Metaspace") return AddMetaspace(value, what, phase);
  if (type == "Fuse") {
    RETURN_IF_ERROR(CheckObject(value, what, {"type"}));
    phase = Phase::kFused;
    return absl::OkStatus();
  }
  if (type != "ByteFallback" && type != "ByteLevel") return Unsupported(kWhat, type);
  if (phase != Phase::kTokens) return WrongPlace(what, "another that joins tokens");
  if (type == "ByteFallback") {
    RETURN_IF_ERROR(CheckObject(value, what, {"type"}));
    byte_mode_ = Bytes::kFallback;
    phase = Phase::kCharacters;
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(
      CheckObject(value, what, {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  token_rules_.push_back({.kind = TokenRule::Kind::kByteLevel, .from = "", .to = ""});
  byte_mode_ = Bytes::kByteLevel;
  phase = Phase::kFused;
  return absl::OkStatus();
}

Status Decoder::AddReplace(const JsonValue& value, absl::string_view what, Phase phase) {
  RETURN_IF_ERROR(CheckObject(value, what, {"type", "pattern", "content"}));
  const JsonValue* pattern = FindMember(value, "pattern");
  const std::string where = absl::StrCat(what, " \"pattern\"");
  if (pattern == nullptr) return absl::InvalidArgumentError(absl::StrCat(where, " is missing"));
  RETURN_IF_ERROR(CheckObject(*pattern, where, {"String"}));
  TokenRule rule = {.kind = TokenRule::Kind::kReplace, .from = "", .to = ""};
  ASSIGN_OR_RETURN(rule.from, RequireString(*pattern, where, "String"));
  ASSIGN_OR_RETURN(rule.to, RequireString(value, what, "content"));
  if (rule.from.empty()) return absl::InvalidArgumentError(absl::StrCat(where, " is empty"));
  if (rule.to.size() > limits::kDecoderContentBytesMax) {
    return absl::ResourceExhaustedError(absl::StrCat(what, " content of ", rule.to.size(),
                                                     " bytes is over the limit of ",
                                                     limits::kDecoderContentBytesMax));
  }
  if (phase == Phase::kTokens) {
    token_rules_.push_back(std::move(rule));
    return absl::OkStatus();
  }
  if (text_strip_) return WrongPlace(what, "Strip");
  // Longer ones could begin in text that has been given out already.
  if (!IsOneCharacter(rule.from)) return WrongPlace(what, "ByteFallback, ByteLevel or Fuse");
  character_rules_.push_back(std::move(rule));
  return absl::OkStatus();
}

Status Decoder::AddStrip(const JsonValue& value, absl::string_view what, Phase phase) {
  RETURN_IF_ERROR(CheckObject(value, what, {"type", "content", "start", "stop"}));
  TokenRule rule = {.kind = TokenRule::Kind::kStrip, .from = "", .to = ""};
  ASSIGN_OR_RETURN(const std::string content, RequireString(value, what, "content"));
  if (!IsOneCharacter(content)) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " content ", JsonQuote(content), " must be one character"));
  }
  size_t next = 0;
  rule.content = NextCodePoint(content, next);
  ASSIGN_OR_RETURN(rule.start, GetInt(value, "start", 0));
  ASSIGN_OR_RETURN(rule.stop, GetInt(value, "stop", 0));
  const auto limit = static_cast<int64_t>(limits::kTokenBytesMax);
  if (rule.start < 0 || rule.stop < 0 || rule.start > limit || rule.stop > limit) {
    return absl::InvalidArgumentError(absl::StrCat(what, " start ", rule.start, " and stop ",
                                                   rule.stop, " must be in 0..", limit));
  }
  if (phase == Phase::kCharacters) return WrongPlace(what, "ByteFallback without Fuse");
  if (phase == Phase::kTokens) {
    token_rules_.push_back(rule);
    return absl::OkStatus();
  }
  if (text_strip_) return WrongPlace(what, "another Strip");
  text_strip_ = rule;
  return absl::OkStatus();
}

Status Decoder::AddMetaspace(const JsonValue& value, absl::string_view what, Phase phase) {
  RETURN_IF_ERROR(CheckObject(
      value, what,
      {"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"}));
  TokenRule rule = {.kind = TokenRule::Kind::kMetaspace, .from = "", .to = " "};
  ASSIGN_OR_RETURN(rule.from, GetString(value, "replacement", "\u2581"));
  if (!IsOneCharacter(rule.from)) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " replacement ", JsonQuote(rule.from), " must be one character"));
  }
  ASSIGN_OR_RETURN(const bool add_prefix_space, GetBool(value, "add_prefix_space", true));
  ASSIGN_OR_RETURN(const std::string scheme,
                   GetString(value, "prepend_scheme", add_prefix_space ? "always" : "never"));
  rule.drop_first = scheme != "never";
  if (phase != Phase::kTokens) return WrongPlace(what, "another that joins tokens");
  has_first_table_ = has_first_table_ || rule.drop_first;
  token_rules_.push_back(std::move(rule));
  return absl::OkStatus();
}

Status Decoder::ApplyTokenRules(std::string& token, bool first) const {
  for (const TokenRule& rule : token_rules_) {
    switch (rule.kind) {
      case TokenRule::Kind::kReplace:
        token = absl::StrReplaceAll(token, {{rule.from, rule.to}});
        break;
      case TokenRule::Kind::kStrip:
        token = StripToken(token, rule.content, rule.start, rule.stop);
        break;
      case TokenRule::Kind::kByteLevel:
        token = LettersToBytes(token);
        break;
      case TokenRule::Kind::kMetaspace:
        token = absl::StrReplaceAll(token, {{rule.from, first && rule.drop_first ? "" : rule.to}});
        break;
    }
    if (token.size() > limits::kTokenBytesMax) {
      return absl::ResourceExhaustedError(absl::StrCat(kWhat, ": a token decodes to ", token.size(),
                                                       " bytes, over the limit of ",
                                                       limits::kTokenBytesMax));
    }
  }
  return absl::OkStatus();
}

Status Decoder::Fill(const std::vector<const std::string*>& tokens, bool first,
                     Table& table) const {
  table.offsets.assign(1, 0);
  for (const std::string* token : tokens) {
    std::string bytes = token == nullptr ? "" : *token;
    RETURN_IF_ERROR(ApplyTokenRules(bytes, first));
    if (byte_mode_ == Bytes::kFallback) {
      if (const auto byte = FallbackByte(bytes)) bytes.assign(1, static_cast<char>(*byte));
    }
    table.bytes += bytes;
    if (table.bytes.size() > limits::kDecodedVocabBytesMax) {
      return absl::ResourceExhaustedError(absl::StrCat(kWhat,
                                                       ": decoded tokens are over the limit of ",
                                                       limits::kDecodedVocabBytesMax, " bytes"));
    }
    table.offsets.push_back(static_cast<uint32_t>(table.bytes.size()));
  }
  return absl::OkStatus();
}

Status Decoder::Bind(const std::vector<const std::string*>& tokens) {
  is_byte_.assign(tokens.size(), false);
  if (byte_mode_ == Bytes::kFallback) {
    for (size_t id = 0; id < tokens.size(); ++id) {
      if (tokens[id] == nullptr) continue;
      std::string token = *tokens[id];
      RETURN_IF_ERROR(ApplyTokenRules(token, /*first=*/false));
      is_byte_[id] = FallbackByte(token).has_value();
    }
  }
  RETURN_IF_ERROR(Fill(tokens, /*first=*/false, later_));
  if (has_first_table_) RETURN_IF_ERROR(Fill(tokens, /*first=*/true, first_));
  return absl::OkStatus();
}

Decoder::Stream::Stream(const Decoder& decoder, bool at_text_start)
    : decoder_(&decoder),
      assembler_(decoder.byte_mode_ == Bytes::kFallback ? Utf8Assembler::Invalid::kPerByte
                                                        : Utf8Assembler::Invalid::kPerSubpart),
      first_(at_text_start) {
  if (at_text_start && decoder.text_strip_) strip_left_ = decoder.text_strip_->start;
}

void Decoder::Stream::Push(int32_t id, std::string& out) {
  std::string text;
  if (decoder_->join_with_spaces_ && !first_) text += ' ';
  const Table& table = first_ && decoder_->has_first_table_ ? decoder_->first_ : decoder_->later_;
  const absl::string_view piece = table.At(id);
  first_ = false;
  switch (decoder_->byte_mode_) {
    case Bytes::kByteLevel:
      assembler_.Push(piece, text);
      break;
    case Bytes::kFallback:
      if (id >= 0 && id < std::ssize(decoder_->is_byte_) && decoder_->is_byte_[id]) {
        assembler_.Push(piece, text);
        break;
      }
      assembler_.Flush(text);
      [[fallthrough]];
    case Bytes::kNone:
      text.append(piece.data(), piece.size());
      break;
  }
  Characters(std::move(text), out);
}

void Decoder::Stream::Flush(std::string& out) {
  std::string text;
  assembler_.Flush(text);
  Characters(std::move(text), out);
  held_ = 0;
}

void Decoder::Stream::Characters(std::string text, std::string& out) {
  for (const TokenRule& rule : decoder_->character_rules_) {
    text = absl::StrReplaceAll(text, {{rule.from, rule.to}});
  }
  if (decoder_->text_strip_) {
    Strip(text, out);
  } else {
    out += text;
  }
}

void Decoder::Stream::Strip(absl::string_view text, std::string& out) {
  const TokenRule& rule = *decoder_->text_strip_;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const bool match = NextCodePoint(text, i) == rule.content;
    if (match && strip_left_ > 0) {
      --strip_left_;
      continue;
    }
    strip_left_ = 0;
    if (match && held_ < rule.stop) {
      ++held_;
      continue;
    }
    // A match past the bound lets the first held one go and is held in its place.
    for (; held_ > 0 && !match; --held_) AppendCodePoint(rule.content, out);
    out.append(text.data() + start, i - start);
  }
}

}  // namespace reprise
