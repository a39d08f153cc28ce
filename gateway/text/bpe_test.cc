#include "gateway/text/bpe.h"

#include <chrono>
#include <map>
#include <random>

#include "gateway/text/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace reprise {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Ids = std::vector<int32_t>;

StatusOr<Bpe> Make(const std::vector<std::string>& tokens, const std::vector<Bpe::Merge>& merges,
                   const BpeOptions& options = {}) {
  std::vector<Vocabulary::Entry> entries;
  for (const std::string& token : tokens) {
    entries.emplace_back(token, static_cast<int64_t>(entries.size()));
  }
  ASSIGN_OR_RETURN(Vocabulary vocab, Vocabulary::Create(std::move(entries)));
  return Bpe::Create(std::move(vocab), merges, options);
}

Ids Encode(const Bpe& bpe, absl::string_view word, bool bytes = false) {
  Bpe::Session session(bpe, bytes);
  Ids out;
  session.Encode(word, out);
  return out;
}

// The definition: merge the leftmost of the pairs of least rank until there is none.
std::vector<std::string> Naive(const std::vector<Bpe::Merge>& merges, absl::string_view word) {
  std::map<Bpe::Merge, size_t> ranks;
  for (size_t i = 0; i < merges.size(); ++i) ranks[merges[i]] = i;
  std::vector<std::string> symbols;
  for (size_t i = 0; i < word.size();) {
    const size_t start = i;
    NextCodePoint(word, i);
    symbols.emplace_back(word.substr(start, i - start));
  }
  while (true) {
    size_t best = SIZE_MAX;
    size_t at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = ranks.find({symbols[i], symbols[i + 1]});
      if (it != ranks.end() && it->second < best) best = it->second, at = i;
    }
    if (best == SIZE_MAX) return symbols;
    symbols[at] += symbols[at + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

// Random vocabularies over few letters, U+2581 among them, so that every tie and cut comes up.
TEST(Bpe, EqualsItsDefinition) {
  std::mt19937 random(11);
  const std::vector<std::string> letters = {"a", "b", "c", "\u2581"};
  for (int round = 0; round < 400; ++round) {
    std::vector<std::string> tokens = letters;
    std::vector<Bpe::Merge> merges;
    for (int i = 0; i < 12; ++i) {
      const std::string left = tokens[random() % tokens.size()];
      const std::string right = tokens[random() % tokens.size()];
      const std::string joined = left + right;
      if (std::find(tokens.begin(), tokens.end(), joined) == tokens.end()) tokens.push_back(joined);
      merges.emplace_back(left, right);
    }
    std::shuffle(merges.begin(), merges.end(), random);
    const auto bpe = Make(tokens, merges);
    ASSERT_TRUE(bpe.ok()) << bpe.status();
    Bpe::Session session(*bpe, /*bytes=*/false);  // with its cache
    Ids ids;
    std::vector<std::string> words(30);  // live as long as the session
    for (std::string& word : words) {
      const size_t length = random() % 20;
      for (size_t i = 0; i < length; ++i) word += letters[random() % letters.size()];
      const size_t before = ids.size();
      session.Encode(word, ids);
      std::vector<std::string> found;
      for (size_t i = before; i < ids.size(); ++i) found.push_back(tokens[ids[i]]);
      ASSERT_EQ(found, Naive(merges, word)) << word;
    }
  }
}

TEST(Bpe, UnknownSymbols) {
  const std::vector<std::string> tokens = {"<unk>", "a", "<0xC3>", "<0xA9>"};
  EXPECT_THAT(Encode(*Make(tokens, {}), "xay"), ElementsAre(1));
  EXPECT_THAT(Encode(*Make(tokens, {}, {.unk_token = "<unk>"}), "xxay"), ElementsAre(0, 0, 1, 0));
  EXPECT_THAT(Encode(*Make(tokens, {}, {.unk_token = "<unk>", .fuse_unk = true}), "xxay"),
              ElementsAre(0, 1, 0));
  const BpeOptions fallback = {.unk_token = "<unk>", .fuse_unk = true, .byte_fallback = true};
  EXPECT_THAT(Encode(*Make(tokens, {}, fallback), "a\u00e9\u4e2d"), ElementsAre(1, 2, 3, 0));
}

TEST(Bpe, IgnoreMergesTakesWholeWords) {
  const std::vector<std::string> tokens = {"a", "b", "c", "ab", "abc"};
  const std::vector<Bpe::Merge> merges = {{"a", "b"}};
  EXPECT_THAT(Encode(*Make(tokens, merges), "abc"), ElementsAre(3, 2));
  const auto bpe = Make(tokens, merges, {.ignore_merges = true});
  EXPECT_THAT(Encode(*bpe, "abc"), ElementsAre(4));
  EXPECT_THAT(Encode(*bpe, "abca"), ElementsAre(3, 2, 0));
  EXPECT_THAT(Encode(*bpe, "abc", /*bytes=*/true), ElementsAre(4));
}

// A byte fallback token ends in '>', but the text before the mark is a byte.
TEST(Bpe, TokensThatStandForOtherTextMayMergeWithSpace) {
  const std::vector<std::string> tokens = {"\u2581", "a", "<0x0A>", "<0x0A>\u2581"};
  const auto bpe = Make(tokens, {{"<0x0A>", "\u2581"}}, {.byte_fallback = true});
  ASSERT_TRUE(bpe.ok());
  EXPECT_THAT(Encode(*bpe, "a\n\u2581a"), ElementsAre(1, 3, 1));
}

TEST(Bpe, RefusesMergesOutsideOfTheVocabulary) {
  const auto message = [](const std::vector<Bpe::Merge>& merges) {
    const auto bpe = Make({"a", "b", "ab"}, merges);
    EXPECT_EQ(bpe.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(bpe.status().message());
  };
  EXPECT_EQ(message({{"a", "b"}, {"x", "b"}}),
            R"(merge 1 ("x", "b"): "x" is not in the vocabulary)");
  EXPECT_THAT(message({{"a", "y"}}), HasSubstr(R"("y" is not)"));
  EXPECT_THAT(message({{"b", "a"}}), HasSubstr(R"("ba" is not)"));
  EXPECT_FALSE(Make({"a"}, {}, {.unk_token = "?"}).ok());
}

TEST(Vocabulary, RefusesIdsThatAreTakenOrOutside) {
  const auto message = [](std::vector<Vocabulary::Entry> entries) {
    return std::string(Vocabulary::Create(std::move(entries)).status().message());
  };
  EXPECT_EQ(message({{"a", 0}, {"b", 0}}), R"(tokens "a" and "b" both have id 0)");
  EXPECT_EQ(message({{"a", 0}, {"a", 1}}), R"(token "a" has two ids, 0 and 1)");
  EXPECT_EQ(message({{"a", -1}}), R"(token "a" has id -1, outside of 0..999999)");
  EXPECT_EQ(message({{"a", 1'000'000}}), R"(token "a" has id 1000000, outside of 0..999999)");
  EXPECT_THAT(message({{std::string((64 << 10) + 1, 'a'), 0}}),
              HasSubstr("65537 bytes is over the limit of 65536"));
}

double SecondsFor(const Bpe& bpe, const std::string& word, bool bytes) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(Encode(bpe, word, bytes).empty());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Quadratic time would take minutes at this length.
TEST(Bpe, LongWordsTakeNoQuadraticTime) {
  std::vector<std::string> tokens = {"a", "b"};
  std::vector<Bpe::Merge> merges;
  for (std::string run = "a"; run.size() < 1024; run += run) {
    merges.emplace_back(run, run);
    tokens.push_back(run + run);
  }
  const auto bpe = Make(tokens, merges);
  ASSERT_TRUE(bpe.ok());
  EXPECT_LT(SecondsFor(*bpe, std::string(1 << 20, 'a'), false), 30);
  EXPECT_LT(SecondsFor(*bpe, std::string(1 << 20, 'a'), true), 30);
  std::string mixed;
  for (size_t i = 0; mixed.size() < size_t{1} << 20; ++i) mixed += i * i % 7 < 5 ? 'a' : 'b';
  EXPECT_LT(SecondsFor(*bpe, mixed, false), 30);
}

}  // namespace
}  // namespace reprise
