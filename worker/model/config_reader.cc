#include "worker/model/config_reader.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace reprise::worker {

Status ReadInt(const JsonValue& object, absl::string_view key, IntRange range, int64_t* value) {
  ASSIGN_OR_RETURN(*value, GetInt(object, key, *value));
  if (*value >= range.min && *value <= range.max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(JsonQuote(key), " is ", *value, ", the range is ",
                                                 range.min, " to ", range.max));
}

Status ReadNumber(const JsonValue& object, absl::string_view key, NumberRange range,
                  double* value) {
  ASSIGN_OR_RETURN(*value, GetNumber(object, key, *value));
  if (*value >= range.min && *value <= range.max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(JsonQuote(key), " is ", *value, ", the range is ",
                                                 range.min, " to ", range.max));
}

Status Unsupported(absl::string_view key, absl::string_view found, absl::string_view supported) {
  return absl::UnimplementedError(
      absl::StrCat(JsonQuote(key), " is ", found, ", supported: ", supported));
}

std::string Exact(double value) { return absl::StrFormat("%016x", std::bit_cast<uint64_t>(value)); }

}  // namespace reprise::worker
