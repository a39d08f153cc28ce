#include "common/bytes.h"

namespace reprise {

float ByteReader::F32(const char* field) {
  const uint32_t bits = U32(field);
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

std::span<const uint8_t> ByteReader::Bytes(const char* field, uint64_t n) {
  if (!status_.ok()) return {};
  if (n > remaining()) {
    Fail(absl::StrCat(field, " at byte ", position_, " needs ", n, " bytes, ", remaining(),
                      " remain"));
    return {};
  }
  const std::span<const uint8_t> bytes = bytes_.subspan(position_, n);
  position_ += n;
  return bytes;
}

std::span<const uint8_t> ByteReader::Prefixed(const char* field, uint32_t bytes_max) {
  const uint32_t n = U32(field);
  if (n > bytes_max) {
    Fail(absl::StrCat(field, " has ", n, " bytes, the limit is ", bytes_max));
    return {};
  }
  return Bytes(field, n);
}

uint32_t ByteReader::Count(const char* field, uint32_t count_max, size_t element_bytes) {
  const uint32_t count = U32(field);
  if (count > count_max) {
    Fail(absl::StrCat(field, " counts ", count, ", the limit is ", count_max));
    return 0;
  }
  const std::optional<uint64_t> bytes = CheckedMul<uint64_t>(count, element_bytes);
  if (!bytes || *bytes > remaining()) {
    Fail(absl::StrCat(field, " counts ", count, " elements of ", element_bytes, " bytes, ",
                      remaining(), " bytes remain"));
    return 0;
  }
  return count;
}

Status ByteReader::Finish() {
  if (status_.ok() && remaining() > 0) {
    Fail(absl::StrCat(remaining(), " bytes left over after byte ", position_));
  }
  return status_;
}

void ByteReader::Fail(absl::string_view message) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(message);
}

}  // namespace reprise
