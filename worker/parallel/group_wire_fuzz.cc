// Whatever decodes must encode to the same bytes.
#include <cstdint>
#include <cstdlib>

#include "common/bytes.h"
#include "worker/parallel/group_wire.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using reprise::parallel::wire::Decode;
  const std::span<const uint8_t> bytes(data, size);
  const auto envelope = Decode(bytes);
  if (envelope.ok() && reprise::AsText(bytes) != Encode(*envelope)) abort();
  return 0;
}
