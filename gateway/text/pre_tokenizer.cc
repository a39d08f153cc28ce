#include "gateway/text/pre_tokenizer.h"

#include <unicode/uchar.h>

#include "common/limits.h"
#include "gateway/text/byte_alphabet.h"
#include "gateway/text/json_object.h"
#include "gateway/text/rule_pattern.h"
#include "gateway/text/scanners.h"
#include "gateway/text/split_rule.h"
#include "gateway/text/utf8.h"

namespace reprise {
namespace {

constexpr absl::string_view kWhat = "tokenizer.json: pre_tokenizer";

using Rule = PreTokenizer::Rule;

// Writes every piece anew, one behind the other; `write` gets the piece's number and text.
Status Rewrite(Pieces& pieces,
               absl::FunctionRef<void(size_t, absl::string_view, std::string&)> write) {
  std::string out;
  out.reserve(pieces.text.size() + pieces.spans.size());
  for (size_t p = 0; p < pieces.spans.size(); ++p) {
    Span& span = pieces.spans[p];
    const size_t begin = out.size();
    write(p, absl::string_view(pieces.text).substr(span.begin, span.end - span.begin), out);
    if (out.size() > limits::kNormalizedTextBytesMax) {
      return absl::ResourceExhaustedError(absl::StrCat("pre-tokenized text is over the limit of ",
                                                       limits::kNormalizedTextBytesMax, " bytes"));
    }
    span = {static_cast<uint32_t>(begin), static_cast<uint32_t>(out.size())};
  }
  pieces.text = std::move(out);
  return absl::OkStatus();
}

void Append(absl::string_view text, std::string& out) { out.append(text.data(), text.size()); }

class PrefixSpace : public Rule {
 public:
  Status Apply(Pieces& pieces) const override {
    return Rewrite(pieces, [](size_t, absl::string_view piece, std::string& out) {
      if (piece[0] != ' ') out += ' ';
      Append(piece, out);
    });
  }
};

class SpellBytes : public Rule {
 public:
  Status Apply(Pieces& pieces) const override {
    return Rewrite(pieces, [](size_t, absl::string_view piece, std::string& out) {
      out += BytesToLetters(piece);
    });
  }
};

class Metaspace : public Rule {
 public:
  enum class Prepend { kFirst, kAlways, kNever };

  Metaspace(std::string replacement, Prepend prepend, bool split)
      : replacement_(std::move(replacement)), prepend_(prepend) {
    if (split) matcher_ = NewLiteralMatcher(replacement_);
  }

  Status Apply(Pieces& pieces) const override {
    RETURN_IF_ERROR(Rewrite(pieces, [&](size_t p, absl::string_view piece, std::string& out) {
      const bool wanted = prepend_ == Prepend::kAlways ||
                          (prepend_ == Prepend::kFirst && p == 0 && pieces.at_start);
      const bool has = piece[0] == ' ' || piece.substr(0, replacement_.size()) == replacement_;
      if (wanted && !has) out += replacement_;
      for (const char c : piece) {
        if (c == ' ') {
          out += replacement_;
        } else {
          out += c;
        }
      }
    }));
    if (matcher_ == nullptr) return absl::OkStatus();
    return SplitPieces(*matcher_, SplitBehavior::kMergedWithNext, /*invert=*/false, pieces);
  }

 private:
  const std::string replacement_;
  const Prepend prepend_;
  std::unique_ptr<Matcher> matcher_;
};

bool IsPunctuation(char32_t c) {
  if (c < 128) return u_isgraph(static_cast<UChar32>(c)) && !u_isalnum(static_cast<UChar32>(c));
  return (U_MASK(u_charType(static_cast<UChar32>(c))) & U_GC_P_MASK) != 0;
}

bool IsNumeric(char32_t c) {
  return (U_MASK(u_charType(static_cast<UChar32>(c))) & U_GC_N_MASK) != 0;
}

bool IsSpace(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)); }

using Rules = std::vector<std::unique_ptr<Rule>>;

Status ParseByteLevel(const JsonValue& value, absl::string_view what, Rules& rules) {
  RETURN_IF_ERROR(
      CheckObject(value, what, {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  ASSIGN_OR_RETURN(const bool add_prefix_space, GetBool(value, "add_prefix_space", true));
  ASSIGN_OR_RETURN(const bool use_regex, GetBool(value, "use_regex", true));
  if (add_prefix_space) rules.push_back(std::make_unique<PrefixSpace>());
  if (use_regex) {
    ASSIGN_OR_RETURN(auto matcher, NewRegexMatcher(kGpt2Pattern));
    rules.push_back(NewSplitRule(std::move(matcher), SplitBehavior::kIsolated, /*invert=*/false));
  }
  return absl::OkStatus();
}

Status ParseSplit(const JsonValue& value, absl::string_view what, Rules& rules) {
  RETURN_IF_ERROR(CheckObject(value, what, {"type", "pattern", "behavior", "invert"}));
  ASSIGN_OR_RETURN(RulePattern pattern, ParseRulePattern(value, what));
  ASSIGN_OR_RETURN(const std::string name, RequireString(value, what, "behavior"));
  ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseSplitBehavior(name, what));
  ASSIGN_OR_RETURN(const bool invert, GetBool(value, "invert", false));
  rules.push_back(NewSplitRule(std::move(pattern.matcher), behavior, invert));
  return absl::OkStatus();
}

// Older files say add_prefix_space where newer ones say prepend_scheme; the newer word wins.
Status ParseMetaspace(const JsonValue& value, absl::string_view what, Rules& rules) {
  RETURN_IF_ERROR(CheckObject(
      value, what,
      {"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"}));
  ASSIGN_OR_RETURN(const std::string replacement, GetString(value, "replacement", "\u2581"));
  size_t first = 0;
  if (!replacement.empty()) NextCodePoint(replacement, first);
  if (replacement.empty() || first != replacement.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " replacement ", JsonQuote(replacement), " must be one character"));
  }
  ASSIGN_OR_RETURN(const bool add_prefix_space, GetBool(value, "add_prefix_space", true));
  ASSIGN_OR_RETURN(const std::string scheme,
                   GetString(value, "prepend_scheme", add_prefix_space ? "always" : "never"));
  ASSIGN_OR_RETURN(const bool split, GetBool(value, "split", true));
  Metaspace::Prepend prepend = Metaspace::Prepend::kNever;
  if (scheme == "always") {
    prepend = Metaspace::Prepend::kAlways;
  } else if (scheme == "first") {
    prepend = Metaspace::Prepend::kFirst;
  } else if (scheme != "never") {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " prepend_scheme ", JsonQuote(scheme), " is not supported"));
  }
  rules.push_back(std::make_unique<Metaspace>(replacement, prepend, split));
  return absl::OkStatus();
}

Status ParseWhitespace(const JsonValue& value, absl::string_view what, Rules& rules) {
  RETURN_IF_ERROR(CheckObject(value, what, {"type"}));
  ASSIGN_OR_RETURN(auto matcher, NewRegexMatcher(R"re(\w+|[^\w\s]+)re"));
  rules.push_back(NewSplitRule(std::move(matcher), SplitBehavior::kRemoved, /*invert=*/true));
  return absl::OkStatus();
}

Status ParseCharacterRule(const JsonValue& value, absl::string_view what, absl::string_view type,
                          Rules& rules) {
  if (type == "Digits") {
    RETURN_IF_ERROR(CheckObject(value, what, {"type", "individual_digits"}));
    ASSIGN_OR_RETURN(const bool individual, GetBool(value, "individual_digits", false));
    rules.push_back(NewSplitRule(NewCharacterMatcher(&IsNumeric),
                                 individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous,
                                 false));
  } else if (type == "Punctuation") {
    RETURN_IF_ERROR(CheckObject(value, what, {"type", "behavior"}));
    ASSIGN_OR_RETURN(const std::string name, GetString(value, "behavior", "Isolated"));
    ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseSplitBehavior(name, what));
    rules.push_back(NewSplitRule(NewCharacterMatcher(&IsPunctuation), behavior, false));
  } else if (type == "WhitespaceSplit") {
    RETURN_IF_ERROR(CheckObject(value, what, {"type"}));
    rules.push_back(NewSplitRule(NewCharacterMatcher(&IsSpace), SplitBehavior::kRemoved, false));
  } else {
    RETURN_IF_ERROR(CheckObject(value, what, {"type", "delimiter"}));
    ASSIGN_OR_RETURN(const std::string delimiter, RequireString(value, what, "delimiter"));
    rules.push_back(NewSplitRule(NewLiteralMatcher(delimiter), SplitBehavior::kRemoved, false));
  }
  return absl::OkStatus();
}

Status ParseRule(const JsonValue& value, absl::string_view type, Rules& rules) {
  const std::string what = absl::StrCat(kWhat, " ", type);
  if (type == "ByteLevel") return ParseByteLevel(value, what, rules);
  if (type == "Split") return ParseSplit(value, what, rules);
  if (type == "Metaspace") return ParseMetaspace(value, what, rules);
  if (type == "Whitespace") return ParseWhitespace(value, what, rules);
  if (type == "Digits" || type == "Punctuation" || type == "WhitespaceSplit" ||
      type == "CharDelimiterSplit") {
    return ParseCharacterRule(value, what, type, rules);
  }
  return Unsupported(kWhat, type);
}

}  // namespace

StatusOr<PreTokenizer> PreTokenizer::Parse(const JsonValue& value) {
  ASSIGN_OR_RETURN(const auto stages, FlattenSequence(value, kWhat, "pretokenizers"));
  PreTokenizer out;
  for (const JsonValue* stage : stages) {
    ASSIGN_OR_RETURN(const std::string type, RequireString(*stage, kWhat, "type"));
    RETURN_IF_ERROR(ParseRule(*stage, type, out.rules_));
    if (type != "ByteLevel") continue;
    if (stage == stages.back()) {
      out.yields_bytes_ = true;
    } else {
      out.rules_.push_back(std::make_unique<SpellBytes>());  // later rules see the letters
    }
  }
  return out;
}

PreTokenizer PreTokenizer::Gpt2(bool add_prefix_space) {
  PreTokenizer out = std::move(ByteLevelSplit(kGpt2Pattern)).value();  // a known pattern compiles
  if (add_prefix_space) out.rules_.insert(out.rules_.begin(), std::make_unique<PrefixSpace>());
  return out;
}

StatusOr<PreTokenizer> PreTokenizer::ByteLevelSplit(absl::string_view regex) {
  PreTokenizer out;
  ASSIGN_OR_RETURN(auto matcher, NewRegexMatcher(regex));
  out.rules_.push_back(NewSplitRule(std::move(matcher), SplitBehavior::kIsolated, false));
  out.yields_bytes_ = true;
  return out;
}

Status PreTokenizer::Apply(Pieces& pieces) const {
  for (const auto& rule : rules_) RETURN_IF_ERROR(rule->Apply(pieces));
  return absl::OkStatus();
}

}  // namespace reprise
