// Hand-written equivalents of the word patterns nearly every byte-level BPE file names: one pass,
// linear in the text, no backtracking. Pure functions; any thread.
#ifndef REPRISE_GATEWAY_TEXT_SCANNERS_H_
#define REPRISE_GATEWAY_TEXT_SCANNERS_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace reprise {

inline constexpr absl::string_view kGpt2Pattern =
    R"re('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)re";
inline constexpr absl::string_view kLlama3Pattern =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
inline constexpr absl::string_view kQwen2Pattern =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
inline constexpr absl::string_view kTrailingSpacePattern = R"re(\s+$)re";

// The end of the match that starts at `begin` < text.size(). The words of valid UTF-8 text cover
// it.
using WordScanner = size_t (*)(absl::string_view text, size_t begin);

// The scanner of exactly this pattern, null when there is none.
WordScanner FindWordScanner(absl::string_view pattern);

// The first match of \s+$ at or after `begin` ($ also before a line feed): its start and end, or
// text.size() twice when there is none.
struct Match {
  size_t begin;
  size_t end;
};
Match FindTrailingSpace(absl::string_view text, size_t begin);

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_SCANNERS_H_
