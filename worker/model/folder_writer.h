// Writing model folders: small files, and tensors as one safetensors file that never is in memory
// whole. Used by whoever makes a model; one thread per object but where said.
//
// Whoever writes a folder writes config.json last, so that an interrupted one is not taken for a
// model.
#ifndef REPRISE_WORKER_MODEL_FOLDER_WRITER_H_
#define REPRISE_WORKER_MODEL_FOLDER_WRITER_H_

#include <atomic>
#include <cstdint>
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

// RESOURCE_EXHAUSTED, with both sizes, when the file system of a folder that there is, or is to be,
// has less than `bytes` for this user.
Status CheckRoom(const std::string& dir, uint64_t bytes);

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
  ~TensorFileWriter();
  TensorFileWriter(const TensorFileWriter&) = delete;
  TensorFileWriter& operator=(const TensorFileWriter&) = delete;

  // The next bytes of the tensors in their order, in pieces of any size.
  void Append(std::span<const uint8_t> bytes);
  // Bytes of the tensors from `offset` on, counted from the first tensor's first. Any thread; every
  // byte is written once, by this or by Append.
  void WriteAt(uint64_t offset, std::span<const uint8_t> bytes);
  // False once a write has failed: Close says why. Any thread.
  bool ok() const { return error_ == 0; }
  // RESOURCE_EXHAUSTED when a write failed, INTERNAL when the bytes are not those of the header.
  Status Close();

 private:
  void Write(uint64_t at, std::span<const uint8_t> bytes);

  const std::string path_;
  int file_ = -1;
  uint64_t begin_ = 0;  // of the tensors in the file
  uint64_t total_bytes_ = 0;
  uint64_t appended_bytes_ = 0;
  std::atomic<uint64_t> written_bytes_{0};
  std::atomic<int> error_{0};  // errno of the first write that failed
  std::atomic<bool> too_many_{false};
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_FOLDER_WRITER_H_
