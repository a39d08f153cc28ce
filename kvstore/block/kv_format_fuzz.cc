#include <cstdint>
#include <cstdlib>

#include "kvstore/block/kv_format.h"

// Whatever is read is valid and writes itself back unchanged.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto format = reprise::kv::ParseFormat(text);
  if (!format.ok()) return 0;
  if (!reprise::kv::ValidateFormat(*format).ok() || format->CanonicalText() != text) std::abort();
  return 0;
}
