// Any ids: text given out token by token is the text of all tokens, and always whole characters.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "gateway/text/detokenizer.h"
#include "gateway/text/test_vocabularies.h"
#include "gateway/text/tokenizer.h"
#include "gateway/text/utf8.h"

namespace {

void Check(const reprise::Tokenizer& tokenizer, const std::vector<int32_t>& ids,
           bool skip_special) {
  reprise::Detokenizer detokenizer(tokenizer, {.skip_special = skip_special});
  std::string joined;
  for (const int32_t id : ids) {
    joined += detokenizer.Push(id);
    if (reprise::FindInvalidUtf8(joined)) std::abort();
  }
  joined += detokenizer.Flush();
  if (joined != tokenizer.Decode(ids, skip_special)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto* const byte_level =
      reprise::Tokenizer::FromJson(reprise::SmallByteLevelJson())->release();
  static const auto* const sentence_piece =
      reprise::Tokenizer::FromJson(reprise::SmallSentencePieceJson())->release();
  if (size == 0) return 0;
  std::vector<int32_t> ids;
  for (size_t i = 1; i + 1 < size; i += 2) ids.push_back((data[i] | data[i + 1] << 8) % 300 - 2);
  Check(data[0] & 1 ? *byte_level : *sentence_piece, ids, (data[0] & 2) != 0);
  return 0;
}
