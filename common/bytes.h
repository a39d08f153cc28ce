// Little-endian wire bytes, read with every access bounds-checked and written without casts, and
// the checked arithmetic parsers need. Views do not own; one thread at a time per object.
//
// 1. A reader's first error sticks: later reads return zero or empty and change nothing, so a
//    parser reads a whole record and tests status() once, before it uses any value.
// 2. A length is compared with what remains before anything is allocated.
#ifndef REPRISE_COMMON_BYTES_H_
#define REPRISE_COMMON_BYTES_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise {

template <std::unsigned_integral T>
constexpr std::optional<T> CheckedAdd(T a, T b) {
  T sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}
template <std::unsigned_integral T>
constexpr std::optional<T> CheckedMul(T a, T b) {
  T product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

inline std::span<const uint8_t> AsBytes(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}
inline absl::string_view AsText(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// `field` names what is read, for messages. Results view the reader's bytes.
class ByteReader {
 public:
  explicit ByteReader(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  explicit ByteReader(absl::string_view text) : bytes_(AsBytes(text)) {}

  uint8_t U8(const char* field) { return Little<uint8_t>(field); }
  uint16_t U16(const char* field) { return Little<uint16_t>(field); }
  uint32_t U32(const char* field) { return Little<uint32_t>(field); }
  uint64_t U64(const char* field) { return Little<uint64_t>(field); }
  int32_t I32(const char* field) { return static_cast<int32_t>(U32(field)); }
  int64_t I64(const char* field) { return static_cast<int64_t>(U64(field)); }
  float F32(const char* field);
  std::span<const uint8_t> Bytes(const char* field, uint64_t n);
  // A U32 length of at most `bytes_max`, then that many bytes.
  std::span<const uint8_t> Prefixed(const char* field, uint32_t bytes_max);
  absl::string_view PrefixedText(const char* field, uint32_t bytes_max) {
    return AsText(Prefixed(field, bytes_max));
  }
  // A U32 count of elements of `element_bytes` each that follow: fails unless at most `count_max`
  // and all of them fit in what remains.
  uint32_t Count(const char* field, uint32_t count_max, size_t element_bytes);

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }
  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }
  // status(), or INVALID_ARGUMENT when bytes are left over.
  Status Finish();
  // Lets a parser's own refusal join the sticky error; the first one wins.
  void Fail(absl::string_view message);

 private:
  template <typename T>
  T Little(const char* field) {
    const std::span<const uint8_t> bytes = Bytes(field, sizeof(T));
    T value = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
      value = static_cast<T>(value | static_cast<T>(bytes[i]) << (8 * i));
    }
    return value;
  }

  std::span<const uint8_t> bytes_;
  size_t position_ = 0;
  Status status_;
};

// Appends to a std::string or std::vector<uint8_t>, which must outlive it.
template <typename Buffer>
class ByteWriter {
 public:
  explicit ByteWriter(Buffer& out) : out_(out) {}

  ByteWriter& U8(uint8_t value) { return Little(value); }
  ByteWriter& U16(uint16_t value) { return Little(value); }
  ByteWriter& U32(uint32_t value) { return Little(value); }
  ByteWriter& U64(uint64_t value) { return Little(value); }
  ByteWriter& I32(int32_t value) { return Little(static_cast<uint32_t>(value)); }
  ByteWriter& I64(int64_t value) { return Little(static_cast<uint64_t>(value)); }
  ByteWriter& F32(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return Little(bits);
  }
  ByteWriter& Bytes(std::span<const uint8_t> bytes) {
    out_.insert(out_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  // A U32 length, then the bytes; the caller keeps them below 4 GiB.
  ByteWriter& Prefixed(std::span<const uint8_t> bytes) {
    return U32(static_cast<uint32_t>(bytes.size())).Bytes(bytes);
  }
  ByteWriter& PrefixedText(absl::string_view text) { return Prefixed(AsBytes(text)); }

 private:
  template <typename T>
  ByteWriter& Little(T value) {
    for (size_t i = 0; i < sizeof(T); ++i) {
      out_.push_back(static_cast<typename Buffer::value_type>(value >> (8 * i)));
    }
    return *this;
  }
  Buffer& out_;
};

}  // namespace reprise

#endif  // REPRISE_COMMON_BYTES_H_
