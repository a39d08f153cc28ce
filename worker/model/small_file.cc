#include "worker/model/small_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace reprise::worker {

StatusOr<std::string> ReadSmallFile(const std::string& path, size_t bytes_max) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat(path, " does not exist"));
  }
  if (status.type() != std::filesystem::file_type::regular) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return absl::PermissionDeniedError(
        absl::StrCat(path, " cannot be opened: ", std::strerror(errno)));
  }
  // One byte more than the limit tells "at the limit" from "over it", whatever the size says.
  std::string text(bytes_max + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " is larger than the limit of ", bytes_max, " bytes"));
  }
  if (in.bad()) return absl::DataLossError(absl::StrCat(path, " cannot be read to its end"));
  return text;
}

}  // namespace reprise::worker
