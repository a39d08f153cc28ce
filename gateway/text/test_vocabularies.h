// Tokenizer files for tests: small ones made here, and those equivalent to vocabularies that come
// as GGUF, which the product itself does not read. Pure functions; any thread.
#ifndef REPRISE_GATEWAY_TEXT_TEST_VOCABULARIES_H_
#define REPRISE_GATEWAY_TEXT_TEST_VOCABULARIES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise {

// The tokenizer metadata of a GGUF file (version 3, little-endian).
struct GgufVocab {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;  // 1 normal, 3 control, 4 user-defined
  std::vector<std::string> merges;
};
StatusOr<GgufVocab> ReadGgufVocab(absl::string_view file);

// A tokenizer.json with this byte-level vocabulary and pre-tokenizer (JSON).
std::string ByteLevelJson(const GgufVocab& vocab, absl::string_view pre_tokenizer);

// {"type": "Split", ...} with an isolating regular expression.
std::string SplitJson(absl::string_view regex);

// A byte-level vocabulary: 256 bytes (ids 0..255), "he", "ll", "hell", " t" and "hello" (256..260),
// and the special tokens <|bos|> (261) and <|end|> (262). The template adds <|bos|>.
std::string SmallByteLevelJson();

// A SentencePiece-style one with byte fallback: <unk> 0, <s> 1, </s> 2, <0x00>.. 3..258, then
// letters and merges. The template adds <s>.
std::string SmallSentencePieceJson();

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_TEST_VOCABULARIES_H_
