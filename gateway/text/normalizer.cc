#include "gateway/text/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <algorithm>

#include "common/limits.h"
#include "gateway/text/json_object.h"
#include "gateway/text/rule_pattern.h"
#include "gateway/text/utf8.h"

namespace reprise {
namespace {

constexpr absl::string_view kWhat = "tokenizer.json: normalizer";

Status TooLong(size_t bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("normalized text of ", bytes,
                                                   " bytes is over the limit of ",
                                                   limits::kNormalizedTextBytesMax));
}

using GetForm = const icu::Normalizer2* (*)(UErrorCode&);

class UnicodeForm : public Normalizer::Rule {
 public:
  explicit UnicodeForm(GetForm get) : get_(get) {}

  Status Apply(std::string& text) const override {
    const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
    if (std::all_of(text.begin(), text.end(), is_ascii)) return absl::OkStatus();
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* form = get_(status);
    std::string out;
    if (U_SUCCESS(status)) {
      icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text.size()));
      form->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink,
                          nullptr, status);
    }
    if (U_FAILURE(status)) {
      return absl::InternalError(absl::StrCat("Unicode normalization: ", u_errorName(status)));
    }
    text = std::move(out);
    return absl::OkStatus();
  }

 private:
  const GetForm get_;
};

class Lowercase : public Normalizer::Rule {
 public:
  Status Apply(std::string& text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
      const char32_t c = NextCodePoint(text, i);
      AppendCodePoint(static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))), out);
      if (c == 0x130) AppendCodePoint(0x307, out);  // the only full mapping without a context
    }
    text = std::move(out);
    return absl::OkStatus();
  }
};

class StripSpace : public Normalizer::Rule {
 public:
  StripSpace(bool left, bool right) : left_(left), right_(right) {}

  Status Apply(std::string& text) const override {
    size_t begin = text.size();
    size_t end = 0;
    for (size_t i = 0; i < text.size();) {
      const size_t start = i;
      if (u_isUWhiteSpace(static_cast<UChar32>(NextCodePoint(text, i)))) continue;
      begin = std::min(begin, start);
      end = i;
    }
    if (right_) text.resize(end);
    if (left_) text.erase(0, std::min(begin, text.size()));
    return absl::OkStatus();
  }

 private:
  const bool left_;
  const bool right_;
};

class Prepend : public Normalizer::Rule {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}

  Status Apply(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix_);
    return absl::OkStatus();
  }

 private:
  const std::string prefix_;
};

class Replace : public Normalizer::Rule {
 public:
  Replace(RulePattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  Status Apply(std::string& text) const override {
    std::string out;
    size_t copied = 0;
    size_t bytes = text.size();
    const Span whole = {0, static_cast<uint32_t>(text.size())};
    RETURN_IF_ERROR(pattern_.matcher->Find(text, {&whole, 1}, [&](size_t, Span match) {
      bytes += content_.size() - (match.end - match.begin);
      if (bytes > limits::kNormalizedTextBytesMax) return;
      out.append(text, copied, match.begin - copied).append(content_);
      copied = match.end;
    }));
    if (bytes > limits::kNormalizedTextBytesMax) return TooLong(bytes);
    if (copied == 0 && out.empty()) return absl::OkStatus();
    out.append(text, copied);
    text = std::move(out);
    return absl::OkStatus();
  }

 private:
  const RulePattern pattern_;
  const std::string content_;
};

StatusOr<std::unique_ptr<Normalizer::Rule>> ParseRule(const JsonValue& value) {
  ASSIGN_OR_RETURN(const std::string type, RequireString(value, kWhat, "type"));
  const std::string what = absl::StrCat(kWhat, " ", type);
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    RETURN_IF_ERROR(CheckObject(value, what, {"type"}));
    return std::make_unique<UnicodeForm>(type == "NFC"    ? &icu::Normalizer2::getNFCInstance
                                         : type == "NFD"  ? &icu::Normalizer2::getNFDInstance
                                         : type == "NFKC" ? &icu::Normalizer2::getNFKCInstance
                                                          : &icu::Normalizer2::getNFKDInstance);
  }
  if (type == "Lowercase") {
    RETURN_IF_ERROR(CheckObject(value, what, {"type"}));
    return std::make_unique<Lowercase>();
  }
  if (type == "Strip") {
    RETURN_IF_ERROR(CheckObject(value, what, {"type", "strip_left", "strip_right"}));
    ASSIGN_OR_RETURN(const bool left, GetBool(value, "strip_left", true));
    ASSIGN_OR_RETURN(const bool right, GetBool(value, "strip_right", true));
    return std::make_unique<StripSpace>(left, right);
  }
  if (type == "Prepend") {
    RETURN_IF_ERROR(CheckObject(value, what, {"type", "prepend"}));
    ASSIGN_OR_RETURN(std::string prefix, RequireString(value, what, "prepend"));
    return std::make_unique<Prepend>(std::move(prefix));
  }
  if (type == "Replace") {
    RETURN_IF_ERROR(CheckObject(value, what, {"type", "pattern", "content"}));
    ASSIGN_OR_RETURN(RulePattern pattern, ParseRulePattern(value, what));
    ASSIGN_OR_RETURN(std::string content, RequireString(value, what, "content"));
    return std::make_unique<Replace>(std::move(pattern), std::move(content));
  }
  return Unsupported(kWhat, type);
}

}  // namespace

StatusOr<Normalizer> Normalizer::Parse(const JsonValue& value) {
  ASSIGN_OR_RETURN(const auto stages, FlattenSequence(value, kWhat, "normalizers"));
  Normalizer out;
  for (const JsonValue* stage : stages) {
    ASSIGN_OR_RETURN(auto rule, ParseRule(*stage));
    out.rules_.push_back(std::move(rule));
  }
  return out;
}

Normalizer Normalizer::Nfc() {
  Normalizer out;
  out.rules_.push_back(std::make_unique<UnicodeForm>(&icu::Normalizer2::getNFCInstance));
  return out;
}

Status Normalizer::Apply(std::string& text) const {
  for (const auto& rule : rules_) {
    RETURN_IF_ERROR(rule->Apply(text));
    if (text.size() > limits::kNormalizedTextBytesMax) return TooLong(text.size());
  }
  return absl::OkStatus();
}

}  // namespace reprise
