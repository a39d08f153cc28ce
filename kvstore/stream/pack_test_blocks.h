// Formats and bytes that the tests of packing share. Header-only; any thread.
#ifndef REPRISE_KVSTORE_STREAM_PACK_TEST_BLOCKS_H_
#define REPRISE_KVSTORE_STREAM_PACK_TEST_BLOCKS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvstore/block/kv_format.h"

namespace reprise::kv {

// Two fields of several heads: a row lies in pieces.
inline KvFormat GqaFormat() {
  KvFormat format;
  format.fields = {{.name = "k", .heads = 3, .elements = 8, .position_bearing = true},
                   {.name = "v", .heads = 3, .elements = 8}};
  format.layers = 2;
  format.block_tokens = 16;
  format.codec = ElementCodec::kBF16;
  return format;
}

// Two fields of different width and one head.
inline KvFormat MlaFormat() {
  KvFormat format;
  format.fields = {{.name = "c_kv", .heads = 1, .elements = 512},
                   {.name = "k_rope", .heads = 1, .elements = 64, .position_bearing = true}};
  format.layers = 1;
  format.block_tokens = 64;
  format.codec = ElementCodec::kBF16;
  return format;
}

inline std::vector<uint8_t> Numbered(size_t n) {
  std::vector<uint8_t> bytes(n);
  uint32_t state = 1;
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>((state = state * 1664525u + 7) >> 24);
  return bytes;
}

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_PACK_TEST_BLOCKS_H_
