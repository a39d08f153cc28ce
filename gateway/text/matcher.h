// Finds the matches a splitting or replacing rule acts on: a literal, a kind of character, a
// well-known word pattern or a general regular expression (ICU). Matchers are immutable after
// construction; any thread.
#ifndef REPRISE_GATEWAY_TEXT_MATCHER_H_
#define REPRISE_GATEWAY_TEXT_MATCHER_H_

#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise {

// A byte range of some text; texts are at most limits::kNormalizedTextBytesMax.
struct Span {
  uint32_t begin = 0;
  uint32_t end = 0;
  bool operator==(const Span&) const = default;
};

class Matcher {
 public:
  virtual ~Matcher() = default;

  // Calls `on_match` for each match inside each piece, in text order; matches do not overlap, no
  // piece sees beyond its own text, and spans count from the start of `text`, which is valid UTF-8.
  // RESOURCE_EXHAUSTED when a regular expression backtracks past its budget for this call.
  using OnMatch = absl::FunctionRef<void(size_t piece, Span match)>;
  virtual Status Find(absl::string_view text, std::span<const Span> pieces,
                      OnMatch on_match) const = 0;
};

std::unique_ptr<Matcher> NewLiteralMatcher(
    absl::string_view literal);  // an empty one never matches

// Every character for which `matches` holds is a match of its own.
std::unique_ptr<Matcher> NewCharacterMatcher(bool (*matches)(char32_t));

// A hand-written scanner for the well-known patterns, ICU for the others. INVALID_ARGUMENT when the
// pattern does not compile, or means something else to the Oniguruma engine files are written for.
StatusOr<std::unique_ptr<Matcher>> NewRegexMatcher(absl::string_view pattern);

// ICU for any pattern: what the scanners are tested against.
StatusOr<std::unique_ptr<Matcher>> NewIcuMatcher(absl::string_view pattern);

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_MATCHER_H_
