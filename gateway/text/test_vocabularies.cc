#include "gateway/text/test_vocabularies.h"

#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/json.h"
#include "gateway/text/byte_alphabet.h"
#include "gateway/text/scanners.h"

namespace reprise {
namespace {

// Bounds-checked reading of GGUF metadata (gguf.md of the ggml project).
class GgufReader {
 public:
  explicit GgufReader(absl::string_view file) : file_(file) {}

  template <typename T>
  StatusOr<T> Number() {
    T value;
    if (file_.size() - at_ < sizeof(T)) return Truncated();
    std::memcpy(&value, file_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  StatusOr<std::string> String() {
    ASSIGN_OR_RETURN(const uint64_t bytes, Number<uint64_t>());
    if (bytes > file_.size() - at_) return Truncated();
    at_ += bytes;
    return std::string(file_.substr(at_ - bytes, bytes));
  }

  Status Skip(uint32_t type) {
    static constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) return String().status();
    if (type == 9) {
      ASSIGN_OR_RETURN(const uint32_t element, Number<uint32_t>());
      ASSIGN_OR_RETURN(const uint64_t count, Number<uint64_t>());
      if (element == 9) return absl::InvalidArgumentError("GGUF: array of arrays");
      for (uint64_t i = 0; i < count; ++i) RETURN_IF_ERROR(Skip(element));
      return absl::OkStatus();
    }
    if (type > 12) return absl::InvalidArgumentError(absl::StrCat("GGUF: value type ", type));
    if (kBytes[type] > file_.size() - at_) return Truncated();
    at_ += kBytes[type];
    return absl::OkStatus();
  }

  // The count of an array whose elements must be of `type`.
  StatusOr<uint64_t> Array(uint32_t type) {
    ASSIGN_OR_RETURN(const uint32_t element, Number<uint32_t>());
    ASSIGN_OR_RETURN(const uint64_t count, Number<uint64_t>());
    if (element != type || count > file_.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF: array of ", count, " of type ", element));
    }
    return count;
  }

 private:
  Status Truncated() const {
    return absl::InvalidArgumentError(absl::StrCat("GGUF: truncated at byte ", at_));
  }
  const absl::string_view file_;
  size_t at_ = 0;
};

Status ReadStrings(GgufReader& reader, std::vector<std::string>& out) {
  ASSIGN_OR_RETURN(const uint64_t count, reader.Array(8));
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(std::string text, reader.String());
    out.push_back(std::move(text));
  }
  return absl::OkStatus();
}

std::string AddedJson(absl::string_view content, int64_t id, bool special) {
  return absl::StrFormat(
      R"({"id":%d,"content":%s,"single_word":false,"lstrip":false,"rstrip":false,)"
      R"("normalized":false,"special":%s})",
      id, JsonQuote(content), special ? "true" : "false");
}

std::string TemplateJson(absl::string_view token, int id) {
  return absl::StrFormat(
      R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":%1$s,"type_id":0}},)"
      R"({"Sequence":{"id":"A","type_id":0}}],"pair":[],)"
      R"("special_tokens":{%1$s:{"id":%1$s,"ids":[%2$d],"tokens":[%1$s]}}})",
      JsonQuote(token), id);
}

}  // namespace

StatusOr<GgufVocab> ReadGgufVocab(absl::string_view file) {
  if (file.substr(0, 4) != "GGUF") return absl::InvalidArgumentError("no GGUF file");
  GgufReader reader(file.substr(4));
  RETURN_IF_ERROR(reader.Skip(4));   // version
  RETURN_IF_ERROR(reader.Skip(10));  // tensors
  ASSIGN_OR_RETURN(const uint64_t count, reader.Number<uint64_t>());
  GgufVocab out;
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(const std::string key, reader.String());
    ASSIGN_OR_RETURN(const uint32_t type, reader.Number<uint32_t>());
    if (key == "tokenizer.ggml.tokens") {
      RETURN_IF_ERROR(ReadStrings(reader, out.tokens));
    } else if (key == "tokenizer.ggml.merges") {
      RETURN_IF_ERROR(ReadStrings(reader, out.merges));
    } else if (key == "tokenizer.ggml.token_type") {
      ASSIGN_OR_RETURN(const uint64_t types, reader.Array(5));
      for (uint64_t t = 0; t < types; ++t) {
        ASSIGN_OR_RETURN(const int32_t value, reader.Number<int32_t>());
        out.types.push_back(value);
      }
    } else {
      RETURN_IF_ERROR(reader.Skip(type));
    }
  }
  return out;
}

std::string ByteLevelJson(const GgufVocab& vocab, absl::string_view pre_tokenizer) {
  std::vector<std::string> entries;
  std::vector<std::string> added;
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    const int type = vocab.types[id];
    if (type == 3 || type == 4) added.push_back(AddedJson(vocab.tokens[id], id, type == 3));
    if (type != 1) continue;
    entries.push_back(absl::StrCat(JsonQuote(vocab.tokens[id]), ":", id));
  }
  std::vector<std::string> merges;
  for (const std::string& merge : vocab.merges) merges.push_back(JsonQuote(merge));
  return absl::StrCat(R"({"version":"1.0","added_tokens":[)", absl::StrJoin(added, ","),
                      R"(],"normalizer":null,"pre_tokenizer":)", pre_tokenizer,
                      R"(,"post_processor":null,"decoder":{"type":"ByteLevel"},)",
                      R"("model":{"type":"BPE","vocab":{)", absl::StrJoin(entries, ","),
                      R"(},"merges":[)", absl::StrJoin(merges, ","), "]}}");
}

std::string SplitJson(absl::string_view regex) {
  return absl::StrCat(R"({"type":"Split","pattern":{"Regex":)", JsonQuote(regex),
                      R"(},"behavior":"Isolated","invert":false})");
}

std::string SmallByteLevelJson() {
  GgufVocab vocab;
  for (int b = 0; b < 256; ++b) {
    vocab.tokens.push_back(BytesToLetters(std::string(1, static_cast<char>(b))));
  }
  const std::string space = BytesToLetters(" ");
  vocab.merges = {"h e", "l l", "he ll", space + " t", "hell o"};
  for (const char* token : {"he", "ll", "hell"}) vocab.tokens.push_back(token);
  vocab.tokens.push_back(space + "t");
  vocab.tokens.push_back("hello");
  vocab.types.assign(vocab.tokens.size(), 1);
  for (const char* token : {"<|bos|>", "<|end|>"}) {
    vocab.tokens.push_back(token);
    vocab.types.push_back(3);
  }
  std::string json =
      ByteLevelJson(vocab, R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true})");
  const std::string none = R"("post_processor":null)";
  return json.replace(json.find(none), none.size(),
                      absl::StrCat(R"("post_processor":)", TemplateJson("<|bos|>", 261)));
}

std::string SmallSentencePieceJson() {
  std::vector<std::string> entries = {R"("<unk>":0)", R"("<s>":1)", R"("</s>":2)"};
  const auto add = [&](absl::string_view token) {
    entries.push_back(absl::StrCat(JsonQuote(token), ":", entries.size()));
  };
  for (int b = 0; b < 256; ++b) add(absl::StrFormat("<0x%02X>", b));
  for (const char* letter : {"\u2581", "h", "e", "l", "o", "w", "r", "d", "\u00e9"}) add(letter);
  const std::vector<std::pair<std::string, std::string>> merges = {
      {"\u2581", "h"},     {"\u2581h", "e"}, {"l", "l"},          {"\u2581he", "ll"},
      {"\u2581hell", "o"}, {"\u2581", "w"},  {"\u2581", "\u2581"}};
  std::vector<std::string> pairs;
  for (const auto& [left, right] : merges) {
    add(left + right);
    pairs.push_back(absl::StrCat("[", JsonQuote(left), ",", JsonQuote(right), "]"));
  }
  return absl::StrCat(
      R"({"version":"1.0","added_tokens":[)", AddedJson("<unk>", 0, true), ",",
      AddedJson("<s>", 1, true), ",", AddedJson("</s>", 2, true),
      R"(],"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},)"
      R"({"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"pre_tokenizer":null,)"
      R"("post_processor":)",
      TemplateJson("<s>", 1),
      R"(,"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},)"
      R"("content":" "},{"type":"ByteFallback"},{"type":"Fuse"},)"
      R"({"type":"Strip","content":" ","start":1,"stop":0}]},)"
      R"("model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{)",
      absl::StrJoin(entries, ","), R"(},"merges":[)", absl::StrJoin(pairs, ","), "]}}");
}

}  // namespace reprise
