// Splits normalized text into the words BPE works on: the "pre_tokenizer" of a tokenizer file.
// Immutable after parsing; any thread.
//
// Invariants of Pieces: spans are ascending, not empty, do not overlap, and lie in `text`.
#ifndef REPRISE_GATEWAY_TEXT_PRE_TOKENIZER_H_
#define REPRISE_GATEWAY_TEXT_PRE_TOKENIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/json.h"
#include "common/status.h"
#include "gateway/text/matcher.h"

namespace reprise {

struct Pieces {
  std::string text;
  std::vector<Span> spans;
  bool at_start = false;  // the first span begins where the request's whole text begins
};

class PreTokenizer {
 public:
  class Rule {
   public:
    virtual ~Rule() = default;
    virtual Status Apply(Pieces& pieces) const = 0;
  };

  // ByteLevel, Split, Digits, Whitespace, WhitespaceSplit, CharDelimiterSplit, Metaspace,
  // Punctuation and Sequence; null keeps the text whole.
  static StatusOr<PreTokenizer> Parse(const JsonValue& value);

  // Those of the GPT-2 and Qwen2 classes, whose older folders hold no tokenizer.json.
  static PreTokenizer Gpt2(bool add_prefix_space);
  static StatusOr<PreTokenizer> ByteLevelSplit(absl::string_view regex);

  // True when the pieces are raw bytes of which each is one symbol, as the last rule is ByteLevel.
  // The bytes stay as they are; spelling them in letters is left to the vocabulary.
  bool yields_bytes() const { return yields_bytes_; }

  Status Apply(Pieces& pieces) const;

 private:
  std::vector<std::unique_ptr<Rule>> rules_;
  bool yields_bytes_ = false;
};

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_PRE_TOKENIZER_H_
