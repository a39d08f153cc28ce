#include "gateway/text/utf8.h"

#include <random>

#include "gtest/gtest.h"

namespace reprise {
namespace {

TEST(Utf8, NamesTheFirstBadByte) {
  EXPECT_EQ(FindInvalidUtf8("plain, d\u00e9j\u00e0 vu, \U0001F600"), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("ab\xFFz"), 2u);
  EXPECT_EQ(FindInvalidUtf8("ab\xC3"), 2u);              // cut short
  EXPECT_EQ(FindInvalidUtf8("\u00e9\xED\xA0\x80"), 2u);  // a surrogate
  EXPECT_EQ(FindInvalidUtf8("\xC0\x80"), 0u);            // overlong
  EXPECT_EQ(FindInvalidUtf8("a\xF4\x90\x80\x80"), 1u);   // above U+10FFFF
}

TEST(Utf8, CodePointsGoInAndOut) {
  for (const char32_t c : {U'a', U'\u00e9', U'\u2581', U'\U0001F600', U'\U0010FFFF'}) {
    std::string text;
    AppendCodePoint(c, text);
    size_t at = 0;
    EXPECT_EQ(NextCodePoint(text, at), c);
    EXPECT_EQ(at, text.size());
  }
}

std::string All(absl::string_view bytes, Utf8Assembler::Invalid invalid) {
  Utf8Assembler assembler(invalid);
  std::string out;
  assembler.Push(bytes, out);
  assembler.Flush(out);
  return out;
}

TEST(Utf8Assembler, ReplacesIllFormedBytes) {
  using enum Utf8Assembler::Invalid;
  // Unicode 15, table 3-8.
  const absl::string_view mixed = "\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64";
  EXPECT_EQ(All(mixed, kPerSubpart), "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
  EXPECT_EQ(All(mixed, kPerByte), "a\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
  EXPECT_EQ(All("\xE2\x96", kPerSubpart), "\uFFFD");
  EXPECT_EQ(All("\xE2\x96", kPerByte), "\uFFFD\uFFFD");
}

TEST(Utf8Assembler, HoldsBackOnlyWhatMayBecomeACharacter) {
  Utf8Assembler assembler(Utf8Assembler::Invalid::kPerSubpart);
  std::string out;
  assembler.Push("\xF0\x9F", out);
  EXPECT_EQ(out, "");
  assembler.Push("\x98", out);
  EXPECT_EQ(out, "");
  assembler.Push("\x80x", out);
  EXPECT_EQ(out, "\U0001F600x");
  assembler.Push("\xE0\x80", out);  // E0 must be followed by A0..BF: both bytes are wrong at once
  EXPECT_EQ(out, "\U0001F600x\uFFFD\uFFFD");
}

TEST(Utf8Assembler, AnySplitGivesTheSameText) {
  std::mt19937 random(20261121);
  const absl::string_view pieces[] = {"a",    "\xC3", "\xA9", "\xE2", "\x96", "\x81",  "\xF0",
                                      "\x9F", "\x98", "\x80", "\xFF", "\xED", "\u00e9"};
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (int i = 0; i < 12; ++i) {
      const auto piece = pieces[random() % std::size(pieces)];
      bytes.append(piece.data(), piece.size());
    }
    for (const auto invalid :
         {Utf8Assembler::Invalid::kPerSubpart, Utf8Assembler::Invalid::kPerByte}) {
      Utf8Assembler assembler(invalid);
      std::string out;
      for (size_t i = 0; i < bytes.size();) {
        const size_t n = std::min<size_t>(1 + random() % 3, bytes.size() - i);
        assembler.Push(absl::string_view(bytes).substr(i, n), out);
        ASSERT_EQ(FindInvalidUtf8(out), std::nullopt);
        i += n;
      }
      assembler.Flush(out);
      ASSERT_EQ(out, All(bytes, invalid));
    }
  }
}

}  // namespace
}  // namespace reprise
