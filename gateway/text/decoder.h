// Turns tokens back into text: the "decoder" of a tokenizer file, compiled into what each token
// contributes and a small stream state, so that text can be given out as tokens come. Immutable
// after Bind(); any thread. A stream belongs to its holder.
//
// Invariants of Stream:
// 1. Its output so far is valid UTF-8, and a prefix of the output for any longer list of tokens.
// 2. What it holds back is at most an unfinished character and the spaces a Strip rule may yet
//    drop.
#ifndef REPRISE_GATEWAY_TEXT_DECODER_H_
#define REPRISE_GATEWAY_TEXT_DECODER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/json.h"
#include "common/status.h"
#include "gateway/text/utf8.h"

namespace reprise {

class Decoder {
 public:
  // ByteLevel, Replace (of a literal), ByteFallback, Fuse, Strip, Metaspace and Sequence, in orders
  // that can be streamed; null joins tokens with spaces.
  static StatusOr<Decoder> Parse(const JsonValue& value);
  static Decoder ByteLevel();

  // Computes the contribution of every token once; `tokens` by id, null where there is none.
  Status Bind(const std::vector<const std::string*>& tokens);

  // What the token adds to text of which it is not the first token. May be part of a character.
  absl::string_view TokenBytes(int32_t id) const { return later_.At(id); }

  class Stream;

 private:
  // One rule that sees a token at a time.
  struct TokenRule {
    enum class Kind { kReplace, kStrip, kByteLevel, kMetaspace };
    Kind kind;
    std::string from;      // kReplace; kMetaspace: the character standing for a space
    std::string to;        // kReplace
    char32_t content = 0;  // kStrip
    int64_t start = 0;     // kStrip: characters at most, at each end
    int64_t stop = 0;
    bool drop_first = false;  // kMetaspace: the first token loses its marks
  };
  enum class Bytes { kNone, kFallback, kByteLevel };
  enum class Phase { kTokens, kCharacters, kFused };  // how far Parse() has come

  struct Table {
    absl::string_view At(int32_t id) const {
      if (id < 0 || id + size_t{1} >= offsets.size()) return {};
      return absl::string_view(bytes).substr(offsets[id], offsets[id + 1] - offsets[id]);
    }
    std::string bytes;
    std::vector<uint32_t> offsets;  // tokens + 1
  };

  Status AddStage(const JsonValue& value, Phase& phase);
  Status AddReplace(const JsonValue& value, absl::string_view what, Phase phase);
  Status AddStrip(const JsonValue& value, absl::string_view what, Phase phase);
  Status AddMetaspace(const JsonValue& value, absl::string_view what, Phase phase);
  Status ApplyTokenRules(std::string& token, bool first) const;
  Status Fill(const std::vector<const std::string*>& tokens, bool first, Table& table) const;

  std::vector<TokenRule> token_rules_;
  std::vector<TokenRule> character_rules_;  // kReplace of one character
  std::optional<TokenRule> text_strip_;     // kStrip on the whole text
  Bytes byte_mode_ = Bytes::kNone;
  bool join_with_spaces_ = false;
  bool has_first_table_ = false;
  Table first_;  // when the first token differs
  Table later_;
  std::vector<bool> is_byte_;  // by id: a <0xNN> of byte fallback
};

class Decoder::Stream {
 public:
  // `at_text_start` false: the tokens continue other text, and no leading space is dropped.
  Stream(const Decoder& decoder, bool at_text_start);
  void Push(int32_t id, std::string& out);  // the id of a token; appends
  void Flush(std::string& out);             // there are no more tokens

 private:
  void Characters(std::string text, std::string& out);
  void Strip(absl::string_view text, std::string& out);

  const Decoder* decoder_;
  Utf8Assembler assembler_;
  bool first_;
  int64_t strip_left_ = 0;  // leading characters that may still be dropped
  int64_t held_ = 0;        // trailing characters that may yet turn out to be last
};

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_DECODER_H_
