#include "kvstore/block/kv_format.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/limits.h"

namespace reprise::kv {
namespace {

constexpr absl::string_view kFormatVersion = "reprise.kv.v1";

std::string FieldText(const RowField& f) {
  return absl::StrCat(f.name, ":", f.heads, "x", f.elements, f.position_bearing ? ":rotated" : "");
}

}  // namespace

size_t ElementBytes(ElementCodec codec) {
  switch (codec) {
    case ElementCodec::kF32:
      return 4;
    case ElementCodec::kBF16:
    case ElementCodec::kF16:
      return 2;
    case ElementCodec::kOpaque8:
    case ElementCodec::kFp8Mla:
      return 1;
  }
  return 0;
}

absl::string_view CodecName(ElementCodec codec) {
  static constexpr absl::string_view kNames[] = {"f32", "bf16", "f16", "opaque8", "fp8_e4m3_mla"};
  return kNames[static_cast<size_t>(codec)];
}

StatusOr<ElementCodec> ParseCodec(absl::string_view name) {
  for (const ElementCodec codec : {ElementCodec::kF32, ElementCodec::kBF16, ElementCodec::kF16,
                                   ElementCodec::kOpaque8, ElementCodec::kFp8Mla}) {
    if (CodecName(codec) == name) return codec;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("KV codec \"", name, "\" is not one of f32, bf16, f16, opaque8, fp8_e4m3_mla"));
}

RowField Fp8MlaField() {
  return {.name = "c_kv+k_rope", .heads = 1, .elements = 656, .position_bearing = true};
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
  std::string text = absl::StrCat(kFormatVersion, " model=", HexEncode(model_fingerprint),
                                  " class=", HexEncode(numerics_class), " layers=", layers,
                                  " block=", block_tokens, " codec=", CodecName(codec));
  for (const RowField& f : fields) absl::StrAppend(&text, " field=", FieldText(f));
  for (const uint32_t source : layer_source) absl::StrAppend(&text, " source=", source);
  if (!selection.empty()) absl::StrAppend(&text, " selection=", selection);
  return text;
}

Digest256 KvFormat::Digest() const {
  Sha256 hash;
  hash.Update(absl::string_view(CanonicalText()));
  return hash.Finish();
}

namespace {

Status CheckFp8Mla(const KvFormat& format) {
  const std::string want = FieldText(Fp8MlaField());
  if (format.fields.size() == 1 && FieldText(format.fields[0]) == want) return absl::OkStatus();
  std::string found;
  for (const RowField& f : format.fields) absl::StrAppend(&found, " ", FieldText(f));
  return absl::InvalidArgumentError(
      absl::StrCat("KV codec ", CodecName(format.codec), " has rows of one field, ", want,
                   " (a latent of 512 and 64 rotated values), the format's are", found));
}

constexpr size_t kFormatTextBytesMax = 64 << 10;
constexpr size_t kRowFieldsMax = 16;
constexpr uint32_t kFieldDimensionMax = 1 << 20;

bool ReadDigest(absl::string_view hex, Digest256* digest) {
  const auto bytes = HexDecode(hex);
  if (!bytes.ok() || bytes->size() != digest->size()) return false;
  std::copy(bytes->begin(), bytes->end(), digest->begin());
  return true;
}

// "k:2x32:rotated"
bool ReadField(absl::string_view text, KvFormat* format) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  if (parts.size() < 2 || parts.size() > 3 || format->fields.size() >= kRowFieldsMax) return false;
  if (parts.size() == 3 && parts[2] != "rotated") return false;
  const std::pair<absl::string_view, absl::string_view> size =
      absl::StrSplit(parts[1], absl::MaxSplits('x', 1));
  RowField field{.name = std::string(parts[0]), .position_bearing = parts.size() == 3};
  if (!absl::SimpleAtoi(size.first, &field.heads) || field.heads > kFieldDimensionMax ||
      !absl::SimpleAtoi(size.second, &field.elements) || field.elements > kFieldDimensionMax) {
    return false;
  }
  format->fields.push_back(std::move(field));
  return true;
}

bool ReadWord(absl::string_view key, absl::string_view value, KvFormat* format) {
  if (key == "model") return ReadDigest(value, &format->model_fingerprint);
  if (key == "class") return ReadDigest(value, &format->numerics_class);
  if (key == "layers") return absl::SimpleAtoi(value, &format->layers);
  if (key == "block") return absl::SimpleAtoi(value, &format->block_tokens);
  if (key == "field") return ReadField(value, format);
  if (key == "selection") {
    format->selection = std::string(value);
    return true;
  }
  if (key == "source") {
    uint32_t source = 0;
    if (!absl::SimpleAtoi(value, &source)) return false;
    format->layer_source.push_back(source);
    return format->layer_source.size() <= limits::kLayersMax;
  }
  if (key != "codec") return false;
  const StatusOr<ElementCodec> codec = ParseCodec(value);
  if (codec.ok()) format->codec = *codec;
  return codec.ok();
}

}  // namespace

StatusOr<KvFormat> ParseFormat(absl::string_view canonical_text) {
  if (canonical_text.size() > kFormatTextBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("a KV format of ", canonical_text.size(),
                                                   " bytes is over the limit of ",
                                                   kFormatTextBytesMax));
  }
  std::vector<absl::string_view> words = absl::StrSplit(canonical_text, ' ');
  if (words[0] != kFormatVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("a KV format starts with \"", kFormatVersion, "\""));
  }
  KvFormat format;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> word =
        absl::StrSplit(words[i], absl::MaxSplits('=', 1));
    if (!ReadWord(word.first, word.second, &format)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "word ", i, " of the KV format is not understood: ", words[i].substr(0, 80)));
    }
  }
  RETURN_IF_ERROR(ValidateFormat(format));
  if (format.CanonicalText() != canonical_text) {
    return absl::InvalidArgumentError("the KV format is not in canonical form");
  }
  return format;
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
  if (format.codec == ElementCodec::kFp8Mla) RETURN_IF_ERROR(CheckFp8Mla(format));
  if (format.row_elements() == 0 || format.segment_bytes() > limits::kStreamMessageBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV format has segments of ", format.segment_bytes(),
                     " bytes, the limit is 1 to ", limits::kStreamMessageBytesMax));
  }
  return absl::OkStatus();
}

}  // namespace reprise::kv
