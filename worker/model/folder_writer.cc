#include "worker/model/folder_writer.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_join.h"
#include "common/bytes.h"
#include "common/json.h"

namespace reprise::worker {
namespace {

Status CannotWrite(const std::string& path) {
  return absl::ResourceExhaustedError(
      absl::StrCat(path, " cannot be written: ", std::strerror(errno)));
}

std::string HeaderOf(std::span<const TensorEntry> tensors) {
  JsonWriter header;
  header.Raw("__metadata__", R"({"format": "pt"})");
  uint64_t offset = 0;
  for (const TensorEntry& tensor : tensors) {
    const uint64_t end = offset + tensor.bytes();
    header.Raw(tensor.name,
               JsonWriter()
                   .Field("dtype", TensorTypeName(tensor.type))
                   .Raw("shape", absl::StrCat("[", absl::StrJoin(tensor.shape, ", "), "]"))
                   .Raw("data_offsets", absl::StrCat("[", offset, ", ", end, "]"))
                   .Take());
    offset = end;
  }
  std::string text = header.Take();
  text.resize((sizeof(uint64_t) + text.size() + 63) / 64 * 64 - sizeof(uint64_t), ' ');
  return text;
}

}  // namespace

Status PrepareModelFolder(const std::string& dir) {
  if (dir.empty()) return absl::InvalidArgumentError("the model's folder has no name");
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) {
    return absl::PermissionDeniedError(absl::StrCat(dir, " cannot be made: ", error.message()));
  }
  const bool empty = std::filesystem::is_empty(dir, error);
  if (!error && empty) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(dir, " exists and is not an empty folder"));
}

Status WriteModelFile(const std::string& dir, absl::string_view name, absl::string_view content) {
  const std::string path = absl::StrCat(dir, "/", name);
  std::ofstream out(path, std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
  return out ? absl::OkStatus() : CannotWrite(path);
}

uint64_t TensorEntry::bytes() const {
  uint64_t elements = 1;
  for (const uint64_t dim : shape) elements *= dim;
  return elements * static_cast<uint64_t>(TensorTypeBits(type)) / 8;
}

TensorFileWriter::TensorFileWriter(const std::string& path, std::span<const TensorEntry> tensors)
    : path_(path), out_(path, std::ios::binary) {
  const std::string header = HeaderOf(tensors);
  std::string prefix;
  ByteWriter(prefix).U64(header.size());
  out_ << prefix << header;
  for (const TensorEntry& tensor : tensors) missing_bytes_ += tensor.bytes();
}

void TensorFileWriter::Append(std::span<const uint8_t> bytes) {
  too_many_ |= bytes.size() > missing_bytes_;
  if (too_many_) return;
  missing_bytes_ -= bytes.size();
  out_.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

Status TensorFileWriter::Close() {
  out_.close();
  if (!out_) return CannotWrite(path_);
  if (!too_many_ && missing_bytes_ == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(path_, ": the tensors' bytes are ",
                                          too_many_ ? "more" : "fewer", " than the header says"));
}

}  // namespace reprise::worker
