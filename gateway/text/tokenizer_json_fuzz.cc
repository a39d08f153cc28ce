// Any bytes as a tokenizer.json; what loads must encode and decode without harm.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "gateway/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view json(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = reprise::Tokenizer::FromJson(json);
  if (!tokenizer.ok()) return 0;
  const auto ids = (*tokenizer)->Encode("Hello,  w\u00f6rld 42!\n <s>\u2581x \U0001F999 ");
  if (!ids.ok()) return 0;
  for (const int32_t id : *ids) {
    if (!(*tokenizer)->IsToken(id)) std::abort();
  }
  (*tokenizer)->Decode(*ids, /*skip_special=*/true);
  return 0;
}
