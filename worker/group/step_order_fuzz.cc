// Whatever decodes must encode to the same bytes.
#include <cstdint>
#include <cstdlib>

#include "common/bytes.h"
#include "worker/group/step_order.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const uint8_t> bytes(data, size);
  const auto header = reprise::worker::DecodeHeader(bytes);
  if (header.ok() && reprise::AsText(bytes) != EncodeHeader(*header)) abort();
  const auto order = reprise::worker::DecodeStep(bytes);
  if (order.ok() && reprise::AsText(bytes) != EncodeStep(*order)) abort();
  return 0;
}
