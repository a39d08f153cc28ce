#include "gateway/text/json_object.h"

#include <algorithm>

#include "common/limits.h"

namespace reprise {
namespace {

absl::string_view View(const JsonValue& string) {
  return absl::string_view(string.GetString(), string.GetStringLength());
}

Status Missing(absl::string_view what, absl::string_view key, absl::string_view kind) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, " must have ", kind, " under ", JsonQuote(key)));
}

// Depth is bounded by the parser's own limit.
Status Flatten(const JsonValue& value, absl::string_view what, absl::string_view key,
               std::vector<const JsonValue*>& stages) {
  ASSIGN_OR_RETURN(const std::string type, RequireString(value, what, "type"));
  if (type != "Sequence") {
    stages.push_back(&value);
    if (stages.size() > limits::kTokenizerStagesMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat(what, " has more stages than the limit of ", limits::kTokenizerStagesMax));
    }
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(CheckObject(value, what, {"type", key}));
  ASSIGN_OR_RETURN(const JsonValue* array, RequireArray(value, what, key));
  for (const JsonValue& stage : array->GetArray()) {
    RETURN_IF_ERROR(Flatten(stage, what, key, stages));
  }
  return absl::OkStatus();
}

}  // namespace

Status CheckObject(const JsonValue& value, absl::string_view what,
                   std::initializer_list<absl::string_view> keys) {
  if (!value.IsObject())
    return absl::InvalidArgumentError(absl::StrCat(what, " must be an object"));
  for (const auto& member : value.GetObject()) {
    if (std::find(keys.begin(), keys.end(), View(member.name)) != keys.end()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has ", JsonQuote(View(member.name)), ", which is not supported"));
  }
  return absl::OkStatus();
}

StatusOr<const JsonValue*> RequireArray(const JsonValue& object, absl::string_view what,
                                        absl::string_view key) {
  const JsonValue* value = FindMember(object, key);
  if (value == nullptr || !value->IsArray()) return Missing(what, key, "an array");
  return value;
}

StatusOr<std::string> RequireString(const JsonValue& object, absl::string_view what,
                                    absl::string_view key) {
  const JsonValue* value = FindMember(object, key);
  if (value == nullptr || !value->IsString()) return Missing(what, key, "a string");
  return std::string(View(*value));
}

StatusOr<std::vector<const JsonValue*>> FlattenSequence(const JsonValue& value,
                                                        absl::string_view what,
                                                        absl::string_view key) {
  std::vector<const JsonValue*> stages;
  if (!value.IsNull()) RETURN_IF_ERROR(Flatten(value, what, key, stages));
  return stages;
}

Status Unsupported(absl::string_view what, absl::string_view type) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, " type ", JsonQuote(type), " is not supported"));
}

}  // namespace reprise
