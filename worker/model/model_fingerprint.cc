#include "worker/model/model_fingerprint.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/crc32c.h"

namespace reprise::worker {

ModelFingerprint::ModelFingerprint(const ModelFolder& folder)
    : config_(folder.config().CanonicalText()) {
  for (const auto& [name, tensor] : folder.tensors()) {
    tensors_[name] = {.type = tensor.type, .shape = tensor.shape, .sum = {}};
  }
}

void ModelFingerprint::Read(const ModelFolder& folder, const std::string& name) {
  std::optional<uint32_t>& sum = tensors_.at(name).sum;
  if (sum.has_value()) return;
  const std::span<const uint8_t> bytes = folder.tensor(name).bytes;
  sum = Crc32c(bytes.data(), bytes.size());
}

void ModelFingerprint::ReadAll(const ModelFolder& folder) {
  for (const auto& [name, tensor] : tensors_) Read(folder, name);
}

void ModelFingerprint::Add(const ModelFingerprint& other) {
  for (const auto& [name, tensor] : other.tensors_) {
    if (tensor.sum.has_value()) tensors_.at(name).sum = tensor.sum;
  }
}

bool ModelFingerprint::complete() const {
  return std::all_of(tensors_.begin(), tensors_.end(),
                     [](const auto& tensor) { return tensor.second.sum.has_value(); });
}

std::vector<uint32_t> ModelFingerprint::Sums() const {
  std::vector<uint32_t> sums;
  for (const auto& [name, tensor] : tensors_) sums.push_back(*tensor.sum);
  return sums;
}

Digest256 ModelFingerprint::Digest() const {
  Sha256 hash;
  hash.Update("reprise.model.v1").UpdateU64le(config_.size()).Update(config_);
  for (const auto& [name, tensor] : tensors_) {
    hash.UpdateU64le(name.size()).Update(name);
    hash.UpdateU64le(TensorTypeName(tensor.type).size()).Update(TensorTypeName(tensor.type));
    hash.UpdateU64le(tensor.shape.size());
    for (const uint64_t dim : tensor.shape) hash.UpdateU64le(dim);
    hash.UpdateU32le(*tensor.sum);
  }
  return hash.Finish();
}

StatusOr<Digest256> ModelFingerprint::DigestWith(std::span<const uint32_t> sums) const {
  if (sums.size() != tensors_.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the model here has ", tensors_.size(),
                                                   " tensors, the other has ", sums.size()));
  }
  ModelFingerprint whole = *this;
  auto sum = sums.begin();
  for (auto& [name, tensor] : whole.tensors_) {
    if (tensor.sum.value_or(*sum) != *sum) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "tensor \"%s\" has the checksum %08x here, %08x there", name, *tensor.sum, *sum));
    }
    tensor.sum = *sum++;
  }
  return whole.Digest();
}

}  // namespace reprise::worker
