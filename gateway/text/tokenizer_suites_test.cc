// Published vocabularies against published expectations. Every suite must pass whole.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/json.h"
#include "common/test_data.h"
#include "gateway/text/detokenizer.h"
#include "gateway/text/scanners.h"
#include "gateway/text/test_vocabularies.h"
#include "gateway/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace reprise {
namespace {

using Ids = std::vector<int32_t>;

std::string Read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

struct Case {
  std::string text;
  Ids ids;
};

// NAME.inp holds the texts between separator lines, NAME.out a line of ids for each.
std::vector<Case> ReadInpOut(const std::string& stem) {
  const std::string inp = Read(stem + ".inp");
  const std::string out = Read(stem + ".out");
  std::vector<std::string> texts = absl::StrSplit(inp, "\n__ggml_vocab_test__\n");
  std::vector<absl::string_view> lines = absl::StrSplit(out, '\n');
  std::vector<Case> cases;
  for (size_t i = 0; i < texts.size() && i < lines.size(); ++i) {
    Case c;
    c.text = texts[i];
    for (const absl::string_view id : absl::StrSplit(lines[i], ' ', absl::SkipEmpty())) {
      c.ids.emplace_back();
      EXPECT_TRUE(absl::SimpleAtoi(id, &c.ids.back()));
    }
    cases.push_back(std::move(c));
  }
  return cases;
}

Ids IdsOf(const JsonValue& array) {
  Ids out;
  for (const JsonValue& id : array.GetArray()) out.push_back(id.GetInt());
  return out;
}

std::vector<Case> ReadJsonl(const std::string& path, const char* text, const char* ids) {
  std::vector<Case> cases;
  const std::string file = Read(path);
  for (const absl::string_view line : absl::StrSplit(file, '\n', absl::SkipEmpty())) {
    const auto doc = ParseJson(line);
    EXPECT_TRUE(doc.ok()) << doc.status();
    cases.push_back({(*doc)[text].GetString(), IdsOf((*doc)[ids])});
  }
  return cases;
}

// Runs the cases, and for each the streamed text of its ids against Decode().
void ExpectAll(const Tokenizer& tokenizer, const std::vector<Case>& cases, size_t count,
               const EncodeOptions& options = {.add_special_tokens = false}) {
  EXPECT_EQ(cases.size(), count);
  size_t passed = 0;
  for (const Case& c : cases) {
    const auto ids = tokenizer.Encode(c.text, options);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, c.ids) << JsonQuote(c.text);
    passed += *ids == c.ids;
    Detokenizer detokenizer(tokenizer, {.skip_special = false});
    std::string joined;
    for (const int32_t id : *ids) joined += detokenizer.Push(id);
    joined += detokenizer.Flush();
    EXPECT_EQ(joined, tokenizer.Decode(*ids, /*skip_special=*/false));
  }
  std::printf("%zu of %zu\n", passed, count);
}

// Decoding what was encoded gives the text back, for vocabularies that lose nothing.
void ExpectRoundTrips(const Tokenizer& tokenizer, const std::vector<Case>& cases) {
  for (const Case& c : cases) EXPECT_EQ(tokenizer.Decode(c.ids, false), c.text);
}

StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const std::string& path, absl::string_view pre) {
  ASSIGN_OR_RETURN(const GgufVocab vocab, ReadGgufVocab(Read(path)));
  return Tokenizer::FromJson(ByteLevelJson(vocab, pre));
}

class TokenizerSuites : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = SharedDataOrSkip("tokenizers");
    if (folder_.empty()) GTEST_SKIP() << SharedDataMissing();
  }
  std::string folder_;
};

TEST_F(TokenizerSuites, Gpt2) {
  const std::string stem = folder_ + "/gpt-2/ggml-vocab-gpt-2.gguf";
  const auto tokenizer = FromGguf(stem, R"({"type":"ByteLevel","add_prefix_space":false})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 50257);
  ExpectAll(**tokenizer, ReadInpOut(stem), 47);
  ExpectRoundTrips(**tokenizer, ReadInpOut(stem));
  const auto extra = ReadJsonl(folder_ + "/gpt-2/extra.jsonl", "text", "ids");
  ExpectAll(**tokenizer, extra, 199);
  ExpectRoundTrips(**tokenizer, extra);
}

TEST_F(TokenizerSuites, Qwen2FromVocabAndMerges) {
  const auto tokenizer = Tokenizer::Load(folder_ + "/qwen2");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->sequence_ids().eos, testing::ElementsAre(151643));
  EXPECT_FALSE((*tokenizer)->sequence_ids().bos);
  EXPECT_TRUE((*tokenizer)->IsSpecial(151644));
  ExpectAll(**tokenizer, ReadInpOut(folder_ + "/qwen2/ggml-vocab-qwen2.gguf"), 47);
  ExpectAll(**tokenizer, ReadJsonl(folder_ + "/qwen2/extra.jsonl", "text", "ids"), 199);
}

TEST_F(TokenizerSuites, Phi3SentencePiece) {
  const auto tokenizer = Tokenizer::FromJson(Read(folder_ + "/hf-json/phi-3-mini.tokenizer.json"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto cases = ReadInpOut(folder_ + "/phi-3/ggml-vocab-phi-3.gguf");
  ExpectAll(**tokenizer, cases, 47);
  ExpectRoundTrips(**tokenizer, cases);
  ExpectAll(**tokenizer, ReadJsonl(folder_ + "/phi-3/extra.jsonl", "text", "ids"), 198);
}

// The letters of the published pattern are the cased ones of a Unicode of its time; spelled as
// such.
TEST_F(TokenizerSuites, DeepSeekLlm) {
  const std::string stem = folder_ + "/deepseek-llm/ggml-vocab-deepseek-llm.gguf";
  const std::string pre = absl::StrCat(
      R"({"type":"Sequence","pretokenizers":[)", SplitJson("[\r\n]"), ",",
      SplitJson(R"(\s?[\p{Lu}\p{Ll}\p{Lt}]+)"), ",",
      SplitJson("\\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+"), ",",
      SplitJson(R"(\s+$)"), ",", SplitJson("[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+"),
      R"(,{"type":"Digits","individual_digits":true},)"
      R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]})");
  const auto tokenizer = FromGguf(stem, pre);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectAll(**tokenizer, ReadInpOut(stem), 47);
}

// phi-2 is GPT-2 with tokens for runs of spaces and tabs: texts without such runs are the same.
TEST_F(TokenizerSuites, Phi2AgainstGpt2) {
  const auto tokenizer = Tokenizer::FromJson(Read(folder_ + "/hf-json/phi-2.tokenizer.json"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::vector<Case> same;
  for (Case& c : ReadJsonl(folder_ + "/gpt-2/extra.jsonl", "text", "ids")) {
    const bool runs = absl::StrContains(c.text, "  ") || absl::StrContains(c.text, "\t\t");
    if (!runs) same.push_back(std::move(c));
  }
  ExpectAll(**tokenizer, same, 152);
  EXPECT_EQ(*(*tokenizer)->Encode("a   b\t\t"), (Ids{64, 50285, 65, 50294}));
}

// The sample's merges are an object, which is refused; with an array its added tokens are found,
// and its ids leave gaps.
TEST_F(TokenizerSuites, AddedTokensFile) {
  std::string json = Read(folder_ + "/hf-json/added-tokens.tokenizer.json");
  const auto refused = Tokenizer::FromJson(json);
  EXPECT_EQ(refused.status().message(),
            "tokenizer.json: model must have an array under \"merges\"");
  const size_t merges = json.find('{', json.find("\"merges\""));
  ASSERT_NE(merges, std::string::npos);
  json.replace(merges, json.find('}', merges) + 1 - merges, "[]");
  const auto tokenizer = Tokenizer::FromJson(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 32011);
  EXPECT_FALSE((*tokenizer)->IsToken(31000));
  const auto ids = (*tokenizer)->Encode("<|user|><|end|>");
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(*ids, (Ids{32010, 32007}));
}

TEST_F(TokenizerSuites, Stories260k) {
  const std::string folder = SharedDataOrSkip("stories260k");
  ASSERT_FALSE(folder.empty());
  const auto tokenizer = Tokenizer::Load(folder + "/hf");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->sequence_ids().bos, 1);
  EXPECT_THAT((*tokenizer)->sequence_ids().eos, testing::ElementsAre(2));
  const std::string golden = folder + "/golden/greedy.jsonl";
  const auto cases = ReadJsonl(golden, "prompt", "prompt_ids");
  ExpectAll(**tokenizer, cases, 12, {.add_special_tokens = true});
  const auto generated = ReadJsonl(golden, "greedy_text", "greedy_ids");
  ASSERT_EQ(generated.size(), 12u);
  for (size_t i = 0; i < generated.size(); ++i) {
    Ids all = cases[i].ids;
    all.insert(all.end(), generated[i].ids.begin(), generated[i].ids.end());
    const std::string text = (*tokenizer)->Decode(all, /*skip_special=*/true);
    EXPECT_EQ(text, cases[i].text.empty() ? generated[i].text : cases[i].text + generated[i].text);
  }
}

// Made with the script that trained this vocabulary.
TEST_F(TokenizerSuites, DemoModel) {
  const std::string folder = SharedDataOrSkip("demo-model");
  ASSERT_FALSE(folder.empty());
  const auto tokenizer = Tokenizer::Load(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<Case> cases = {
      {"", {}},
      {"a", {98}},
      {" ", {33}},
      {"  ", {269}},
      {"\012\012", {467}},
      {"Once upon a time there was a king who had three daughters.",
       {1937, 363, 648, 259, 595, 500, 313, 259, 992, 439, 340, 1002, 286, 826, 469, 47}},
      {"\042I don't know,\042 said the wolf; \042they'll come, won't they\077\042",
       {35, 74,  808,  486, 553, 419, 367,  262, 263, 112, 425,
        60, 393, 1231, 901, 715, 45,  1431, 486, 391, 603}},
      {"  leading and trailing  ", {33, 507, 343, 279, 274, 258, 483, 399, 279, 269}},
      {"tabs\011and\015\012returns\012\012\012here",
       {117, 452, 116, 10, 361, 14, 11, 689, 556, 116, 467, 11, 578}},
      {"1234567890 and 3.14159e-10", {50,   51, 52, 53, 54, 55, 56, 57,  58, 49, 274,
                                      1787, 47, 50, 53, 50, 54, 58, 102, 46, 50, 49}},
      {"HELLO WORLD'S END, WE'RE 'bout", {788, 1740, 80, 431, 1477, 77, 69,   40,  84, 523,
                                          79,  69,   45, 431, 70,   40, 1796, 564, 99, 448}},
      {"d\303\251j\303\240 vu, na\303\257ve caf\303\251, \303\206r\303\270sk\303\270bing",
       {101,  1189, 107, 196, 161, 496, 118, 45,  298, 98,  196, 176, 319, 1946, 103,
        1189, 45,   33,  196, 135, 115, 196, 185, 116, 108, 196, 185, 99,  279}},
      {"\320\237\321\200\320\270\320\262\320\265\321\202, \320\274\320\270\321\200",
       {209, 160, 210, 129, 209, 185, 209, 179, 209, 182,
        210, 131, 45,  33,  209, 189, 209, 185, 210, 129}},
      {"\344\275\240\345\245\275\357\274\214\344\270\226\347\225\214\343\200\202",
       {229, 190, 161, 230, 166, 190, 240, 189, 141, 229, 185, 151, 232, 150, 141, 228, 129, 131}},
      {"\343\201\223\343\202\223\343\201\253\343\201\241\343\201\257",
       {228, 130, 148, 228, 131, 148, 228, 130, 172, 228, 130, 162, 228, 130, 176}},
      {"\360\237\230\200\360\237\221\251\342\200\215\360\237\221\251\342\200\215\360\237\221\247 "
       "flags \360\237\207\251\360\237\207\252",
       {241, 160, 153, 129, 241, 160, 146, 170, 290, 142, 241, 160, 146, 170, 290, 142,
        241, 160, 146, 168, 635, 410, 116, 33,  241, 160, 136, 170, 241, 160, 136, 171}},
      {"\302\240\342\200\203\343\200\200 odd\342\200\213spaces",
       {1364, 290, 132, 228, 129, 129, 266, 650, 290, 140, 767, 1490}},
      {"\302\275 \302\262 \342\205\253 \331\241\331\242\331\243",
       {195, 190, 33, 195, 179, 33, 227, 134, 172, 33, 218, 162, 218, 163, 218, 164}},
      {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
       {98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98,
        98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98, 98}},
      {"!!!\077\077\077...---", {34, 34, 34, 64, 64, 64, 1830, 47, 1066}},
      {"<html>&amp;</html>",
       {61, 105, 117, 110, 109, 63, 39, 1546, 60, 61, 48, 105, 117, 110, 109, 63}},
      {"x=1;y=[2,3];z={'k':None}", {121, 62,  50, 60,  122, 62,  92, 51, 45, 52,  94,
                                    60,  123, 62, 124, 40,  108, 40, 59, 79, 451, 126}},
      {"e\314\201 vs \303\251", {102, 205, 130, 496, 116, 33, 1189}},
      {"The quick brown fox\342\200\250jumps\302\205over\013it",
       {444, 1551, 559, 462, 277, 1729, 290, 169, 107, 509, 701, 195, 134, 1120, 12, 273}},
  };
  ExpectAll(**tokenizer, cases, 24);
  ExpectRoundTrips(**tokenizer, cases);
}

// A floor far below what is measured, so that only a change of complexity fails it.
TEST_F(TokenizerSuites, EncodesEnglishFast) {
  const std::string path = SharedDataOrSkip("text/tinyshakespeare.txt");
  ASSERT_FALSE(path.empty());
  const std::string text = Read(path);
  const std::string stem = folder_ + "/gpt-2/ggml-vocab-gpt-2.gguf";
  const std::string llama3 =
      absl::StrCat(R"({"type":"Sequence","pretokenizers":[)", SplitJson(kLlama3Pattern),
                   R"(,{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})");
  const std::pair<const char*, StatusOr<std::unique_ptr<Tokenizer>>> tokenizers[] = {
      {"GPT-2", FromGguf(stem, R"({"type":"ByteLevel","add_prefix_space":false})")},
      {"GPT-2 with Llama 3 words", FromGguf(stem, llama3)},
      {"Qwen2", Tokenizer::Load(folder_ + "/qwen2")},
      {"phi-3", Tokenizer::FromJson(Read(folder_ + "/hf-json/phi-3-mini.tokenizer.json"))},
  };
  for (const auto& [name, tokenizer] : tokenizers) {
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto start = std::chrono::steady_clock::now();
    const auto ids = (*tokenizer)->Encode(text);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    ASSERT_TRUE(ids.ok());
    std::printf("%s: %.1f MB/s, %zu tokens\n", name, text.size() / took.count() / 1e6, ids->size());
    EXPECT_LT(took.count(), 20.0) << name;
  }
}

}  // namespace
}  // namespace reprise
