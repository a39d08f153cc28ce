#include "worker/model/golden_logits.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/json.h"
#include "common/limits.h"
#include "worker/model/safetensors.h"
#include "worker/model/small_file.h"

namespace reprise::worker {

StatusOr<GoldenLogits> ReadGoldenLogits(const std::string& dir) {
  GoldenLogits golden;
  ASSIGN_OR_RETURN(const std::string text,
                   ReadSmallFile(dir + "/golden.json", limits::kConfigBytesMax));
  ASSIGN_OR_RETURN(const JsonDocument doc, ParseJson(text));
  const JsonValue* tokens = FindMember(doc, "tokens");
  if (tokens == nullptr || !tokens->IsArray()) {
    return absl::InvalidArgumentError(dir + "/golden.json holds no \"tokens\"");
  }
  for (const JsonValue& token : tokens->GetArray()) golden.tokens.push_back(token.GetInt());
  ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(dir + "/golden.safetensors"));
  const auto logits = file.header().tensors.find("logits");
  if (logits == file.header().tensors.end() || logits->second.type != TensorType::kF32) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), " holds no F32 \"logits\""));
  }
  golden.logits.resize(logits->second.elements());
  std::memcpy(golden.logits.data(), logits->second.bytes.data(), logits->second.bytes.size());
  return golden;
}

double RelativeLogitError(std::span<const float> found, std::span<const float> want) {
  if (found.size() != want.size()) return std::numeric_limits<double>::infinity();
  double error = 0;
  double squares = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double distance = std::abs(static_cast<double>(found[i]) - want[i]);
    if (std::isnan(distance)) return std::numeric_limits<double>::infinity();
    error = std::max(error, distance);
    squares += static_cast<double>(want[i]) * want[i];
  }
  return error / std::sqrt(squares / static_cast<double>(want.size()));
}

}  // namespace reprise::worker
