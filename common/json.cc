#include "common/json.h"

#include <rapidjson/error/en.h>
#include <rapidjson/reader.h>

#include <cmath>
#include <unordered_set>

#include "absl/strings/charconv.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace reprise {
namespace {

constexpr unsigned kFlags = rapidjson::kParseIterativeFlag | rapidjson::kParseValidateEncodingFlag |
                            rapidjson::kParseNumbersAsStringsFlag;

// Forwards events to the document while counting depth, values and keys; refuses past the limits.
class LimitingHandler : public rapidjson::BaseReaderHandler<rapidjson::UTF8<>, LimitingHandler> {
 public:
  LimitingHandler(JsonDocument& doc, const JsonLimits& limits) : doc_(doc), limits_(limits) {}

  bool Default() { return false; }  // no other event comes with kFlags

  bool Null() { return Count() && doc_.Null(); }
  bool Bool(bool b) { return Count() && doc_.Bool(b); }
  // Numbers come as text: the reader's own conversion to double has undefined behaviour on "0E80".
  bool RawNumber(const char* s, rapidjson::SizeType n, bool) {
    return Count() && Number(absl::string_view(s, n));
  }
  bool String(const char* s, rapidjson::SizeType n, bool copy) {
    return Count() && doc_.String(s, n, copy);
  }
  bool StartObject() {
    if (!Open()) return false;
    keys_.emplace_back();
    return doc_.StartObject();
  }
  bool Key(const char* s, rapidjson::SizeType n, bool copy) {
    if (limits_.unique_keys && !keys_.back().emplace(s, n).second) {
      error = absl::InvalidArgumentError(
          absl::StrCat("JSON object holds the key ", JsonQuote(absl::string_view(s, n)), " twice"));
      return false;
    }
    return doc_.Key(s, n, copy);
  }
  bool EndObject(rapidjson::SizeType n) {
    --depth_;
    keys_.pop_back();
    return doc_.EndObject(n);
  }
  bool StartArray() { return Open() && doc_.StartArray(); }
  bool EndArray(rapidjson::SizeType n) {
    --depth_;
    return doc_.EndArray(n);
  }

  Status error;

 private:
  bool Open() {
    if (++depth_ > limits_.depth_max) {
      error = absl::ResourceExhaustedError(
          absl::StrCat("JSON nesting is deeper than the limit of ", limits_.depth_max));
      return false;
    }
    return Count();
  }
  bool Number(absl::string_view digits) {
    int64_t i = 0;
    if (absl::SimpleAtoi(digits, &i)) return doc_.Int64(i);
    uint64_t u = 0;
    if (absl::SimpleAtoi(digits, &u)) return doc_.Uint64(u);
    double d = 0;
    const auto end = digits.data() + digits.size();
    const absl::from_chars_result result = absl::from_chars(digits.data(), end, d);
    if (result.ec == std::errc::result_out_of_range && std::abs(d) >= 1) {
      error = absl::InvalidArgumentError(
          absl::StrCat("JSON number ", digits.substr(0, 40), " is too big for a double"));
      return false;
    }
    return doc_.Double(d);
  }
  bool Count() {
    if (++values_ > limits_.values_max) {
      error = absl::ResourceExhaustedError(
          absl::StrCat("JSON holds more values than the limit of ", limits_.values_max));
      return false;
    }
    return true;
  }

  JsonDocument& doc_;
  const JsonLimits& limits_;
  int depth_ = 0;
  size_t values_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;
};

const char* TypeName(const JsonValue& v) {
  static constexpr const char* kNames[] = {"null",     "false",    "true",    "an object",
                                           "an array", "a string", "a number"};
  return kNames[v.GetType()];
}

Status WrongType(absl::string_view key, const char* wanted, const JsonValue& found) {
  return absl::InvalidArgumentError(
      absl::StrCat(JsonQuote(key), " must be ", wanted, ", found ", TypeName(found)));
}

}  // namespace

StatusOr<JsonDocument> ParseJson(absl::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.bytes_max) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "JSON text of ", text.size(), " bytes is over the limit of ", limits.bytes_max));
  }
  JsonDocument doc;
  LimitingHandler handler(doc, limits);
  rapidjson::Reader reader;
  rapidjson::MemoryStream bytes(text.data(), text.size());
  rapidjson::ParseResult result;
  size_t consumed = 0;
  auto generate = [&](JsonDocument&) {
    result = reader.Parse<kFlags>(bytes, handler);
    consumed = bytes.Tell();
    return !result.IsError();
  };
  doc.Populate(generate);
  if (!handler.error.ok()) return handler.error;
  if (result.IsError()) {
    return absl::InvalidArgumentError(absl::StrCat("JSON is malformed at byte ", result.Offset(),
                                                   ": ",
                                                   rapidjson::GetParseError_En(result.Code())));
  }
  if (consumed != text.size()) {  // a NUL byte looks like the end of the text to the reader
    return absl::InvalidArgumentError(
        absl::StrCat("JSON is malformed at byte ", consumed, ": a NUL byte after the document"));
  }
  return doc;
}

const JsonValue* FindMember(const JsonValue& object, absl::string_view key) {
  if (!object.IsObject()) return nullptr;
  const auto it = object.FindMember(
      JsonValue(rapidjson::StringRef(key.data(), static_cast<rapidjson::SizeType>(key.size()))));
  return it == object.MemberEnd() ? nullptr : &it->value;
}

StatusOr<int64_t> GetInt(const JsonValue& object, absl::string_view key, int64_t fallback) {
  const JsonValue* v = FindMember(object, key);
  if (v == nullptr || v->IsNull()) return fallback;
  if (!v->IsInt64()) return WrongType(key, "an integer", *v);
  return v->GetInt64();
}

StatusOr<double> GetNumber(const JsonValue& object, absl::string_view key, double fallback) {
  const JsonValue* v = FindMember(object, key);
  if (v == nullptr || v->IsNull()) return fallback;
  if (!v->IsNumber()) return WrongType(key, "a number", *v);
  return v->GetDouble();
}

StatusOr<bool> GetBool(const JsonValue& object, absl::string_view key, bool fallback) {
  const JsonValue* v = FindMember(object, key);
  if (v == nullptr || v->IsNull()) return fallback;
  if (!v->IsBool()) return WrongType(key, "true or false", *v);
  return v->GetBool();
}

StatusOr<std::string> GetString(const JsonValue& object, absl::string_view key,
                                absl::string_view fallback) {
  const JsonValue* v = FindMember(object, key);
  if (v == nullptr || v->IsNull()) return std::string(fallback);
  if (!v->IsString()) return WrongType(key, "a string", *v);
  return std::string(v->GetString(), v->GetStringLength());
}

namespace {

// Length of the well-formed UTF-8 sequence at s, 0 when it is malformed.
size_t Utf8Length(const unsigned char* s, size_t n) {
  if (s[0] < 0x80) return 1;
  const size_t len = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
  if (s[0] < 0xC2 || s[0] > 0xF4 || n < len) return 0;
  for (size_t i = 1; i < len; ++i) {
    if ((s[i] & 0xC0) != 0x80) return 0;
  }
  if (s[0] == 0xE0 && s[1] < 0xA0) return 0;
  if (s[0] == 0xED && s[1] > 0x9F) return 0;
  if (s[0] == 0xF0 && s[1] < 0x90) return 0;
  if (s[0] == 0xF4 && s[1] > 0x8F) return 0;
  return len;
}

}  // namespace

std::string JsonQuote(absl::string_view text) {
  std::string out = "\"";
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  for (size_t i = 0; i < text.size();) {
    const size_t len = Utf8Length(p + i, text.size() - i);
    if (len == 0) {
      out += "\xEF\xBF\xBD";
      ++i;
      continue;
    }
    if (p[i] == '"' || p[i] == '\\') {
      out += '\\';
      out += static_cast<char>(p[i]);
    } else if (p[i] < 0x20 || p[i] == 0x7F) {
      absl::StrAppendFormat(&out, "\\u%04x", p[i]);
    } else {
      out.append(text.data() + i, len);
    }
    i += len;
  }
  return out + "\"";
}

void JsonWriter::Key(absl::string_view key) {
  if (text_.size() > 1) text_ += ", ";
  text_ += JsonQuote(key);
  text_ += ": ";
}

JsonWriter& JsonWriter::Field(absl::string_view key, absl::string_view value) {
  return Raw(key, JsonQuote(value));
}

JsonWriter& JsonWriter::Field(absl::string_view key, double value) {
  return Raw(key, std::isfinite(value) ? absl::StrFormat("%.9g", value) : "null");
}

JsonWriter& JsonWriter::Field(absl::string_view key, int64_t value) {
  return Raw(key, absl::StrCat(value));
}

JsonWriter& JsonWriter::Field(absl::string_view key, uint64_t value) {
  return Raw(key, absl::StrCat(value));
}

JsonWriter& JsonWriter::Field(absl::string_view key, bool value) {
  return Raw(key, value ? "true" : "false");
}

JsonWriter& JsonWriter::Raw(absl::string_view key, absl::string_view json) {
  Key(key);
  text_.append(json.data(), json.size());
  return *this;
}

std::string JsonWriter::Take() { return std::move(text_) + "}"; }

}  // namespace reprise
