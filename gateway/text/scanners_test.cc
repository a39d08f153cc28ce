#include "gateway/text/scanners.h"

#include <chrono>
#include <random>

#include "gateway/text/matcher.h"
#include "gateway/text/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace reprise {
namespace {

using testing::HasSubstr;

std::vector<std::string> Words(const Matcher& matcher, absl::string_view text) {
  std::vector<std::string> out;
  const Span whole = {0, static_cast<uint32_t>(text.size())};
  const Status status = matcher.Find(text, {&whole, 1}, [&](size_t, Span match) {
    out.emplace_back(text.substr(match.begin, match.end - match.begin));
  });
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

// Text that mixes every kind of character the patterns tell apart.
std::string RandomText(std::mt19937& random) {
  const absl::string_view parts[] = {
      "a",      "B",      "s",          "S",      "t",      "re",     "VE",     "ll",
      "d",      "m",      "'",          "'",      "0",      "7",      " ",      " ",
      " ",      "\n",     "\r",         "\t",     "\v",     "!",      "-",      "\u00e9",
      "\u017f", "\u0301", "\u00a0",     "\u2028", "\u3000", "\u0085", "\u4e2d", "\u0663",
      "\u00bd", "\u2167", "\U0001F600", "\u200d", "\u0e01", "\u0e31", "\u180e", "\U00010400"};
  std::string text;
  const size_t count = random() % 24;
  for (size_t i = 0; i < count; ++i) {
    const auto part = parts[random() % std::size(parts)];
    text.append(part.data(), part.size());
  }
  return text;
}

TEST(Scanners, AgreeWithTheirPatterns) {
  for (const auto pattern : {kGpt2Pattern, kLlama3Pattern, kQwen2Pattern, kTrailingSpacePattern}) {
    const auto scanner = NewRegexMatcher(pattern);
    const auto icu = NewIcuMatcher(pattern);
    ASSERT_TRUE(scanner.ok() && icu.ok());
    std::mt19937 random(7);
    for (int round = 0; round < 20'000; ++round) {
      const std::string text = RandomText(random);
      ASSERT_EQ(Words(**scanner, text), Words(**icu, text)) << pattern << "\n" << text;
    }
  }
}

TEST(Scanners, PiecesDoNotSeeEachOther) {
  const std::string text = "a  b  c";
  const std::vector<Span> pieces = {{0, 3}, {3, 5}, {5, 7}};
  for (const auto pattern : {kGpt2Pattern, absl::string_view(R"(\s+(?!\S)|\s+|\S)")}) {
    const auto matcher = NewRegexMatcher(pattern);
    ASSERT_TRUE(matcher.ok());
    std::vector<std::pair<size_t, Span>> found;
    ASSERT_TRUE((*matcher)
                    ->Find(text, pieces,
                           [&](size_t piece, Span match) { found.emplace_back(piece, match); })
                    .ok());
    // "a" and both spaces at the end of the first piece: nothing follows them there.
    EXPECT_EQ(found[0], (std::pair<size_t, Span>{0, {0, 1}}));
    EXPECT_EQ(found[1], (std::pair<size_t, Span>{0, {1, 3}}));
    EXPECT_EQ(found[2], (std::pair<size_t, Span>{1, {3, 4}}));
  }
}

TEST(Regex, DollarMatchesBeforeLineFeeds) {
  const auto matcher = NewIcuMatcher("a$");
  ASSERT_TRUE(matcher.ok());
  EXPECT_EQ(Words(**matcher, "a\nab a\u2028 a").size(), 2u);
}

TEST(Regex, HostilePatternsAndTextsAreStopped) {
  const struct {
    const char* pattern;
    std::string text;
  } cases[] = {{"(a+)+b", std::string(64, 'a')},
               {"(a|a)*c", std::string(100, 'a')},
               {"(x+x+)+y", std::string(200'000, 'x')},
               {"(a|b)*c", std::string(4'000'000, 'a')}};
  for (const auto& [pattern, text] : cases) {
    const auto matcher = NewRegexMatcher(pattern);
    ASSERT_TRUE(matcher.ok());
    const Span whole = {0, static_cast<uint32_t>(text.size())};
    const auto status = (*matcher)->Find(text, {&whole, 1}, [](size_t, Span) {});
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << pattern;
    EXPECT_THAT(std::string(status.message()), HasSubstr(pattern));
  }
}

TEST(Regex, PatternsThatMeanSomethingElseAreRefused) {
  EXPECT_THAT(std::string(NewRegexMatcher("(unclosed").status().message()),
              HasSubstr("does not compile"));
  EXPECT_THAT(std::string(NewRegexMatcher(R"(\p{N}{1,3}+)").status().message()),
              HasSubstr("which is not supported"));
  EXPECT_FALSE(NewRegexMatcher(R"(\h+)").ok());
}

TEST(Matchers, LiteralsAndCharacters) {
  EXPECT_EQ(Words(*NewLiteralMatcher("aa"), "aaaab").size(), 2u);
  EXPECT_TRUE(Words(*NewLiteralMatcher(""), "aaaab").empty());
  const auto digits = NewCharacterMatcher([](char32_t c) { return c >= '0' && c <= '9'; });
  EXPECT_THAT(Words(*digits, "a12\u00e93"), testing::ElementsAre("1", "2", "3"));
}

}  // namespace
}  // namespace reprise
