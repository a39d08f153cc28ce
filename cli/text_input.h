// A text file as a model's tokens, and what a model's score on it means per byte. For the
// subcommands about model folders.
#ifndef REPRISE_CLI_TEXT_INPUT_H_
#define REPRISE_CLI_TEXT_INPUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/convert/text_score.h"

namespace reprise::cli {

struct TextInput {
  std::vector<int32_t> ids;
  int64_t bytes = 0;  // of all tokens but the first
};

// The first `tokens_max` tokens of the file, by the tokenizer in `model`; special tokens are read
// where the text has them, none is added. Errors name the file.
StatusOr<TextInput> ReadTextInput(const std::string& path, const std::string& model,
                                  int64_t tokens_max);

double BitsPerByte(const convert::TextScore& score, const TextInput& text);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_TEXT_INPUT_H_
