// What tells one model from another, whatever files it is in: SHA-256 over the configuration's
// canonical text and, by name, each needed tensor's name, type, shape and CRC-32C. Whoever reads a
// part of the model has the sums of that part, and takes another's word for the rest. A value; one
// thread.
#ifndef REPRISE_WORKER_MODEL_MODEL_FINGERPRINT_H_
#define REPRISE_WORKER_MODEL_MODEL_FINGERPRINT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/sha256.h"
#include "common/status.h"
#include "worker/model/model_folder.h"

namespace reprise::worker {

class ModelFingerprint {
 public:
  ModelFingerprint() = default;
  // No sum is known yet, and no tensor has been read.
  explicit ModelFingerprint(const ModelFolder& folder);

  // Sums a tensor of that folder, all of it, unless its sum is known.
  void Read(const ModelFolder& folder, const std::string& name);
  void ReadAll(const ModelFolder& folder);
  // Takes over the sums that another fingerprint of the same folder knows.
  void Add(const ModelFingerprint& other);
  bool Knows(const std::string& name) const { return tensors_.at(name).sum.has_value(); }
  bool complete() const;

  // Precondition of both: it is complete. Sums in the order of the tensors' names.
  std::vector<uint32_t> Sums() const;
  Digest256 Digest() const;
  // The digest with another's `sums` of what is not known here. INVALID_ARGUMENT names both counts,
  // or the tensor whose sum is another one here.
  StatusOr<Digest256> DigestWith(std::span<const uint32_t> sums) const;

 private:
  struct Tensor {
    TensorType type = TensorType::kF32;
    std::vector<uint64_t> shape;
    std::optional<uint32_t> sum;
  };

  std::string config_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_MODEL_FINGERPRINT_H_
