// The one JSON parser for untrusted text: strict RFC 8259, UTF-8 checked, no recursion, limits on
// bytes, depth and values, and, for files of our own formats, unique keys. Built on RapidJSON. Any
// thread; a document belongs to its holder.
#ifndef REPRISE_COMMON_JSON_H_
#define REPRISE_COMMON_JSON_H_

#include <rapidjson/document.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise {

using JsonValue = rapidjson::Value;
using JsonDocument = rapidjson::Document;

struct JsonLimits {
  size_t bytes_max = size_t{64} << 20;
  int depth_max = 64;
  size_t values_max = 20'000'000;
  bool unique_keys = false;  // RFC 8259 allows duplicates; the first one is found
};

// INVALID_ARGUMENT names the byte offset and the reason; RESOURCE_EXHAUSTED a limit and its value.
StatusOr<JsonDocument> ParseJson(absl::string_view text, const JsonLimits& limits = {});

// Typed access; errors name the key and the type found. `where` prefixes the message.
const JsonValue* FindMember(const JsonValue& object, absl::string_view key);  // null: absent
StatusOr<int64_t> GetInt(const JsonValue& object, absl::string_view key, int64_t fallback);
StatusOr<double> GetNumber(const JsonValue& object, absl::string_view key, double fallback);
StatusOr<bool> GetBool(const JsonValue& object, absl::string_view key, bool fallback);
StatusOr<std::string> GetString(const JsonValue& object, absl::string_view key,
                                absl::string_view fallback);

// Quotes and escapes `text` as a JSON string; invalid UTF-8 becomes U+FFFD.
std::string JsonQuote(absl::string_view text);

// Appends "key":value pairs to one JSON object, in call order.
class JsonWriter {
 public:
  JsonWriter& Field(absl::string_view key, absl::string_view value);
  JsonWriter& Field(absl::string_view key, const char* value) {
    return Field(key, absl::string_view(value));
  }
  JsonWriter& Field(absl::string_view key, const std::string& value) {
    return Field(key, absl::string_view(value));
  }
  JsonWriter& Field(absl::string_view key, double value);  // non-finite becomes null
  JsonWriter& Field(absl::string_view key, int64_t value);
  JsonWriter& Field(absl::string_view key, uint64_t value);
  JsonWriter& Field(absl::string_view key, int value) { return Field(key, int64_t{value}); }
  JsonWriter& Field(absl::string_view key, bool value);
  JsonWriter& Raw(absl::string_view key, absl::string_view json);
  std::string Take();  // closes the object

 private:
  void Key(absl::string_view key);
  std::string text_ = "{";
};

}  // namespace reprise

#endif  // REPRISE_COMMON_JSON_H_
