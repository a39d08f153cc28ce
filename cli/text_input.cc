#include "cli/text_input.h"

#include <algorithm>
#include <cmath>

#include "common/limits.h"
#include "gateway/text/tokenizer.h"
#include "worker/model/small_file.h"

namespace reprise::cli {

StatusOr<TextInput> ReadTextInput(const std::string& path, const std::string& model,
                                  int64_t tokens_max) {
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(model));
  ASSIGN_OR_RETURN(const std::string text,
                   worker::ReadSmallFile(path, limits::kEncodeTextBytesMax));
  auto ids = tokenizer->Encode(text, {.add_special_tokens = false});
  if (!ids.ok()) return Annotate(ids.status(), path);
  TextInput input;
  input.ids = *std::move(ids);
  if (input.ids.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", input.ids.size(), " tokens, 2 are needed at least"));
  }
  input.ids.resize(std::min(input.ids.size(), static_cast<size_t>(tokens_max)));
  for (size_t i = 1; i < input.ids.size(); ++i) {
    input.bytes += static_cast<int64_t>(tokenizer->TokenBytes(input.ids[i]).size());
  }
  return input;
}

double BitsPerByte(const convert::TextScore& score, const TextInput& text) {
  return score.nats / std::log(2.0) / static_cast<double>(std::max<int64_t>(text.bytes, 1));
}

}  // namespace reprise::cli
