#include "kvstore/block/kv_convert.h"

#include <bit>
#include <cstring>

namespace reprise::kv {
namespace {

constexpr size_t kNamedBytesMax = 400;  // of each format in a message, which has 1,024

bool IsFloat(ElementCodec codec) { return codec != ElementCodec::kOpaque8; }

float Load(ElementCodec codec, const uint8_t* from) {
  if (codec == ElementCodec::kF32) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return codec == ElementCodec::kBF16 ? F32OfBf16(bits) : F32OfF16(bits);
}

void Store(ElementCodec codec, float value, uint8_t* to) {
  if (codec == ElementCodec::kF32) {
    std::memcpy(to, &value, sizeof value);
    return;
  }
  const uint16_t bits = codec == ElementCodec::kBF16 ? Bf16OfF32(value) : F16OfF32(value);
  std::memcpy(to, &bits, sizeof bits);
}

}  // namespace

bool Convertible(ElementCodec from, ElementCodec to) {
  return from == to || (IsFloat(from) && IsFloat(to));
}

float F32OfBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t Bf16OfF32(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  if ((bits & 0x7F800000u) == 0) return static_cast<uint16_t>((bits >> 16) & 0x8000u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

float F32OfF16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1Fu;
  const uint32_t mantissa = bits & 0x3FFu;
  if (exponent == 31) {
    return std::bit_cast<float>(sign | 0x7F800000u | mantissa << 13 |
                                (mantissa != 0 ? 0x400000u : 0u));
  }
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  // Zeros and denormals: whole multiples of 2^-24, exact in f32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

uint16_t F16OfF32(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  uint32_t half = 0;
  if (magnitude > 0x7F800000u) {
    half = 0x7E00u | ((magnitude >> 13) & 0x1FFu);
  } else if (magnitude >= 0x477FF000u) {  // 65520, the midpoint above the largest f16
    half = 0x7C00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14
    half = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  } else if (magnitude >= 0x33000000u) {  // 2^-25: denormals, rounded to the nearest even
    const uint32_t shift = 126 - (magnitude >> 23);
    const uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
    const uint32_t low = mantissa & ((1u << shift) - 1);
    const uint32_t tie = 1u << (shift - 1);
    half = mantissa >> shift;
    if (low > tie || (low == tie && (half & 1u) != 0)) ++half;
  }
  return static_cast<uint16_t>(sign | half);
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
