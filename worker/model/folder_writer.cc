#include "worker/model/folder_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_join.h"
#include "common/bytes.h"
#include "common/json.h"

namespace reprise::worker {
namespace {

Status CannotWrite(const std::string& path, int error) {
  return absl::ResourceExhaustedError(
      absl::StrCat(path, " cannot be written: ", std::strerror(error)));
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

Status CheckRoom(const std::string& dir, uint64_t bytes) {
  std::error_code error;
  std::filesystem::path there = std::filesystem::absolute(dir, error);
  while (!std::filesystem::exists(there, error) && there.has_relative_path()) {
    there = there.parent_path();
  }
  const std::filesystem::space_info space = std::filesystem::space(there, error);
  if (error) {
    return absl::PermissionDeniedError(absl::StrCat(there.string(), ": ", error.message()));
  }
  if (space.available >= bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(dir, " would take ", bytes >> 20, " MiB, ",
                                                   there.string(), " has ", space.available >> 20,
                                                   " MiB free"));
}

Status WriteModelFile(const std::string& dir, absl::string_view name, absl::string_view content) {
  const std::string path = absl::StrCat(dir, "/", name);
  std::ofstream out(path, std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
  return out ? absl::OkStatus() : CannotWrite(path, errno);
}

uint64_t TensorEntry::bytes() const {
  uint64_t elements = 1;
  for (const uint64_t dim : shape) elements *= dim;
  return elements * static_cast<uint64_t>(TensorTypeBits(type)) / 8;
}

TensorFileWriter::TensorFileWriter(const std::string& path, std::span<const TensorEntry> tensors)
    : path_(path), file_(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (file_ < 0) error_ = errno;
  std::string header = HeaderOf(tensors);
  std::string text;
  ByteWriter(text).U64(header.size());
  text += header;
  begin_ = text.size();
  Write(0, std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  for (const TensorEntry& tensor : tensors) total_bytes_ += tensor.bytes();
}

TensorFileWriter::~TensorFileWriter() {
  if (file_ >= 0) close(file_);
}

void TensorFileWriter::Append(std::span<const uint8_t> bytes) {
  WriteAt(appended_bytes_, bytes);
  appended_bytes_ += bytes.size();
}

void TensorFileWriter::WriteAt(uint64_t offset, std::span<const uint8_t> bytes) {
  if (offset > total_bytes_ || bytes.size() > total_bytes_ - offset) {
    too_many_ = true;
    return;
  }
  Write(begin_ + offset, bytes);
  written_bytes_ += bytes.size();
}

void TensorFileWriter::Write(uint64_t at, std::span<const uint8_t> bytes) {
  while (!bytes.empty() && ok()) {
    const ssize_t n = pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      int none = 0;
      error_.compare_exchange_strong(none, n < 0 ? errno : ENOSPC);
      return;
    }
    bytes = bytes.subspan(static_cast<size_t>(n));
    at += static_cast<uint64_t>(n);
  }
}

Status TensorFileWriter::Close() {
  // Some file systems say only now that there was no room.
  if (file_ >= 0 && close(file_) != 0 && ok()) error_ = errno;
  file_ = -1;
  if (!ok()) return CannotWrite(path_, error_);
  if (!too_many_ && written_bytes_ == total_bytes_) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(path_, ": the tensors' bytes are ",
                                          too_many_ ? "more" : "fewer", " than the header says"));
}

}  // namespace reprise::worker
