#include "gateway/text/added_tokens.h"

#include <unicode/uchar.h>

#include <algorithm>

#include "common/json.h"
#include "common/limits.h"
#include "gateway/text/utf8.h"

namespace reprise {
namespace {

bool IsSpace(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)); }

// \w of regular expressions (Unicode Technical Standard 18, annex C).
bool IsWord(char32_t c) {
  const auto u = static_cast<UChar32>(c);
  constexpr uint32_t kMarks = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_isUAlphabetic(u) || (U_MASK(u_charType(u)) & kMarks) != 0 ||
         u_hasBinaryProperty(u, UCHAR_JOIN_CONTROL);
}

char32_t Before(absl::string_view text, size_t& at) {
  U8_BACK_1(reinterpret_cast<const uint8_t*>(text.data()), 0, at);
  size_t next = at;
  return NextCodePoint(text, next);
}

size_t SpaceBegin(absl::string_view text, size_t at, size_t limit) {
  while (at > limit) {
    size_t previous = at;
    if (!IsSpace(Before(text, previous))) break;
    at = previous;
  }
  return at;
}

size_t SpaceEnd(absl::string_view text, size_t at) {
  while (at < text.size()) {
    size_t next = at;
    if (!IsSpace(NextCodePoint(text, next))) break;
    at = next;
  }
  return at;
}

bool InsideWord(absl::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsWord(Before(text, begin))) return true;
  return end < text.size() && IsWord(NextCodePoint(text, end));
}

}  // namespace

void StringSet::Add(absl::string_view text, uint32_t value) {
  first_[static_cast<uint8_t>(text[0])] = true;
  uint32_t node = 0;
  for (const char c : text) {
    const uint64_t edge = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c);
    const auto [it, fresh] = children_.try_emplace(edge, nodes_);
    if (fresh) ++nodes_;
    node = it->second;
  }
  values_[node] = value;
}

StringSet::Hit StringSet::LongestAt(absl::string_view text, size_t at) const {
  Hit hit = {0, at};
  if (!first_[static_cast<uint8_t>(text[at])]) return hit;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto it =
        children_.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[i]));
    if (it == children_.end()) break;
    node = it->second;
    if (const auto value = values_.find(node); value != values_.end()) hit = {value->second, i + 1};
  }
  return hit;
}

StatusOr<AddedTokens> AddedTokens::Create(std::vector<AddedToken> tokens,
                                          const Normalizer& normalizer) {
  AddedTokens out;
  out.tokens_ = std::move(tokens);
  size_t bytes = 0;
  for (uint32_t i = 0; i < out.tokens_.size(); ++i) {
    const AddedToken& token = out.tokens_[i];
    bytes += token.content.size();
    if (bytes > limits::kAddedTokensBytesMax) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "added tokens are over the limit of ", limits::kAddedTokensBytesMax, " bytes in all"));
    }
    if (token.content.empty() || token.content.size() > limits::kAddedTokenBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat("added token with id ", token.id, " has ",
                                                     token.content.size(), " bytes, outside of 1..",
                                                     limits::kAddedTokenBytesMax));
    }
    std::string content = token.content;
    if (token.normalized) RETURN_IF_ERROR(normalizer.Apply(content));
    if (!content.empty() && content.size() <= limits::kAddedTokenBytesMax) {
      (token.normalized ? out.normalized_ : out.raw_).Add(content, i);
    }
    if (!token.special) continue;
    out.special_.resize(std::max<size_t>(out.special_.size(), token.id + size_t{1}));
    out.special_[token.id] = true;
  }
  return out;
}

std::vector<Section> AddedTokens::CutRaw(absl::string_view text, bool parse_special) const {
  return Cut(raw_, text, parse_special);
}

std::vector<Section> AddedTokens::CutNormalized(absl::string_view text, bool parse_special) const {
  return Cut(normalized_, text, parse_special);
}

std::vector<Section> AddedTokens::Cut(const StringSet& set, absl::string_view text,
                                      bool parse_special) const {
  std::vector<Section> out;
  size_t done = 0;
  const auto emit = [&](size_t begin, size_t end, int32_t id) {
    if (begin < end)
      out.push_back({{static_cast<uint32_t>(begin), static_cast<uint32_t>(end)}, id});
  };
  for (size_t i = 0; i < text.size();) {
    const StringSet::Hit hit = set.LongestAt(text, i);
    if (hit.end == i) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[hit.value];
    size_t begin = i;
    size_t end = hit.end;
    i = end;  // also when the match does not count, as in the reference
    if (begin < done || (token.special && !parse_special) ||
        (token.single_word && InsideWord(text, begin, end))) {
      continue;
    }
    if (token.lstrip) begin = SpaceBegin(text, begin, done);
    if (token.rstrip) end = SpaceEnd(text, end);
    emit(done, begin, -1);
    emit(begin, end, token.id);
    done = end;
  }
  emit(done, text.size(), -1);
  return out;
}

}  // namespace reprise
