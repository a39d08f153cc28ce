// Drives a ByteReader by a script taken from the input: the first half names operations, the second
// half is what they read. Whatever the script, reads stay inside and the error sticks.
#include <cstdlib>

#include "common/bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using reprise::ByteReader;
  const std::span<const uint8_t> script(data, size / 2);
  ByteReader reader(std::span<const uint8_t>(data + size / 2, size - size / 2));
  uint64_t sum = 0;
  for (const uint8_t op : script) {
    const bool was_ok = reader.ok();
    const size_t before = reader.position();
    switch (op % 8) {
      case 0:
        sum += reader.U8("u8");
        break;
      case 1:
        sum += reader.U16("u16");
        break;
      case 2:
        sum += reader.U32("u32");
        break;
      case 3:
        sum += reader.U64("u64");
        break;
      case 4:
        for (const uint8_t byte : reader.Bytes("bytes", reader.U64("length"))) sum += byte;
        break;
      case 5:
        for (const uint8_t byte : reader.Prefixed("prefixed", op)) sum += byte;
        break;
      case 6:
        for (uint32_t n = reader.Count("count", UINT32_MAX, 1 + op / 8); n > 0; --n) {
          for (const uint8_t byte : reader.Bytes("element", 1 + op / 8)) sum += byte;
          if (!reader.ok()) std::abort();  // Count promised that all elements are there
        }
        break;
      default:
        sum += reader.F32("f32") > 0 ? 1 : 0;
        break;
    }
    if (!was_ok && (reader.ok() || reader.position() != before)) std::abort();
  }
  const bool ended = reader.remaining() == 0 && reader.ok();
  if (reader.Finish().ok() != ended) std::abort();
  return static_cast<int>(sum & 0);
}
