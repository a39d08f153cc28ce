// The registered conversions between KV formats: another page size, and another element codec among
// f32, bf16 and f16. Everything else is refused by name. Pure; any thread.
//
// Invariants:
// 1. Rows of another page size keep every bit. Rows of another codec keep their value only towards
//    f32; otherwise they are rounded once, to the nearest even, with the bits the kernels' own
//    conversion gives (common/half.h). So other pages are always allowed, other codecs only where
//    the operator of both sides allows them: rows rounded after the fact are not always those that
//    a model computes which keeps rounded rows all along.
#ifndef REPRISE_KVSTORE_BLOCK_KV_CONVERT_H_
#define REPRISE_KVSTORE_BLOCK_KV_CONVERT_H_

#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "kvstore/block/kv_format.h"

namespace reprise::kv {

bool Convertible(ElementCodec from, ElementCodec to);

// `n` elements; the pair is Convertible, the ranges do not overlap.
void ConvertElements(ElementCodec from, const uint8_t* src, ElementCodec to, uint8_t* dst,
                     size_t n);

// Whether blocks of `theirs` may be read by who keeps `ours`: equal, or a registered conversion
// away. FAILED_PRECONDITION names what differs and both formats.
Status CheckExchange(const KvFormat& ours, const KvFormat& theirs, bool convert_codecs);
Status FormatsDiffer(absl::string_view why, absl::string_view ours, absl::string_view theirs);

// Rows [from_row, from_row + rows) of a segment of `from` become rows [to_row, ..) of a segment of
// `to`. The formats differ in nothing but page size and codec.
struct RowMove {
  uint32_t from_row = 0;
  uint32_t to_row = 0;
  uint32_t rows = 0;
};
void ConvertRows(const KvFormat& from, const uint8_t* source, const KvFormat& to,
                 uint8_t* destination, const RowMove& move);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_BLOCK_KV_CONVERT_H_
