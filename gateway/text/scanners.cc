#include "gateway/text/scanners.h"

#include <unicode/uchar.h>

#include <array>
#include <cstdint>

#include "gateway/text/utf8.h"

namespace reprise {
namespace {

enum class Kind : uint8_t { kLetter, kNumber, kSpace, kOther };

Kind KindOfSlow(char32_t c) {
  const uint32_t mask = U_MASK(u_charType(static_cast<UChar32>(c)));
  if (mask & U_GC_L_MASK) return Kind::kLetter;
  if (mask & U_GC_N_MASK) return Kind::kNumber;
  return u_isUWhiteSpace(static_cast<UChar32>(c)) ? Kind::kSpace : Kind::kOther;
}

Kind KindOf(char32_t c) {
  static const auto* const ascii = [] {
    auto* table = new std::array<Kind, 128>;
    for (char32_t i = 0; i < 128; ++i) (*table)[i] = KindOfSlow(i);
    return table;
  }();
  return c < 128 ? (*ascii)[c] : KindOfSlow(c);
}

bool IsNewline(char32_t c) { return c == '\r' || c == '\n'; }

// Past the run of `kind` at `i`, of at most `count_max` code points.
size_t SkipRun(absl::string_view text, size_t i, Kind kind, size_t count_max = SIZE_MAX) {
  while (i < text.size() && count_max-- > 0) {
    size_t next = i;
    if (KindOf(NextCodePoint(text, next)) != kind) break;
    i = next;
  }
  return i;
}

// The end of 's, 't, 're, 've, 'm, 'll or 'd at `i`; `i` when there is none.
size_t ContractionEnd(absl::string_view text, size_t i, bool ignore_case) {
  if (text[i] != '\'') return i;
  const auto letter = [&](size_t k) -> char {
    if (k >= text.size()) return 0;
    const char c = text[k];
    return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  const char first = letter(i + 1);
  const char second = letter(i + 2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return i + 2;
  if ((first == 'r' || first == 'v') && second == 'e') return i + 3;
  if (first == 'l' && second == 'l') return i + 3;
  // U+017F, the long s, folds to s.
  if (ignore_case && text.substr(i + 1, 2) == "\xC5\xBF") return i + 3;
  return i;
}

// \s+(?!\S)|\s+ on the run of white space [i, end): a space before a word is left to that word.
size_t SpaceRunEnd(absl::string_view text, size_t i, size_t end) {
  if (end == text.size()) return end;
  size_t last = end;
  U8_BACK_1(reinterpret_cast<const uint8_t*>(text.data()), i, last);
  return last > i ? last : end;
}

size_t ScanGpt2(absl::string_view text, size_t begin) {
  if (const size_t end = ContractionEnd(text, begin, /*ignore_case=*/false); end > begin)
    return end;
  size_t next = begin;
  const char32_t c = NextCodePoint(text, next);
  Kind kind = KindOf(c);
  if (c == ' ' && next < text.size()) {
    size_t after = next;
    const Kind following = KindOf(NextCodePoint(text, after));
    if (following != Kind::kSpace) kind = following;
  }
  if (kind != Kind::kSpace) return SkipRun(text, next, kind);
  return SpaceRunEnd(text, begin, SkipRun(text, next, Kind::kSpace));
}

template <size_t kDigitsMax>
size_t ScanLlama3(absl::string_view text, size_t begin) {
  if (const size_t end = ContractionEnd(text, begin, /*ignore_case=*/true); end > begin) return end;
  size_t next = begin;
  const char32_t c = NextCodePoint(text, next);
  const Kind kind = KindOf(c);
  if (kind == Kind::kLetter) return SkipRun(text, next, Kind::kLetter);
  if (kind == Kind::kNumber) return SkipRun(text, next, Kind::kNumber, kDigitsMax - 1);
  if (!IsNewline(c)) {
    if (const size_t end = SkipRun(text, next, Kind::kLetter); end > next) return end;
  }
  size_t end = kind == Kind::kOther || c == ' ' ? SkipRun(text, next, Kind::kOther) : next;
  if (kind == Kind::kOther || end > next) {
    while (end < text.size() && IsNewline(static_cast<unsigned char>(text[end]))) ++end;
    return end;
  }
  end = SkipRun(text, next, Kind::kSpace);
  for (size_t i = end; i > begin; --i) {
    if (IsNewline(static_cast<unsigned char>(text[i - 1]))) return i;  // \s*[\r\n]+
  }
  return SpaceRunEnd(text, begin, end);
}

}  // namespace

WordScanner FindWordScanner(absl::string_view pattern) {
  if (pattern == kGpt2Pattern) return &ScanGpt2;
  if (pattern == kLlama3Pattern) return &ScanLlama3<3>;
  if (pattern == kQwen2Pattern) return &ScanLlama3<1>;
  return nullptr;
}

Match FindTrailingSpace(absl::string_view text, size_t begin) {
  for (size_t i = begin; i < text.size();) {
    size_t next = i;
    if (KindOf(NextCodePoint(text, next)) != Kind::kSpace) {
      i = next;
      continue;
    }
    const size_t end = SkipRun(text, next, Kind::kSpace);
    if (end == text.size()) return {i, end};
    const size_t newline = text.substr(i, end - i).rfind('\n');
    if (newline != absl::string_view::npos && newline > 0) return {i, i + newline};
    i = end;
  }
  return {text.size(), text.size()};
}

}  // namespace reprise
