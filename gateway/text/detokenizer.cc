#include "gateway/text/detokenizer.h"

namespace reprise {

std::string Detokenizer::Push(int32_t id) {
  std::string out;
  if (!tokenizer_.IsToken(id) || (skip_special_ && tokenizer_.IsSpecial(id))) return out;
  stream_.Push(id, out);
  return out;
}

std::string Detokenizer::Flush() {
  std::string out;
  stream_.Flush(out);
  return out;
}

}  // namespace reprise
