#include "kvstore/block/kv_convert.h"

#include <cstring>

#include "common/half.h"

namespace reprise::kv {
namespace {

constexpr size_t kNamedBytesMax = 400;  // of each format in a message, which has 1,024

bool IsFloat(ElementCodec codec) {
  return codec != ElementCodec::kOpaque8 && codec != ElementCodec::kFp8Mla;
}

float Load(ElementCodec codec, const uint8_t* from) {
  if (codec == ElementCodec::kF32) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return codec == ElementCodec::kBF16 ? Bf16ToF32(bits) : F16ToF32(bits);
}

void Store(ElementCodec codec, float value, uint8_t* to) {
  if (codec == ElementCodec::kF32) {
    std::memcpy(to, &value, sizeof value);
    return;
  }
  const uint16_t bits = codec == ElementCodec::kBF16 ? F32ToBf16(value) : F32ToF16(value);
  std::memcpy(to, &bits, sizeof bits);
}

}  // namespace

bool Convertible(ElementCodec from, ElementCodec to) {
  return from == to || (IsFloat(from) && IsFloat(to));
}

void ConvertElements(ElementCodec from, const uint8_t* src, ElementCodec to, uint8_t* dst,
                     size_t n) {
  const size_t step = ElementBytes(from);
  if (from == to) {
    std::memcpy(dst, src, n * step);
    return;
  }
  const size_t out = ElementBytes(to);
  for (size_t i = 0; i < n; ++i) Store(to, Load(from, src + i * step), dst + i * out);
}

Status FormatsDiffer(absl::string_view why, absl::string_view ours, absl::string_view theirs) {
  return absl::FailedPreconditionError(absl::StrCat("KV formats differ: ", why, "; ",
                                                    ours.substr(0, kNamedBytesMax), " here, ",
                                                    theirs.substr(0, kNamedBytesMax), " there"));
}

Status CheckExchange(const KvFormat& ours, const KvFormat& theirs, bool convert_codecs) {
  const std::string here = ours.CanonicalText();
  const std::string there = theirs.CanonicalText();
  KvFormat alike = theirs;
  alike.block_tokens = ours.block_tokens;
  alike.codec = ours.codec;
  if (alike.CanonicalText() != here) {
    return FormatsDiffer("no conversion between them is registered", here, there);
  }
  const std::string codecs =
      absl::StrCat("from ", CodecName(theirs.codec), " to ", CodecName(ours.codec));
  if (!Convertible(theirs.codec, ours.codec)) {
    return FormatsDiffer(absl::StrCat("no conversion ", codecs, " is registered"), here, there);
  }
  if (theirs.codec != ours.codec && !convert_codecs) {
    return FormatsDiffer(absl::StrCat("the conversion ", codecs, " is not allowed here"), here,
                         there);
  }
  return absl::OkStatus();
}

void ConvertRows(const KvFormat& from, const uint8_t* source, const KvFormat& to,
                 uint8_t* destination, const RowMove& move) {
  const size_t from_bytes = ElementBytes(from.codec);
  const size_t to_bytes = ElementBytes(to.codec);
  for (const RowField& field : from.fields) {
    for (uint32_t head = 0; head < field.heads; ++head) {
      ConvertElements(from.codec, source + size_t{move.from_row} * field.elements * from_bytes,
                      to.codec, destination + size_t{move.to_row} * field.elements * to_bytes,
                      size_t{move.rows} * field.elements);
      source += size_t{from.block_tokens} * field.elements * from_bytes;
      destination += size_t{to.block_tokens} * field.elements * to_bytes;
    }
  }
}

}  // namespace reprise::kv
