#include "gateway/text/rule_pattern.h"

#include "gateway/text/json_object.h"

namespace reprise {

StatusOr<RulePattern> ParseRulePattern(const JsonValue& rule, absl::string_view what) {
  const std::string where = absl::StrCat(what, " \"pattern\"");
  const JsonValue* pattern = FindMember(rule, "pattern");
  if (pattern == nullptr) return absl::InvalidArgumentError(absl::StrCat(where, " is missing"));
  RETURN_IF_ERROR(CheckObject(*pattern, where, {"String", "Regex"}));
  if (pattern->MemberCount() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(where, " must hold one of String and Regex"));
  }
  RulePattern out;
  if (FindMember(*pattern, "String") != nullptr) {
    ASSIGN_OR_RETURN(out.literal, RequireString(*pattern, where, "String"));
    out.matcher = NewLiteralMatcher(*out.literal);
    return out;
  }
  ASSIGN_OR_RETURN(const std::string regex, RequireString(*pattern, where, "Regex"));
  auto matcher = NewRegexMatcher(regex);
  if (!matcher.ok()) return Annotate(matcher.status(), where);
  out.matcher = std::move(matcher).value();
  return out;
}

}  // namespace reprise
