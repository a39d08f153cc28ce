#include "gateway/text/pre_tokenizer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace reprise {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Words = std::vector<std::string>;

StatusOr<PreTokenizer> Parse(absl::string_view json) {
  return PreTokenizer::Parse(*ParseJson(json));
}

Words Split(absl::string_view json, absl::string_view text, bool at_start = true) {
  const auto pre = Parse(json);
  EXPECT_TRUE(pre.ok()) << pre.status();
  if (!pre.ok()) return {};
  Pieces pieces = {std::string(text), {{0, static_cast<uint32_t>(text.size())}}, at_start};
  const Status status = pre->Apply(pieces);
  EXPECT_TRUE(status.ok()) << status;
  Words out;
  for (const auto& [begin, end] : pieces.spans) {
    out.push_back(pieces.text.substr(begin, end - begin));
  }
  return out;
}

std::string SplitOn(absl::string_view behavior, bool invert = false) {
  return absl::StrCat(R"({"type":"Split","pattern":{"String":"-"},"behavior":")", behavior,
                      R"(","invert":)", invert ? "true}" : "false}");
}

// The reference's own examples, in its documentation of SplitDelimiterBehavior.
TEST(PreTokenizer, SplitBehaviors) {
  const absl::string_view text = "the-final--countdown";
  EXPECT_THAT(Split(SplitOn("Removed"), text), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(Split(SplitOn("Isolated"), text),
              ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(Split(SplitOn("MergedWithPrevious"), text),
              ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(Split(SplitOn("MergedWithNext"), text),
              ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(Split(SplitOn("Contiguous"), text),
              ElementsAre("the", "-", "final", "--", "countdown"));
  EXPECT_THAT(Split(SplitOn("Removed", true), text), ElementsAre("-", "-", "-"));
  EXPECT_THAT(Split(SplitOn("MergedWithPrevious"), "-a-"), ElementsAre("-", "a-"));
  EXPECT_THAT(Split(SplitOn("MergedWithNext"), "-a-"), ElementsAre("-a", "-"));
  EXPECT_THAT(Split(SplitOn("Removed"), "--"), ElementsAre());
}

TEST(PreTokenizer, ByteLevel) {
  const char* plain = R"({"type":"ByteLevel","add_prefix_space":false})";
  EXPECT_TRUE(Parse(plain)->yields_bytes());
  EXPECT_THAT(Split(plain, "I'm  \u00e9t\u00e9 12!"),
              ElementsAre("I", "'m", " ", " \u00e9t\u00e9", " 12", "!"));
  EXPECT_THAT(Split(R"({"type":"ByteLevel"})", "a b"), ElementsAre(" a", " b"));
  EXPECT_THAT(Split(R"({"type":"ByteLevel"})", " a"), ElementsAre(" a"));
  EXPECT_THAT(Split(R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})", "a b"),
              ElementsAre("a b"));
}

// As in Falcon's file, where rules after ByteLevel see letters instead of bytes.
TEST(PreTokenizer, RulesAfterByteLevelSeeLetters) {
  const char* falcon = R"({"type":"Sequence","pretokenizers":[
      {"type":"Punctuation","behavior":"Contiguous"},
      {"type":"ByteLevel","add_prefix_space":false},
      {"type":"Digits","individual_digits":false},
      {"type":"Split","pattern":{"Regex":"[0-9][0-9][0-9]"},"behavior":"Isolated","invert":false}]})";
  EXPECT_FALSE(Parse(falcon)->yields_bytes());
  EXPECT_THAT(Split(falcon, "a 12345!?"), ElementsAre("a", "\u0120", "123", "45", "!?"));
}

TEST(PreTokenizer, Metaspace) {
  const auto metaspace = [](absl::string_view members) {
    return absl::StrCat(R"({"type":"Metaspace","replacement":"\u2581")", members, "}");
  };
  EXPECT_THAT(Split(metaspace(""), "a  b"), ElementsAre("\u2581a", "\u2581", "\u2581b"));
  EXPECT_THAT(Split(metaspace(""), " a"), ElementsAre("\u2581a"));
  EXPECT_THAT(Split(metaspace(R"(,"prepend_scheme":"never")"), "a b"), ElementsAre("a", "\u2581b"));
  EXPECT_THAT(Split(metaspace(R"(,"add_prefix_space":false)"), "a b"), ElementsAre("a", "\u2581b"));
  const std::string first = metaspace(R"(,"prepend_scheme":"first","add_prefix_space":true)");
  EXPECT_THAT(Split(first, "a b"), ElementsAre("\u2581a", "\u2581b"));
  EXPECT_THAT(Split(first, "a b", /*at_start=*/false), ElementsAre("a", "\u2581b"));
  EXPECT_THAT(Split(metaspace(R"(,"split":false)"), "a b"), ElementsAre("\u2581a\u2581b"));
}

TEST(PreTokenizer, CharacterRules) {
  EXPECT_THAT(Split(R"({"type":"Digits","individual_digits":true})", "a12"),
              ElementsAre("a", "1", "2"));
  EXPECT_THAT(Split(R"({"type":"Digits"})", "a12\u00bd"), ElementsAre("a", "12\u00bd"));
  EXPECT_THAT(Split(R"({"type":"Punctuation"})", "a,$\u300cb"),
              ElementsAre("a", ",", "$", "\u300c", "b"));
  EXPECT_THAT(Split(R"({"type":"Whitespace"})", " a_1, b\u00e9 !!"),
              ElementsAre("a_1", ",", "b\u00e9", "!!"));
  EXPECT_THAT(Split(R"({"type":"WhitespaceSplit"})", " a,\u3000b "), ElementsAre("a,", "b"));
  EXPECT_THAT(Split(R"({"type":"CharDelimiterSplit","delimiter":"|"})", "a||b"),
              ElementsAre("a", "b"));
  EXPECT_THAT(Split("null", "a b"), ElementsAre("a b"));
}

TEST(PreTokenizer, RefusesWhatItDoesNotKnow) {
  const struct {
    std::string json;
    const char* message;
  } cases[] = {
      {R"({"type":"BertPreTokenizer"})", R"(type "BertPreTokenizer" is not supported)"},
      {SplitOn("Scattered"), R"(behavior "Scattered" is not supported)"},
      {R"({"type":"ByteLevel","spell":1})", R"("spell", which is not supported)"},
      {R"({"type":"Metaspace","replacement":"ab"})", "must be one character"},
      {R"({"type":"Metaspace","prepend_scheme":"last"})", R"(prepend_scheme "last")"},
      {R"({"type":"Split","behavior":"Isolated"})", R"("pattern" is missing)"},
  };
  for (const auto& [json, message] : cases) {
    const auto pre = Parse(json);
    EXPECT_EQ(pre.status().code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(pre.status().message()), HasSubstr(message));
  }
  std::string many = R"({"type":"Sequence","pretokenizers":[{"type":"Digits"})";
  for (int i = 0; i < 64; ++i) many += R"(,{"type":"Digits"})";
  EXPECT_EQ(Parse(many + "]}").status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace reprise
