// Text of a growing sequence of tokens, piece by piece, never half a character. One per branch of a
// request; belongs to its holder.
//
// Invariants:
// 1. What Push(token i) returns is a pure function of the options and tokens 0..i, so a detokenizer
//    is rebuilt anywhere by pushing the tokens again.
// 2. All that was returned, with Flush() at the end, is Tokenizer::Decode() of the same tokens
//    (when at_text_start), for every number of tokens.
#ifndef REPRISE_GATEWAY_TEXT_DETOKENIZER_H_
#define REPRISE_GATEWAY_TEXT_DETOKENIZER_H_

#include <cstdint>
#include <string>

#include "gateway/text/decoder.h"
#include "gateway/text/tokenizer.h"

namespace reprise {

class Detokenizer {
 public:
  struct Options {
    bool skip_special = true;
    // False when the tokens continue a prompt: their first space is then part of the text, where
    // SentencePiece vocabularies drop it at the start of a whole text.
    bool at_text_start = true;
  };

  // `tokenizer` must outlive this.
  Detokenizer(const Tokenizer& tokenizer, const Options& options)
      : tokenizer_(tokenizer),
        skip_special_(options.skip_special),
        stream_(tokenizer.decoder(), options.at_text_start) {}

  // The text this token completes, often empty; ids that name no token give nothing.
  std::string Push(int32_t id);

  // What is still held: an unfinished character becomes U+FFFD. Nothing may be pushed after it.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_;
  Decoder::Stream stream_;
};

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_DETOKENIZER_H_
