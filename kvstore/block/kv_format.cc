#include "kvstore/block/kv_format.h"

#include "common/limits.h"

namespace reprise::kv {

size_t ElementBytes(ElementCodec codec) {
  switch (codec) {
    case ElementCodec::kF32:
      return 4;
    case ElementCodec::kBF16:
    case ElementCodec::kF16:
      return 2;
    case ElementCodec::kOpaque8:
      return 1;
  }
  return 0;
}

absl::string_view CodecName(ElementCodec codec) {
  static constexpr absl::string_view kNames[] = {"f32", "bf16", "f16", "opaque8"};
  return kNames[static_cast<size_t>(codec)];
}

StatusOr<ElementCodec> ParseCodec(absl::string_view name) {
  for (const ElementCodec codec :
       {ElementCodec::kF32, ElementCodec::kBF16, ElementCodec::kF16, ElementCodec::kOpaque8}) {
    if (CodecName(codec) == name) return codec;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("KV codec \"", name, "\" is not one of f32, bf16, f16, opaque8"));
}

size_t KvFormat::row_elements() const {
  size_t elements = 0;
  for (const RowField& field : fields) elements += size_t{field.heads} * field.elements;
  return elements;
}

size_t KvFormat::segment_bytes() const {
  return row_elements() * block_tokens * ElementBytes(codec);
}

std::string KvFormat::CanonicalText() const {
  std::string text = absl::StrCat("reprise.kv.v1 model=", HexEncode(model_fingerprint),
                                  " class=", HexEncode(numerics_class), " layers=", layers,
                                  " block=", block_tokens, " codec=", CodecName(codec));
  for (const RowField& f : fields) {
    absl::StrAppend(&text, " field=", f.name, ":", f.heads, "x", f.elements,
                    f.position_bearing ? ":rotated" : "");
  }
  for (const uint32_t source : layer_source) absl::StrAppend(&text, " source=", source);
  if (!selection.empty()) absl::StrAppend(&text, " selection=", selection);
  return text;
}

Digest256 KvFormat::Digest() const {
  Sha256 hash;
  hash.Update(absl::string_view(CanonicalText()));
  return hash.Finish();
}

Status ValidateFormat(const KvFormat& format) {
  if (format.layers == 0 || format.layers > limits::kLayersMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "KV format has ", format.layers, " layers, the limit is 1 to ", limits::kLayersMax));
  }
  if (format.block_tokens == 0 || format.block_tokens > limits::kBlockTokensMax) {
    return absl::InvalidArgumentError(absl::StrCat("KV format has blocks of ", format.block_tokens,
                                                   " tokens, the limit is 1 to ",
                                                   limits::kBlockTokensMax));
  }
  if (format.row_elements() == 0 || format.segment_bytes() > limits::kStreamMessageBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV format has segments of ", format.segment_bytes(),
                     " bytes, the limit is 1 to ", limits::kStreamMessageBytesMax));
  }
  return absl::OkStatus();
}

}  // namespace reprise::kv
