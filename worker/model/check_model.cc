#include "worker/model/check_model.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>

#include "absl/strings/str_format.h"
#include "common/json.h"
#include "common/limits.h"
#include "worker/model/block_scaled.h"
#include "worker/model/model_folder.h"

namespace reprise::worker {
namespace {

// Index of the first element whose exponent bits are all ones.
template <typename Word>
std::optional<size_t> FindNotFinite(std::span<const uint8_t> bytes, Word exponent) {
  for (size_t at = 0; at + sizeof(Word) <= bytes.size(); at += sizeof(Word)) {
    Word word;
    std::memcpy(&word, bytes.data() + at, sizeof(Word));
    if ((word & exponent) == exponent) return at / sizeof(Word);
  }
  return std::nullopt;
}

std::optional<size_t> FindNotFinite(const TensorView& tensor) {
  switch (tensor.type) {
    case TensorType::kBF16:
      return FindNotFinite<uint16_t>(tensor.bytes, 0x7F80);
    case TensorType::kF16:
      return FindNotFinite<uint16_t>(tensor.bytes, 0x7C00);
    case TensorType::kF8E4M3:
      return std::nullopt;  // ScanValues looks at those with their scales
    default:                // a folder holds no other type
      return FindNotFinite<uint32_t>(tensor.bytes, 0x7F800000);
  }
}

Status ScanValues(const ModelFolder& folder) {
  for (const auto& [name, tensor] : folder.tensors()) {
    if (tensor.type == TensorType::kF8E4M3) {
      const Status status = CheckBlockScaledValues(tensor, folder.tensor(ScalesName(name)),
                                                   *folder.config().block_scales);
      if (!status.ok()) {
        return Annotate(status, absl::StrCat(folder.dir(), ": tensor ", JsonQuote(name)));
      }
      continue;
    }
    const std::optional<size_t> at = FindNotFinite(tensor);
    if (at.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(folder.dir(), ": tensor ", JsonQuote(name),
                                                     ": element ", *at, " is not finite"));
    }
  }
  return folder.CheckUnchanged();
}

Status CheckTokenizer(const std::string& dir) {
  const std::string path = dir + "/tokenizer.json";
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error) return absl::NotFoundError(absl::StrCat(path, ": ", error.message()));
  if (bytes > limits::kTokenizerBytesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " is ", bytes, " bytes, the limit is ", limits::kTokenizerBytesMax));
  }
  return absl::OkStatus();
}

std::string AttentionName(const ModelConfig& c) {
  if (c.latent) return "multi-head latent";
  if (c.kv_heads == c.heads) return "multi-head";
  return c.kv_heads == 1 ? "multi-query" : "grouped-query";
}

std::string CacheText(const ModelConfig& c) {
  if (!c.latent) return absl::StrCat(c.kv_heads, " key-value heads of ", c.head_dim);
  return absl::StrCat("a latent of ", c.latent->kv_rank, " and a rotated key of ",
                      c.latent->rope_dim);
}

std::string MixtureText(const ModelConfig& c) {
  if (!c.mixture) return "";
  const ExpertMixture& m = *c.mixture;
  return absl::StrCat(
      "  experts       ", m.experts, " of ffn ", m.intermediate, ", ", m.per_token, " a token",
      m.shared_intermediate > 0 ? absl::StrCat(", beside a shared one of ", m.shared_intermediate)
                                : "",
      ", in ", std::count(m.layers.begin(), m.layers.end(), true), " layers\n");
}

}  // namespace

StatusOr<ModelReport> CheckModel(const std::string& dir, const CheckModelOptions& options) {
  ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(dir));
  RETURN_IF_ERROR(LoadGenerationDefaults(dir, folder.config()).status());
  RETURN_IF_ERROR(CheckTokenizer(dir));
  if (options.scan_values) RETURN_IF_ERROR(ScanValues(folder));

  ModelReport report;
  report.dir = dir;
  report.config = folder.config();
  report.parameters = report.config.parameters();
  report.tensors = static_cast<int64_t>(folder.tensors().size());
  report.files = static_cast<int64_t>(folder.files().size());
  for (const auto& [name, tensor] : folder.tensors()) {
    report.weight_bytes += tensor.bytes.size();
    ++report.tensors_by_type[std::string(TensorTypeName(tensor.type))];
  }
  const ModelConfig& c = report.config;
  const int64_t row =
      c.latent ? c.latent->kv_rank + c.latent->rope_dim : 2 * c.kv_heads * c.head_dim;
  report.kv_bytes_per_token = c.layers * row * 2;
  report.values_scanned = options.scan_values;
  return report;
}

std::string ModelReport::ToString() const {
  const ModelConfig& c = config;
  std::string types;
  for (const auto& [type, count] : tensors_by_type) {
    absl::StrAppend(&types, types.empty() ? "" : ", ", count, " ", type);
  }
  return absl::StrFormat(
      "%s\n"
      "  architecture  %s, %d layers, hidden %d, ffn %d, %s embeddings\n"
      "  attention     %s, %d query heads, %s\n"
      "%s"
      "  parameters    %d\n"
      "  weights       %d bytes in %d file(s), %d tensors (%s), values %s\n"
      "  vocabulary    %d tokens\n"
      "  context       %d tokens\n"
      "  KV cache      %d bytes per token in bf16, %d for the whole context\n",
      dir, FamilyName(c.family), c.layers, c.hidden, c.intermediate,
      c.tied_embeddings ? "tied" : "untied", AttentionName(c), c.heads, CacheText(c),
      MixtureText(c), parameters, weight_bytes, files, tensors, types,
      values_scanned ? "all finite" : "not scanned", c.vocab, c.context, kv_bytes_per_token,
      kv_bytes_per_token * c.context);
}

}  // namespace reprise::worker
