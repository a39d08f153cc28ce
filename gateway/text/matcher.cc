#include "gateway/text/matcher.h"

#include <string>

#include "common/json.h"
#include "gateway/text/scanners.h"
#include "gateway/text/utf8.h"

namespace reprise {
namespace {

uint32_t U32(size_t offset) { return static_cast<uint32_t>(offset); }

class LiteralMatcher : public Matcher {
 public:
  explicit LiteralMatcher(absl::string_view literal) : literal_(literal) {}

  Status Find(absl::string_view text, std::span<const Span> pieces,
              OnMatch on_match) const override {
    if (literal_.empty()) return absl::OkStatus();
    for (size_t p = 0; p < pieces.size(); ++p) {
      const absl::string_view piece = text.substr(0, pieces[p].end);
      size_t at = pieces[p].begin;
      while ((at = piece.find(literal_, at)) != absl::string_view::npos) {
        on_match(p, {U32(at), U32(at + literal_.size())});
        at += literal_.size();
      }
    }
    return absl::OkStatus();
  }

 private:
  const std::string literal_;
};

class CharacterMatcher : public Matcher {
 public:
  explicit CharacterMatcher(bool (*matches)(char32_t)) : matches_(matches) {}

  Status Find(absl::string_view text, std::span<const Span> pieces,
              OnMatch on_match) const override {
    for (size_t p = 0; p < pieces.size(); ++p) {
      for (size_t i = pieces[p].begin; i < pieces[p].end;) {
        const size_t start = i;
        if (matches_(NextCodePoint(text, i))) on_match(p, {U32(start), U32(i)});
      }
    }
    return absl::OkStatus();
  }

 private:
  bool (*const matches_)(char32_t);
};

class ScannerMatcher : public Matcher {
 public:
  explicit ScannerMatcher(WordScanner scan) : scan_(scan) {}

  Status Find(absl::string_view text, std::span<const Span> pieces,
              OnMatch on_match) const override {
    for (size_t p = 0; p < pieces.size(); ++p) {
      const absl::string_view piece = text.substr(0, pieces[p].end);
      for (size_t i = pieces[p].begin; i < pieces[p].end;) {
        const size_t end = scan_(piece, i);
        on_match(p, {U32(i), U32(end)});
        i = end;
      }
    }
    return absl::OkStatus();
  }

 private:
  const WordScanner scan_;
};

class TrailingSpaceMatcher : public Matcher {
 public:
  Status Find(absl::string_view text, std::span<const Span> pieces,
              OnMatch on_match) const override {
    for (size_t p = 0; p < pieces.size(); ++p) {
      const absl::string_view piece = text.substr(0, pieces[p].end);
      for (Match m = FindTrailingSpace(piece, pieces[p].begin); m.begin < m.end;
           m = FindTrailingSpace(piece, m.end)) {
        on_match(p, {U32(m.begin), U32(m.end)});
      }
    }
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<Matcher> NewLiteralMatcher(absl::string_view literal) {
  return std::make_unique<LiteralMatcher>(literal);
}

std::unique_ptr<Matcher> NewCharacterMatcher(bool (*matches)(char32_t)) {
  return std::make_unique<CharacterMatcher>(matches);
}

StatusOr<std::unique_ptr<Matcher>> NewRegexMatcher(absl::string_view pattern) {
  if (const WordScanner scan = FindWordScanner(pattern); scan != nullptr) {
    return std::make_unique<ScannerMatcher>(scan);
  }
  if (pattern == kTrailingSpacePattern) return std::make_unique<TrailingSpaceMatcher>();
  for (const char* differs : {"}+", "\\h", "\\H", "\\K", "\\R", "\\X", "\\G"}) {
    if (pattern.find(differs) != absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("regular expression ", JsonQuote(pattern),
                                                     " uses ", JsonQuote(differs),
                                                     ", which is not supported"));
    }
  }
  return NewIcuMatcher(pattern);
}

}  // namespace reprise
