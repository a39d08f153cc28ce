// Blocks whose every element follows from its token, position, layer, field, head and place, so
// that whoever reads them, in whatever part, page size or codec, can tell a wrong one. The values
// are exact in every codec, so conversion changes none. For tests and benchmarks. Pure; any thread.
#ifndef REPRISE_KVSTORE_STREAM_VERIFIABLE_BLOCKS_H_
#define REPRISE_KVSTORE_STREAM_VERIFIABLE_BLOCKS_H_

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "kvstore/block/kv_convert.h"
#include "kvstore/block/kv_part.h"

namespace reprise::kv {

inline uint64_t VerifiableMix(uint64_t state, uint64_t word) {
  state = (state ^ word) * 0x9E3779B97F4A7C15u;
  return state ^ state >> 29;
}

// The first block's first token stands at `first_position`; `block` is laid out as the part.
inline void WriteVerifiableBlock(const KvFormat& format, const KvPart& part,
                                 std::span<const int32_t> tokens, int64_t first_position,
                                 uint8_t* block) {
  const bool cut = PartHeads(format) > 1;
  const size_t step = ElementBytes(format.codec);
  for (uint32_t layer = part.layers.begin; layer < part.layers.end; ++layer) {
    for (size_t field = 0; field < format.fields.size(); ++field) {
      const RowField& shape = format.fields[field];
      const Range heads = cut ? part.heads : Range{0, shape.heads};
      for (uint32_t head = heads.begin; head < heads.end; ++head) {
        for (uint32_t row = 0; row < format.block_tokens; ++row) {
          uint64_t state = VerifiableMix(1, static_cast<uint64_t>(tokens[row]));
          state = VerifiableMix(state, static_cast<uint64_t>(first_position) + row);
          state = VerifiableMix(state, uint64_t{layer} << 40 | uint64_t{field} << 32 | head);
          for (uint32_t element = 0; element < shape.elements; ++element, block += step) {
            state = VerifiableMix(state, element);
            const auto byte = static_cast<uint8_t>(state >> 56);
            if (format.codec == ElementCodec::kOpaque8) {
              *block = byte;
              continue;
            }
            const float value = static_cast<float>(static_cast<int8_t>(byte)) / 16;
            uint8_t bits[4];
            std::memcpy(bits, &value, 4);
            ConvertElements(ElementCodec::kF32, bits, format.codec, block, 1);
          }
        }
      }
    }
  }
}

inline std::vector<int32_t> VerifiableTokens(size_t n) {
  std::vector<int32_t> tokens(n);
  uint64_t state = 7;
  for (size_t i = 0; i < n; ++i) {
    state = VerifiableMix(state, i);
    tokens[i] = static_cast<int32_t>(state >> 48);
  }
  return tokens;
}

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_VERIFIABLE_BLOCKS_H_
