// Regular expressions by ICU. Backtracking is counted over a whole call, so neither a hostile
// pattern nor a hostile text can hold a thread.
#include <unicode/uregex.h>
#include <unicode/utext.h>
#include <unicode/utypes.h>

#include "common/json.h"
#include "common/limits.h"
#include "gateway/text/matcher.h"

namespace reprise {
namespace {

struct RegexClose {
  void operator()(URegularExpression* regex) const { uregex_close(regex); }
};
using Regex = std::unique_ptr<URegularExpression, RegexClose>;

// Moves with neither its text nor itself, as ICU keeps pointers into it.
class Utf8Text {
 public:
  Utf8Text() = default;
  ~Utf8Text() { utext_close(&text_); }
  Utf8Text(const Utf8Text&) = delete;
  Utf8Text& operator=(const Utf8Text&) = delete;
  UText* Open(absl::string_view text, UErrorCode* status) {
    return utext_openUTF8(&text_, text.data(), static_cast<int64_t>(text.size()), status);
  }

 private:
  UText text_ = UTEXT_INITIALIZER;
};

constexpr int64_t kStatesPerTick = 10'000;  // ICU's own granularity

struct Budget {
  int64_t ticks_left;
};

UBool U_CALLCONV SpendTick(const void* context, int32_t) {
  auto* budget = static_cast<Budget*>(const_cast<void*>(context));
  return --budget->ticks_left > 0;
}

class IcuMatcher : public Matcher {
 public:
  IcuMatcher(absl::string_view pattern, Regex regex)
      : pattern_(pattern), regex_(std::move(regex)) {}

  Status Find(absl::string_view text, std::span<const Span> pieces,
              OnMatch on_match) const override {
    size_t bytes = 0;
    for (const Span& piece : pieces) bytes += piece.end - piece.begin;
    Budget budget = {
        (limits::kRegexStatesMin + limits::kRegexStatesPerByte * static_cast<int64_t>(bytes)) /
        kStatesPerTick};
    UErrorCode status = U_ZERO_ERROR;
    const Regex regex(uregex_clone(regex_.get(), &status));  // shares the compiled program
    uregex_setStackLimit(regex.get(), limits::kRegexStackBytesMax, &status);
    uregex_setMatchCallback(regex.get(), &SpendTick, &budget, &status);
    Utf8Text utext;
    for (size_t p = 0; p < pieces.size() && U_SUCCESS(status); ++p) {
      const auto [begin, end] = pieces[p];
      uregex_setUText(regex.get(), utext.Open(text.substr(begin, end - begin), &status), &status);
      while (uregex_findNext(regex.get(), &status)) {
        const int64_t from = uregex_start64(regex.get(), 0, &status);
        const int64_t to = uregex_end64(regex.get(), 0, &status);
        on_match(p, {begin + static_cast<uint32_t>(from), begin + static_cast<uint32_t>(to)});
      }
    }
    if (U_SUCCESS(status)) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat("regular expression ", JsonQuote(pattern_),
                                                     " gave up on a text of ", bytes,
                                                     " bytes: ", u_errorName(status)));
  }

 private:
  const std::string pattern_;
  const Regex regex_;
};

}  // namespace

StatusOr<std::unique_ptr<Matcher>> NewIcuMatcher(absl::string_view pattern) {
  if (pattern.size() > limits::kRegexPatternBytesMax) {
    return absl::ResourceExhaustedError(absl::StrCat("regular expression of ", pattern.size(),
                                                     " bytes is over the limit of ",
                                                     limits::kRegexPatternBytesMax));
  }
  UErrorCode status = U_ZERO_ERROR;
  UParseError where = {};
  Utf8Text utext;
  // Oniguruma's $ also matches before every line feed, and knows no other line end.
  Regex regex(uregex_openUText(utext.Open(pattern, &status), UREGEX_MULTILINE | UREGEX_UNIX_LINES,
                               &where, &status));
  if (U_FAILURE(status)) {
    return absl::InvalidArgumentError(absl::StrCat("regular expression ", JsonQuote(pattern),
                                                   " does not compile: ", u_errorName(status),
                                                   " at character ", where.offset));
  }
  return std::make_unique<IcuMatcher>(pattern, std::move(regex));
}

}  // namespace reprise
