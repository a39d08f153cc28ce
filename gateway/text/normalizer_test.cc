#include "gateway/text/normalizer.h"

#include "common/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace reprise {
namespace {

using testing::HasSubstr;

StatusOr<Normalizer> Parse(absl::string_view json) { return Normalizer::Parse(*ParseJson(json)); }

std::string Apply(absl::string_view json, std::string text) {
  const auto normalizer = Parse(json);
  EXPECT_TRUE(normalizer.ok()) << normalizer.status();
  if (!normalizer.ok()) return "";
  const Status status = normalizer->Apply(text);
  EXPECT_TRUE(status.ok()) << status;
  return text;
}

TEST(Normalizer, UnicodeForms) {
  EXPECT_EQ(Apply("null", "e\u0301"), "e\u0301");
  EXPECT_EQ(Apply(R"({"type":"NFC"})", "e\u0301 \u212B"), "\u00e9 \u00c5");
  EXPECT_EQ(Apply(R"({"type":"NFD"})", "\u00e9"), "e\u0301");
  EXPECT_EQ(Apply(R"({"type":"NFKC"})", "\uFB01\u00B2\u3000"), "fi2 ");
  EXPECT_EQ(Apply(R"({"type":"NFKD"})", "\u1E9B\u0323"), "s\u0323\u0307");
}

TEST(Normalizer, LowercaseStripPrependReplace) {
  EXPECT_EQ(Apply(R"({"type":"Lowercase"})", "\u00c4BC \u0130 \u03a3"), "\u00e4bc i\u0307 \u03c3");
  EXPECT_EQ(Apply(R"({"type":"Strip"})", " \u3000a b\t "), "a b");
  EXPECT_EQ(Apply(R"({"type":"Strip","strip_left":false})", " a "), " a");
  EXPECT_EQ(Apply(R"({"type":"Strip","strip_right":false})", " a "), "a ");
  EXPECT_EQ(Apply(R"({"type":"Strip"})", " \n "), "");
  EXPECT_EQ(Apply(R"({"type":"Prepend","prepend":"_"})", "a"), "_a");
  EXPECT_EQ(Apply(R"({"type":"Prepend","prepend":"_"})", ""), "");
  EXPECT_EQ(Apply(R"({"type":"Replace","pattern":{"String":"aa"},"content":"b"})", "aaaca"),
            "baca");
  EXPECT_EQ(Apply(R"({"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "})", "a   b c"),
            "a b c");
}

TEST(Normalizer, SequencesRunInOrder) {
  EXPECT_EQ(Apply(R"({"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\u2581"},
                      {"type":"Replace","pattern":{"String":" "},"content":"\u2581"}]})",
                  "a b"),
            "\u2581a\u2581b");
}

TEST(Normalizer, RefusesWhatItDoesNotKnow) {
  const struct {
    const char* json;
    const char* message;
  } cases[] = {
      {R"({"type":"Precompiled"})", R"(normalizer type "Precompiled" is not supported)"},
      {R"({"type":"NFC","lang":"tr"})", R"("lang", which is not supported)"},
      {R"({"type":"Replace","pattern":{"String":"a","Regex":"a"},"content":""})", "one of String"},
      {R"({"type":"Replace","pattern":{"Regex":"("},"content":""})", "does not compile"},
      {R"({"type":"Prepend"})", R"(must have a string under "prepend")"},
      {R"({"type":"Sequence"})", R"(must have an array under "normalizers")"},
      {R"("NFC")", R"(must have a string under "type")"},
  };
  for (const auto& [json, message] : cases) {
    const auto normalizer = Parse(json);
    EXPECT_EQ(normalizer.status().code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(normalizer.status().message()), HasSubstr(message));
  }
}

TEST(Normalizer, BoundsWhatARuleMayMakeOfAText) {
  const auto normalizer =
      Parse(absl::StrCat(R"({"type":"Replace","pattern":{"String":"a"},"content":")",
                         std::string(1 << 16, 'x'), "\"}"));
  ASSERT_TRUE(normalizer.ok());
  std::string text(limits::kNormalizedTextBytesMax >> 16, 'a');
  EXPECT_TRUE(normalizer->Apply(text).ok());
  text.assign((limits::kNormalizedTextBytesMax >> 16) + 1, 'a');
  EXPECT_EQ(normalizer->Apply(text).code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace reprise
