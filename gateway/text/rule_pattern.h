// The "pattern" member that splitting and replacing rules of tokenizer files share.
// Pure function; any thread.
#ifndef REPRISE_GATEWAY_TEXT_RULE_PATTERN_H_
#define REPRISE_GATEWAY_TEXT_RULE_PATTERN_H_

#include <memory>
#include <optional>
#include <string>

#include "common/json.h"
#include "common/status.h"
#include "gateway/text/matcher.h"

namespace reprise {

struct RulePattern {
  std::unique_ptr<Matcher> matcher;
  std::optional<std::string> literal;  // nothing: a regular expression
};

// {"String": "..."} or {"Regex": "..."} under "pattern" of `rule`; `what` names the rule.
StatusOr<RulePattern> ParseRulePattern(const JsonValue& rule, absl::string_view what);

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_RULE_PATTERN_H_
