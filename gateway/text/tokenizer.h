// Text to token ids and back, exactly as the model's own tokenizer files say (Hugging Face
// formats). Immutable after loading and free of locks; any thread may use one tokenizer at once.
//
// Encoding: added tokens are cut out of the text, what lies between is normalized, split into
// words, and each word merged by BPE; a template adds begin and end tokens. Decoding runs the
// file's decoder over the tokens; Detokenizer does so token by token.
#ifndef REPRISE_GATEWAY_TEXT_TOKENIZER_H_
#define REPRISE_GATEWAY_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "gateway/text/added_tokens.h"
#include "gateway/text/bpe.h"
#include "gateway/text/decoder.h"
#include "gateway/text/normalizer.h"
#include "gateway/text/pre_tokenizer.h"

namespace reprise {

// Where a sequence begins and where generation stops; the model's configuration knows.
struct SequenceIds {
  std::optional<int32_t> bos;
  std::vector<int32_t> eos;
};

struct EncodeOptions {
  bool add_special_tokens = true;  // what the file's template puts around a text
  bool parse_special = true;       // false: "<|im_end|>" in the text is text, not the token
  size_t tokens_max = SIZE_MAX;
};

// What a loader has read from the files.
struct TokenizerParts {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  std::vector<AddedToken> added;
  std::vector<int32_t> prefix;  // of every text with add_special_tokens
  std::vector<int32_t> suffix;
  Decoder decoder;
  SequenceIds ids;
};

class Tokenizer {
 public:
  // A model folder: tokenizer.json, or vocab.json with merges.txt and tokenizer_config.json.
  // Sequence ids come from generation_config.json, config.json and tokenizer_config.json, in this
  // order. NOT_FOUND, INVALID_ARGUMENT or RESOURCE_EXHAUSTED name the file and the reason.
  static StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& folder);

  // The text of a tokenizer.json.
  static StatusOr<std::unique_ptr<Tokenizer>> FromJson(absl::string_view json,
                                                       SequenceIds ids = {});

  static StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerParts parts);

  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // INVALID_ARGUMENT: not UTF-8 (names the byte), text over limits::kEncodeTextBytesMax, more than
  // tokens_max tokens. RESOURCE_EXHAUSTED: the file's own rules blow the text up or backtrack
  // without end.
  StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                        const EncodeOptions& options = {}) const;

  // The text of all tokens together; ids that name no token give nothing.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;

  // The bytes the token adds to text it is not the first of; may be part of a character.
  absl::string_view TokenBytes(int32_t id) const { return decoder_.TokenBytes(id); }

  int32_t vocab_size() const { return static_cast<int32_t>(tokens_.size()); }  // highest id + 1
  bool IsToken(int32_t id) const { return id >= 0 && id < vocab_size() && tokens_[id] != nullptr; }
  bool IsSpecial(int32_t id) const { return added_.IsSpecial(id); }
  std::optional<int32_t> FindToken(absl::string_view token) const;  // by its spelling in the file
  const SequenceIds& sequence_ids() const { return ids_; }
  const Decoder& decoder() const { return decoder_; }

 private:
  explicit Tokenizer(TokenizerParts parts);
  Status Bind(std::vector<AddedToken> added);
  Status CheckIds(const std::vector<int32_t>& ids, absl::string_view what) const;
  Status EncodeText(absl::string_view text, bool at_start, const EncodeOptions& options,
                    std::vector<int32_t>& out) const;
  Status EncodeNormalized(absl::string_view text, bool at_start, const EncodeOptions& options,
                          std::vector<int32_t>& out) const;

  const Normalizer normalizer_;
  const PreTokenizer pre_tokenizer_;
  const Bpe bpe_;
  const std::vector<int32_t> prefix_;
  const std::vector<int32_t> suffix_;
  const SequenceIds ids_;
  AddedTokens added_;
  Decoder decoder_;
  std::vector<const std::string*> tokens_;  // by id, into bpe_ and added_; null: no such token
};

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_TOKENIZER_H_
