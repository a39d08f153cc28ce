// Parses arbitrary bytes as a safetensors file and touches every byte of every tensor found, so an
// out-of-range view is a sanitizer report.
#include <cstddef>
#include <cstdint>

#include "worker/model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto header = reprise::worker::ParseSafetensors("input", {data, size});
  if (!header.ok()) return 0;
  size_t total = 0;
  volatile uint8_t sink = 0;
  for (const auto& [name, tensor] : header->tensors) {
    for (const uint8_t byte : tensor.bytes) sink = sink ^ byte;
    total += tensor.bytes.size();
  }
  if (total > size) __builtin_trap();  // views overlap
  return 0;
}
