// Cuts pieces at the matches of a pattern, in the ways tokenizer files name. Pure; any thread.
#ifndef REPRISE_GATEWAY_TEXT_SPLIT_RULE_H_
#define REPRISE_GATEWAY_TEXT_SPLIT_RULE_H_

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "gateway/text/pre_tokenizer.h"

namespace reprise {

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// "Isolated", "MergedWithNext", ...
StatusOr<SplitBehavior> ParseSplitBehavior(absl::string_view name, absl::string_view what);

// `invert`: what lies between the matches counts as the matches.
Status SplitPieces(const Matcher& matcher, SplitBehavior behavior, bool invert, Pieces& pieces);

std::unique_ptr<PreTokenizer::Rule> NewSplitRule(std::unique_ptr<Matcher> matcher,
                                                 SplitBehavior behavior, bool invert);

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_SPLIT_RULE_H_
