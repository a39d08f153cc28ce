#include "gateway/text/added_tokens.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace reprise {
namespace {

// Sections as "id:text", -1 for text between tokens.
std::vector<std::string> Show(const std::vector<Section>& sections, absl::string_view text) {
  std::vector<std::string> out;
  for (const auto& [span, id] : sections) {
    out.push_back(absl::StrCat(id, ":", text.substr(span.begin, span.end - span.begin)));
  }
  return out;
}

std::vector<std::string> Cut(std::vector<AddedToken> tokens, absl::string_view text,
                             bool parse_special = true) {
  const auto added = AddedTokens::Create(std::move(tokens), Normalizer());
  EXPECT_TRUE(added.ok()) << added.status();
  return Show(added->CutRaw(text, parse_special), text);
}

using testing::ElementsAre;

TEST(AddedTokens, LeftmostThenLongest) {
  const std::vector<AddedToken> tokens = {
      {.id = 1, .content = "<a>"}, {.id = 2, .content = "<a><b>"}, {.id = 3, .content = "a><b"}};
  EXPECT_THAT(Cut(tokens, "x<a><b>y<a><c>"),
              ElementsAre("-1:x", "2:<a><b>", "-1:y", "1:<a>", "-1:<c>"));
  EXPECT_THAT(Cut(tokens, "a><b>"), ElementsAre("3:a><b", "-1:>"));
  EXPECT_THAT(Cut(tokens, ""), ElementsAre());
  EXPECT_THAT(Cut(tokens, "<a"), ElementsAre("-1:<a"));
}

TEST(AddedTokens, StripTakesWhiteSpaceAlong) {
  const std::vector<AddedToken> tokens = {
      {.id = 1, .content = "<l>", .lstrip = true},
      {.id = 2, .content = "<r>", .rstrip = true},
      {.id = 3, .content = "<lr>", .lstrip = true, .rstrip = true}};
  EXPECT_THAT(Cut(tokens, "a \u3000<l> b"), ElementsAre("-1:a", "1: \u3000<l>", "-1: b"));
  EXPECT_THAT(Cut(tokens, "a <r>\n b"), ElementsAre("-1:a ", "2:<r>\n ", "-1:b"));
  EXPECT_THAT(Cut(tokens, "<r>  <l>"), ElementsAre("2:<r>  ", "1:<l>"));
  EXPECT_THAT(Cut(tokens, " <lr> "), ElementsAre("3: <lr> "));
}

TEST(AddedTokens, SingleWordsStandAlone) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "the", .single_word = true}};
  EXPECT_THAT(Cut(tokens, "the other, the!"), ElementsAre("1:the", "-1: other, ", "1:the", "-1:!"));
  EXPECT_THAT(Cut(tokens, "\u00e9the the\u0301"), ElementsAre("-1:\u00e9the the\u0301"));
}

TEST(AddedTokens, SpecialTokensStayTextOnRequest) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "<s>", .special = true},
                                          {.id = 2, .content = "<t>"}};
  EXPECT_THAT(Cut(tokens, "<s><t>"), ElementsAre("1:<s>", "2:<t>"));
  EXPECT_THAT(Cut(tokens, "<s><t>", /*parse_special=*/false), ElementsAre("-1:<s>", "2:<t>"));
}

TEST(AddedTokens, NormalizedOnesAreSoughtInNormalizedText) {
  auto normalizer = Normalizer::Parse(*ParseJson(R"({"type":"Lowercase"})"));
  const auto added = AddedTokens::Create(
      {{.id = 1, .content = "YES", .normalized = true}, {.id = 2, .content = "NO"}}, *normalizer);
  ASSERT_TRUE(added.ok());
  EXPECT_THAT(Show(added->CutRaw("YES NO", true), "YES NO"), ElementsAre("-1:YES ", "2:NO"));
  EXPECT_THAT(Show(added->CutNormalized("yes no", true), "yes no"), ElementsAre("1:yes", "-1: no"));
  EXPECT_FALSE(added->IsSpecial(1));
}

TEST(AddedTokens, LimitsAreNamed) {
  const auto empty = AddedTokens::Create({{.id = 7, .content = ""}}, Normalizer());
  EXPECT_EQ(empty.status().message(), "added token with id 7 has 0 bytes, outside of 1..4096");
  const auto big =
      AddedTokens::Create({{.id = 7, .content = std::string(4097, 'a')}}, Normalizer());
  EXPECT_EQ(big.status().message(), "added token with id 7 has 4097 bytes, outside of 1..4096");
}

}  // namespace
}  // namespace reprise
