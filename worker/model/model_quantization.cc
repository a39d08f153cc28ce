// The "quantization_config" of a config.json: FP8 weights scaled by blocks, and nothing else.
#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "worker/model/config_reader.h"

namespace reprise::worker {
namespace {

constexpr absl::string_view kKey = "quantization_config";

// A value that must be this one where it is there.
Status ReadFixed(const JsonValue& object, absl::string_view key, absl::string_view fallback,
                 absl::string_view wanted) {
  ASSIGN_OR_RETURN(const std::string found, GetString(object, key, std::string(fallback)));
  if (found == wanted) return absl::OkStatus();
  return Unsupported(absl::StrCat(kKey, ".", key), JsonQuote(found), JsonQuote(wanted));
}

StatusOr<BlockScales> ReadBlocks(const JsonValue& object) {
  const JsonValue* size = FindMember(object, "weight_block_size");
  if (size == nullptr || !size->IsArray() || size->Size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", kKey, ".weight_block_size\" must be an array of two integers"));
  }
  for (const JsonValue& n : size->GetArray()) {
    if (n.IsInt64() && n.GetInt64() >= 1 && n.GetInt64() <= limits::kScaleBlockMax) continue;
    const std::string found = n.IsInt64() ? absl::StrCat(n.GetInt64()) : "not an integer";
    return absl::InvalidArgumentError(absl::StrCat("\"", kKey, ".weight_block_size\" holds ", found,
                                                   ", the range is 1 to ", limits::kScaleBlockMax));
  }
  return BlockScales{(*size)[0].GetInt64(), (*size)[1].GetInt64()};
}

}  // namespace

// Activations are not quantized here, whatever the checkpoint's own kernels do: "dynamic" means
// that no scale of theirs is stored.
Status ReadQuantization(const JsonValue& object, ModelConfig* config) {
  const JsonValue* quantization = FindMember(object, kKey);
  if (quantization == nullptr || quantization->IsNull()) return absl::OkStatus();
  if (!quantization->IsObject()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", kKey, "\" must be null or an object"));
  }
  RETURN_IF_ERROR(ReadFixed(*quantization, "quant_method", "", "fp8"));
  RETURN_IF_ERROR(ReadFixed(*quantization, "fmt", "e4m3", "e4m3"));
  RETURN_IF_ERROR(ReadFixed(*quantization, "activation_scheme", "dynamic", "dynamic"));
  ASSIGN_OR_RETURN(config->block_scales, ReadBlocks(*quantization));
  return absl::OkStatus();
}

}  // namespace reprise::worker
