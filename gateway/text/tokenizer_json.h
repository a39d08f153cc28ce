// Reads Hugging Face tokenizer.json, and the pieces of it that older folders keep in files of their
// own. Everything in a file is either understood or refused by name. Pure functions; any thread.
#ifndef REPRISE_GATEWAY_TEXT_TOKENIZER_JSON_H_
#define REPRISE_GATEWAY_TEXT_TOKENIZER_JSON_H_

#include <vector>

#include "absl/strings/string_view.h"
#include "common/json.h"
#include "common/status.h"
#include "gateway/text/tokenizer.h"

namespace reprise {

// "truncation" and "padding" are not read: they are about batches, which are the server's to make.
StatusOr<TokenizerParts> ParseTokenizerJson(absl::string_view text);

// {"token": id, ...}.
StatusOr<Vocabulary> ParseVocab(const JsonValue& vocab, absl::string_view what);

// "left right".
StatusOr<Bpe::Merge> ParseMergeLine(absl::string_view line, size_t rank);

// The members of an added token but its id; tokenizer_config.json has them under the id.
StatusOr<AddedToken> ParseAddedToken(const JsonValue& value, absl::string_view what, int64_t id);

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_TOKENIZER_JSON_H_
