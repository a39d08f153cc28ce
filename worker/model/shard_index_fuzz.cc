// Parses arbitrary text as model.safetensors.index.json; no accepted shard name may leave its
// folder.
#include <cstddef>
#include <cstdint>

#include "worker/model/model_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto index = reprise::worker::ParseShardIndex(
      absl::string_view(reinterpret_cast<const char*>(data), size));
  if (!index.ok()) return 0;
  for (const auto& [tensor, shard] : *index) {
    if (shard.empty() || shard.find('/') != std::string::npos || shard[0] == '.') __builtin_trap();
  }
  return 0;
}
