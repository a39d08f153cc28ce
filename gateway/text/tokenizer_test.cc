#include "gateway/text/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <thread>

#include "common/limits.h"
#include "gateway/text/test_vocabularies.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace reprise {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Ids = std::vector<int32_t>;

std::unique_ptr<Tokenizer> ByteLevel() {
  auto out = Tokenizer::FromJson(SmallByteLevelJson(), {.bos = 261, .eos = {262}});
  EXPECT_TRUE(out.ok()) << out.status();
  return std::move(out).value();
}

std::unique_ptr<Tokenizer> SentencePiece() {
  auto out = Tokenizer::FromJson(SmallSentencePieceJson());
  EXPECT_TRUE(out.ok()) << out.status();
  return std::move(out).value();
}

constexpr EncodeOptions kPlain = {.add_special_tokens = false};

TEST(Tokenizer, EncodesWordsTemplatesAndAddedTokens) {
  const auto tokenizer = ByteLevel();
  EXPECT_THAT(*tokenizer->Encode("hello the<|end|>"), ElementsAre(261, 260, 259, 256, 262));
  EXPECT_THAT(*tokenizer->Encode("hello", kPlain), ElementsAre(260));
  EXPECT_THAT(*tokenizer->Encode("", kPlain), ElementsAre());
  EXPECT_THAT(*tokenizer->Encode(""), ElementsAre(261));
}

TEST(Tokenizer, SpecialTokensInTextNeedPermission) {
  const auto tokenizer = ByteLevel();
  const auto ids =
      tokenizer->Encode("<|end|>", {.add_special_tokens = false, .parse_special = false});
  EXPECT_THAT(*ids, ElementsAre('<', '|', 'e', 'n', 'd', '|', '>'));
}

TEST(Tokenizer, SentencePieceStyle) {
  const auto tokenizer = SentencePiece();
  const auto hello = tokenizer->FindToken("\u2581hello");
  ASSERT_TRUE(hello);
  EXPECT_THAT(*tokenizer->Encode("hello"), ElementsAre(1, *hello));
  EXPECT_EQ(tokenizer->Decode(*tokenizer->Encode("hello hello"), true), "hello hello");
  // Every stretch between special tokens is prefixed, as the file's normalizer says.
  EXPECT_THAT(*tokenizer->Encode("hello</s>hello", kPlain), ElementsAre(*hello, 2, *hello));
  const std::string odd = " r\u00e9d \u4e2d\U0001F600\n";
  EXPECT_EQ(tokenizer->Decode(*tokenizer->Encode(odd), true), odd);
}

TEST(Tokenizer, KnowsItsTokens) {
  const auto tokenizer = ByteLevel();
  EXPECT_EQ(tokenizer->vocab_size(), 263);
  EXPECT_EQ(tokenizer->sequence_ids().bos, 261);
  EXPECT_TRUE(tokenizer->IsSpecial(262));
  EXPECT_FALSE(tokenizer->IsSpecial(260));
  EXPECT_FALSE(tokenizer->IsToken(263));
  EXPECT_FALSE(tokenizer->IsToken(-1));
  EXPECT_EQ(tokenizer->TokenBytes(259), " t");
  EXPECT_EQ(tokenizer->TokenBytes(0xE9), "\xE9");
  EXPECT_EQ(tokenizer->TokenBytes(999), "");
  EXPECT_EQ(tokenizer->FindToken("<|end|>"), 262);
  EXPECT_EQ(tokenizer->FindToken("missing"), std::nullopt);
  EXPECT_EQ(SentencePiece()->TokenBytes(3 + 0xC3), "\xC3");
}

TEST(Tokenizer, DecodesWithAndWithoutSpecialTokens) {
  const auto tokenizer = ByteLevel();
  EXPECT_EQ(tokenizer->Decode(Ids{261, 260, 259, 256, 262}, true), "hello the");
  EXPECT_EQ(tokenizer->Decode(Ids{261, 260, 262}, false), "<|bos|>hello<|end|>");
  EXPECT_EQ(tokenizer->Decode(Ids{-5, 260, 100'000}, true), "hello");
}

TEST(Tokenizer, InputErrorsNameTheByteAndTheLimit) {
  const auto tokenizer = ByteLevel();
  const auto message = [&](const std::string& text, const EncodeOptions& options) {
    const auto ids = tokenizer->Encode(text, options);
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(ids.status().message());
  };
  EXPECT_EQ(message("abc\xC3(", {}), "text is not valid UTF-8 at byte 3");
  EXPECT_EQ(message("x y z", {.tokens_max = 4}), "text encodes to more than the limit of 4 tokens");
  EXPECT_TRUE(tokenizer->Encode("x y", {.tokens_max = 4}).ok());
  EXPECT_EQ(message(std::string(limits::kEncodeTextBytesMax + 1, 'a'), {}),
            "text of 16777217 bytes is over the limit of 16777216");
}

// Replaces the first `from` of a sound file, which must then be refused with `message`.
void ExpectRefused(std::string json, absl::string_view from, absl::string_view to,
                   absl::string_view message) {
  const size_t at = json.find(std::string(from));
  ASSERT_NE(at, std::string::npos) << from;
  json.replace(at, from.size(), std::string(to));
  const auto tokenizer = Tokenizer::FromJson(json);
  ASSERT_FALSE(tokenizer.ok()) << to;
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(std::string(message)));
}

TEST(Tokenizer, RefusesFilesItWouldMisread) {
  const std::string json = SmallByteLevelJson();
  ExpectRefused(json, R"("type":"BPE")", R"("type":"Unigram")",
                R"(tokenizer.json: model type "Unigram" is not supported)");
  ExpectRefused(json, R"("type":"BPE")", R"("type":"BPE","dropout":0.1)", "dropout 0.1");
  ExpectRefused(json, R"("type":"BPE")", R"("type":"BPE","end_of_word_suffix":"</w>")", "</w>");
  ExpectRefused(json, R"("type":"BPE")", R"("type":"BPE","temperature":1)", R"("temperature")");
  ExpectRefused(json, R"("type":"BPE")", R"("type":"BPE","unk_token":"<u>")", R"("<u>" is not in)");
  ExpectRefused(json, R"("version")", R"("extra":1,"version")", R"(tokenizer.json has "extra")");
  ExpectRefused(json, R"({"type":"ByteLevel"},"model")", R"({"type":"CTC"},"model")",
                R"(tokenizer.json: decoder type "CTC" is not supported)");
  ExpectRefused(json, R"({"type":"ByteLevel",)", R"({"type":"UnicodeScripts",)",
                R"(pre_tokenizer type "UnicodeScripts" is not supported)");
  ExpectRefused(json, R"("TemplateProcessing")", R"("BertProcessing")",
                R"(post_processor type "BertProcessing" is not supported)");
  ExpectRefused(json, R"("ids":[261])", R"("ids":[9999])", "has id 9999, which is no token");
  ExpectRefused(json, R"("he ll")", R"("hell")", "merge 2 \"hell\" must be two pieces");
  ExpectRefused(json, R"("he ll")", R"("he zz")", R"("zz" is not in the vocabulary)");
  ExpectRefused(json, R"("he ll")", R"(["he"])", "merge 2 must be a string or two of them");
  ExpectRefused(json, R"("hello":260)", R"("hello":259)", "both have id 259");
  ExpectRefused(json, R"("hello":260)", R"("hello":"x")",
                R"(the id of "hello" must be an integer)");
  ExpectRefused(json, R"("hello":260)", R"("he":260)", "twice");
  ExpectRefused(json, R"("id":262)", R"("id":261)", "which is that of");
  ExpectRefused(json, R"("id":262)", R"("id":-1)", "has id -1, outside of 0..999999");
  ExpectRefused(json, R"("content":"<|end|>")", R"("content":"hello")",
                "but the vocabulary says 260");
  ExpectRefused(json, R"("content":"<|end|>")", R"("content":"<|bos|>")", "is there twice");
  ExpectRefused(json, R"("merges")", R"("mergers")", R"("mergers", which is not supported)");
  ExpectRefused(json, "]}}", "]}", "JSON is malformed");
}

TEST(Tokenizer, RefusesDecodersThatCannotBeStreamed) {
  const std::string json = SmallByteLevelJson();
  const struct {
    const char* decoders;
    const char* message;
  } cases[] = {
      {R"({"type":"Fuse"},{"type":"Replace","pattern":{"String":"ab"},"content":""})",
       "Replace after"},
      {R"({"type":"Fuse"},{"type":"ByteFallback"})", "ByteFallback after"},
      {R"({"type":"ByteFallback"},{"type":"Metaspace"})", "Metaspace after"},
      {R"({"type":"ByteFallback"},{"type":"Strip","content":" "})", "Strip after"},
      {R"({"type":"Fuse"},{"type":"Strip","content":" "},{"type":"Strip","content":" "})",
       "Strip after"},
      {R"({"type":"Strip","content":"ab"})", "must be one character"},
      {R"({"type":"Strip","content":" ","start":-1})", "start -1"},
      {R"({"type":"Replace","pattern":{"Regex":"a"},"content":""})", R"("Regex", which is not)"},
  };
  for (const auto& [decoders, message] : cases) {
    ExpectRefused(json, R"({"type":"ByteLevel"},"model")",
                  absl::StrCat(R"({"type":"Sequence","decoders":[)", decoders, R"(]},"model")"),
                  message);
  }
}

TEST(Tokenizer, OneTokenizerServesManyThreads) {
  const auto tokenizer = ByteLevel();
  const std::string text = "hello the hell, \u00e9t\u00e9 <|end|> tell";
  const Ids expected = *tokenizer->Encode(text);
  std::vector<std::thread> threads;
  std::vector<int> equal(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) equal[t] += *tokenizer->Encode(text) == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(equal, ElementsAre(500, 500, 500, 500));
}

class Folder : public testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::path(testing::TempDir()) /
            testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  void Write(const char* name, const std::string& text) { std::ofstream(path_ / name) << text; }
  StatusOr<std::unique_ptr<Tokenizer>> Load() { return Tokenizer::Load(path_.string()); }
  std::filesystem::path path_;
};

TEST_F(Folder, SequenceIdsComeFromTheFirstFileThatSays) {
  Write("tokenizer.json", SmallByteLevelJson());
  EXPECT_TRUE((*Load())->sequence_ids().eos.empty());
  Write("tokenizer_config.json", R"({"eos_token":{"content":"<|end|>"},"bos_token":"<|bos|>"})");
  EXPECT_THAT((*Load())->sequence_ids().eos, ElementsAre(262));
  EXPECT_EQ((*Load())->sequence_ids().bos, 261);
  Write("config.json", R"({"eos_token_id":7,"bos_token_id":null})");
  EXPECT_THAT((*Load())->sequence_ids().eos, ElementsAre(7));
  Write("generation_config.json", R"({"eos_token_id":[8,9],"bos_token_id":3})");
  EXPECT_THAT((*Load())->sequence_ids().eos, ElementsAre(8, 9));
  EXPECT_EQ((*Load())->sequence_ids().bos, 3);
  Write("config.json", R"({"eos_token_id":-1})");
  EXPECT_THAT(std::string(Load().status().message()), HasSubstr("config.json"));
}

TEST_F(Folder, VocabAndMergesNeedAKnownClass) {
  Write("vocab.json", R"({"a":0,"b":1,"ab":2,"\u0120":3,"<e>":4})");
  Write("merges.txt", "#version: 0.2\r\na b\r\n");
  EXPECT_THAT(std::string(Load().status().message()), HasSubstr("tokenizer_class \"\" is not"));
  Write("tokenizer_config.json", R"({"tokenizer_class":"GPT2Tokenizer","eos_token":"<e>",
                                     "bos_token":"<e>","add_bos_token":true})");
  const auto tokenizer = Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("ab a<e>"), ElementsAre(4, 2, 3, 0, 4));
  EXPECT_TRUE((*tokenizer)->IsSpecial(4));
  Write("merges.txt", "a b c\n");
  EXPECT_THAT(std::string(Load().status().message()), HasSubstr("merges.txt: merge 0"));
}

TEST_F(Folder, MissingFilesAreNamed) {
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kNotFound);
  Write("vocab.json", "{}");
  EXPECT_THAT(std::string(Load().status().message()), HasSubstr("merges.txt cannot be read"));
}

}  // namespace
}  // namespace reprise
