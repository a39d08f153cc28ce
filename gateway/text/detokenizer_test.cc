#include "gateway/text/detokenizer.h"

#include <random>

#include "gateway/text/test_vocabularies.h"
#include "gateway/text/utf8.h"
#include "gtest/gtest.h"

namespace reprise {
namespace {

using Ids = std::vector<int32_t>;

std::unique_ptr<Tokenizer> Load(const std::string& json) {
  auto out = Tokenizer::FromJson(json);
  EXPECT_TRUE(out.ok()) << out.status();
  return std::move(out).value();
}

// The small SentencePiece-style file with other decoders.
std::unique_ptr<Tokenizer> LoadWithDecoder(absl::string_view decoder) {
  std::string json = SmallSentencePieceJson();
  const size_t begin = json.find(R"("decoder":)");
  const size_t end = json.find(R"(,"model")");
  return Load(json.replace(begin, end - begin, absl::StrCat(R"("decoder":)", decoder)));
}

std::vector<std::unique_ptr<Tokenizer>> Kinds() {
  std::vector<std::unique_ptr<Tokenizer>> out;
  out.push_back(Load(SmallByteLevelJson()));
  out.push_back(Load(SmallSentencePieceJson()));
  out.push_back(LoadWithDecoder("null"));
  out.push_back(LoadWithDecoder(R"({"type":"Metaspace","replacement":"▁"})"));
  out.push_back(LoadWithDecoder(
      R"({"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},
          {"type":"Replace","pattern":{"String":"▁"},"content":" "},
          {"type":"Strip","content":" ","start":2,"stop":2}]})"));
  return out;
}

// Whole-text decoding as the reference defines it, from the tokens' bytes, for the two common
// kinds.
std::string Whole(const Tokenizer& tokenizer, const Ids& ids, bool sentence_piece) {
  std::string out;
  std::string run;  // consecutive byte tokens
  const auto end_run = [&](Utf8Assembler::Invalid invalid) {
    Utf8Assembler assembler(invalid);
    assembler.Push(run, out);
    assembler.Flush(out);
    run.clear();
  };
  for (const int32_t id : ids) {
    if (!tokenizer.IsToken(id) || tokenizer.IsSpecial(id)) continue;
    const absl::string_view bytes = tokenizer.TokenBytes(id);
    if (sentence_piece && (id < 3 || id >= 259)) {
      end_run(Utf8Assembler::Invalid::kPerByte);
      out.append(bytes.data(), bytes.size());
    } else {
      run.append(bytes.data(), bytes.size());
    }
  }
  end_run(sentence_piece ? Utf8Assembler::Invalid::kPerByte : Utf8Assembler::Invalid::kPerSubpart);
  if (sentence_piece && !out.empty() && out[0] == ' ') out.erase(0, 1);
  return out;
}

// Byte tokens of real characters now and then, so that both sound and broken sequences occur.
Ids RandomIds(std::mt19937& random, const Tokenizer& tokenizer, int byte_base) {
  Ids ids;
  for (int i = 0; i < 14; ++i) {
    if (random() % 3 == 0) {
      for (const char c : std::string("\u00e9\U0001F600").substr(random() % 3, 1 + random() % 6)) {
        ids.push_back(byte_base + static_cast<unsigned char>(c));
      }
    } else {
      ids.push_back(static_cast<int32_t>(random() % (tokenizer.vocab_size() + 2)) - 1);
    }
  }
  return ids;
}

TEST(Detokenizer, DeltasJoinToTheWholeAtEveryLength) {
  std::mt19937 random(3);
  const auto kinds = Kinds();
  for (size_t kind = 0; kind < kinds.size(); ++kind) {
    const Tokenizer& tokenizer = *kinds[kind];
    for (int round = 0; round < 500; ++round) {
      const Ids ids = RandomIds(random, tokenizer, kind == 0 ? 0 : 3);
      const bool skip_special = round % 2 == 0;
      Detokenizer running(tokenizer, {.skip_special = skip_special});
      std::string joined;
      for (size_t n = 0; n <= ids.size(); ++n) {
        const Ids prefix(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n));
        Detokenizer rebuilt = running;  // what a new gateway would have after n tokens
        ASSERT_EQ(joined + rebuilt.Flush(), tokenizer.Decode(prefix, skip_special)) << kind;
        ASSERT_FALSE(FindInvalidUtf8(joined));
        if (n < ids.size()) joined += running.Push(ids[n]);
      }
      if (skip_special && kind < 2) {
        ASSERT_EQ(tokenizer.Decode(ids, true), Whole(tokenizer, ids, kind == 1));
      }
    }
  }
}

TEST(Detokenizer, NeverGivesHalfACharacter) {
  const auto tokenizer = Load(SmallByteLevelJson());
  Detokenizer detokenizer(*tokenizer, {});
  EXPECT_EQ(detokenizer.Push(0xF0), "");
  EXPECT_EQ(detokenizer.Push(0x9F), "");
  EXPECT_EQ(detokenizer.Push(262), "");  // special, skipped: does not end the character
  EXPECT_EQ(detokenizer.Push(0x98), "");
  EXPECT_EQ(detokenizer.Push(0x80), "\U0001F600");
  EXPECT_EQ(detokenizer.Push(0xE2), "");
  EXPECT_EQ(detokenizer.Push(260), "\uFFFDhello");
  EXPECT_EQ(detokenizer.Push(0xC3), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(Detokenizer, TheFirstSpaceBelongsToTextThatContinuesAPrompt) {
  const auto tokenizer = Load(SmallSentencePieceJson());
  const int32_t hello = *tokenizer->FindToken("\u2581hello");
  Detokenizer whole(*tokenizer, {});
  EXPECT_EQ(whole.Push(1), "");  // <s>
  EXPECT_EQ(whole.Push(hello), "hello");
  EXPECT_EQ(whole.Push(hello), " hello");
  Detokenizer continued(*tokenizer, {.at_text_start = false});
  EXPECT_EQ(continued.Push(hello), " hello");
}

TEST(Detokenizer, ByteFallbackReplacesBytesOneByOne) {
  const auto tokenizer = Load(SmallSentencePieceJson());
  const auto byte = [](int value) { return 3 + value; };
  // A sound character, then a byte of none: SentencePiece keeps the character.
  EXPECT_EQ(tokenizer->Decode(Ids{byte(0xC3), byte(0xA9), byte(0xE2), byte(0x96)}, true),
            "\u00e9\uFFFD\uFFFD");
}

TEST(Detokenizer, TrailingStripWaitsForTheEnd) {
  const auto tokenizer = std::move(Kinds().back());
  const int32_t mark = *tokenizer->FindToken("\u2581");
  const int32_t letter = *tokenizer->FindToken("h");
  Detokenizer detokenizer(*tokenizer, {});
  std::string out;
  for (const int32_t id : {mark, mark, mark, letter, mark, mark, mark}) out += detokenizer.Push(id);
  EXPECT_EQ(out, " h ");
  EXPECT_EQ(detokenizer.Flush(), "");
  EXPECT_EQ(tokenizer->Decode(Ids{letter, mark, letter}, true), "h h");
}

}  // namespace
}  // namespace reprise
