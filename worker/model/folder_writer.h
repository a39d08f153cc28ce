// Writing model folders: small files, and tensors as one safetensors file that never is in memory
// whole. Used by whoever makes a model; one thread per object.
//
// Whoever writes a folder writes config.json last, so that an interrupted one is not taken for a
// model.
#ifndef REPRISE_WORKER_MODEL_FOLDER_WRITER_H_
#define REPRISE_WORKER_MODEL_FOLDER_WRITER_H_

#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "worker/model/safetensors.h"

namespace reprise::worker {

// Makes the folder. INVALID_ARGUMENT without a name, PERMISSION_DENIED when it cannot be made,
// ALREADY_EXISTS when it is there and not empty.
Status PrepareModelFolder(const std::string& dir);

// DIR/NAME with these bytes; RESOURCE_EXHAUSTED when they cannot be written.
Status WriteModelFile(const std::string& dir, absl::string_view name, absl::string_view content);

// A tensor to come.
struct TensorEntry {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<uint64_t> shape;

  uint64_t bytes() const;
};

class TensorFileWriter {
 public:
  // Writes the header; the tensors begin on a cache line.
  TensorFileWriter(const std::string& path, std::span<const TensorEntry> tensors);

  // The next bytes of the tensors in their order, in pieces of any size.
  void Append(std::span<const uint8_t> bytes);
  // False once a write has failed: Close says why.
  bool ok() const { return out_.good(); }
  // RESOURCE_EXHAUSTED when a write failed, INTERNAL when the bytes are not those of the header.
  Status Close();

 private:
  const std::string path_;
  std::ofstream out_;
  uint64_t missing_bytes_ = 0;
  bool too_many_ = false;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_FOLDER_WRITER_H_
