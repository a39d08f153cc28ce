// The safetensors container, read strictly: 8 bytes of header length, a JSON header naming each
// tensor's type, shape and byte range, then the bytes, which the ranges must tile exactly. Parsing
// works on memory and copies no tensor; SafetensorsFile maps a file and owns the mapping.
//
// Constant after construction; any thread. Views live as long as the bytes they were parsed from.
//
// Invariants of a parsed header:
// 1. Every tensor's bytes lie inside the buffer and are as many as its type and shape need.
// 2. Sorted by offset the tensors touch each other, the first at 0, the last at the buffer's end.
#ifndef REPRISE_WORKER_MODEL_SAFETENSORS_H_
#define REPRISE_WORKER_MODEL_SAFETENSORS_H_

#include <sys/types.h>

#include <cstdint>
#include <ctime>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise::worker {

// Every type the format knows; sub-byte types must fill whole bytes.
enum class TensorType : uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

absl::string_view TensorTypeName(TensorType type);  // as the header spells it: "BF16"
int TensorTypeBits(TensorType type);

struct TensorView {
  TensorType type = TensorType::kF32;
  std::vector<uint64_t> shape;
  std::span<const uint8_t> bytes;  // row-major, little-endian, of any alignment

  uint64_t elements() const;
  std::string ShapeText() const;  // "[2, 3]"
};

struct SafetensorsHeader {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;
};

// `file` is a name for messages. INVALID_ARGUMENT names file, tensor and reason; limits give
// RESOURCE_EXHAUSTED with the limit and the value.
StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view file,
                                             std::span<const uint8_t> bytes);

// A read-only mapping of one file. The size is taken from the open descriptor, so a file that is
// too short is refused here. Hazard: one that somebody truncates while it is mapped raises SIGBUS
// at the next access; readers therefore copy what they need and unmap, and ask CheckUnchanged
// before they trust what they copied.
class SafetensorsFile {
 public:
  static StatusOr<SafetensorsFile> Open(const std::string& path);
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) = delete;
  ~SafetensorsFile();

  const std::string& path() const { return path_; }
  uint64_t file_bytes() const { return mapped_bytes_; }
  const SafetensorsHeader& header() const { return header_; }

  // ABORTED when the file's size or time of change differs from when it was opened.
  Status CheckUnchanged() const;

 private:
  SafetensorsFile() = default;

  std::string path_;
  void* mapping_ = nullptr;
  size_t mapped_bytes_ = 0;
  int fd_ = -1;
  timespec changed_{};
  SafetensorsHeader header_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_SAFETENSORS_H_
