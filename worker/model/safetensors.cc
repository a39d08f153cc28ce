#include "worker/model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/bytes.h"
#include "common/json.h"
#include "common/limits.h"

namespace reprise::worker {
namespace {

struct TypeInfo {
  absl::string_view name;
  int bits;
};

// In the order of TensorType.
constexpr TypeInfo kTypes[] = {
    {"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
    {"U16", 16}, {"F16", 16},    {"BF16", 16},   {"I32", 32},    {"U32", 32},
    {"F32", 32}, {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
};

constexpr size_t kPrefixBytes = 8;
constexpr absl::string_view kMetadataKey = "__metadata__";

absl::string_view Text(const JsonValue& v) { return {v.GetString(), v.GetStringLength()}; }

// Where an error happened; every message starts with it.
struct Place {
  absl::string_view file;
  absl::string_view tensor;

  template <typename... Args>
  Status Refuse(const Args&... args) const {
    std::string message = absl::StrCat(file, ": ");
    if (!tensor.empty()) absl::StrAppend(&message, "tensor ", JsonQuote(tensor), ": ");
    return absl::InvalidArgumentError(absl::StrCat(message, args...));
  }
};

StatusOr<TensorType> ReadType(const JsonValue& entry, const Place& place) {
  const JsonValue* v = FindMember(entry, "dtype");
  if (v == nullptr || !v->IsString()) return place.Refuse("\"dtype\" must be a string");
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    if (kTypes[i].name == Text(*v)) return static_cast<TensorType>(i);
  }
  return place.Refuse("unknown dtype ", JsonQuote(Text(*v)));
}

StatusOr<std::vector<uint64_t>> ReadShape(const JsonValue& entry, const Place& place) {
  const JsonValue* v = FindMember(entry, "shape");
  if (v == nullptr || !v->IsArray()) return place.Refuse("\"shape\" must be an array");
  if (v->Size() > limits::kTensorRankMax) {
    return place.Refuse("rank ", v->Size(), " is over the limit of ", limits::kTensorRankMax);
  }
  std::vector<uint64_t> shape;
  for (const JsonValue& dim : v->GetArray()) {
    if (!dim.IsUint64()) {
      return place.Refuse("dimension ", shape.size(), " is not an unsigned 64-bit integer");
    }
    shape.push_back(dim.GetUint64());
  }
  return shape;
}

struct Range {
  uint64_t begin = 0;
  uint64_t end = 0;
};

StatusOr<Range> ReadOffsets(const JsonValue& entry, uint64_t buffer_bytes, const Place& place) {
  const JsonValue* v = FindMember(entry, "data_offsets");
  if (v == nullptr || !v->IsArray() || v->Size() != 2 || !(*v)[0].IsUint64() ||
      !(*v)[1].IsUint64()) {
    return place.Refuse("\"data_offsets\" must be two unsigned 64-bit integers");
  }
  const Range range{(*v)[0].GetUint64(), (*v)[1].GetUint64()};
  if (range.end < range.begin) {
    return place.Refuse("data ends at ", range.end, ", before it begins at ", range.begin);
  }
  if (range.end > buffer_bytes) {
    return place.Refuse("data ends at ", range.end, ", past the buffer of ", buffer_bytes,
                        " bytes");
  }
  return range;
}

// Bytes that type and shape need. A zero dimension never hides an overflow of the others.
StatusOr<uint64_t> NeededBytes(TensorType type, const std::vector<uint64_t>& shape,
                               const Place& place) {
  std::optional<uint64_t> elements = 1;
  bool empty = false;
  for (const uint64_t dim : shape) {
    if (dim == 0) {
      empty = true;
    } else if (elements.has_value()) {
      elements = CheckedMul(*elements, dim);
    }
  }
  std::optional<uint64_t> bits;
  if (elements.has_value()) {
    bits = CheckedMul(*elements, static_cast<uint64_t>(TensorTypeBits(type)));
  }
  if (!bits.has_value()) {
    return place.Refuse("shape [", absl::StrJoin(shape, ", "), "] overflows 64 bits");
  }
  if (*bits % 8 != 0) {
    return place.Refuse("shape [", absl::StrJoin(shape, ", "), "] of ", TensorTypeName(type),
                        " does not fill whole bytes");
  }
  return empty ? 0 : *bits / 8;
}

Status ReadMetadata(const JsonValue& value, const Place& place,
                    std::map<std::string, std::string>* metadata) {
  if (!value.IsObject()) return place.Refuse("\"__metadata__\" must be an object");
  for (const auto& member : value.GetObject()) {
    if (!member.value.IsString()) {
      return place.Refuse("metadata ", JsonQuote(Text(member.name)), " must be a string");
    }
    metadata->emplace(Text(member.name), Text(member.value));
  }
  return absl::OkStatus();
}

StatusOr<TensorView> ReadTensor(const JsonValue& entry, std::span<const uint8_t> buffer,
                                const Place& place) {
  if (!entry.IsObject()) return place.Refuse("entry must be an object");
  if (entry.MemberCount() != 3) {
    return place.Refuse("entry must hold exactly \"dtype\", \"shape\" and \"data_offsets\"");
  }
  TensorView tensor;
  ASSIGN_OR_RETURN(tensor.type, ReadType(entry, place));
  ASSIGN_OR_RETURN(tensor.shape, ReadShape(entry, place));
  ASSIGN_OR_RETURN(const Range range, ReadOffsets(entry, buffer.size(), place));
  ASSIGN_OR_RETURN(const uint64_t needed, NeededBytes(tensor.type, tensor.shape, place));
  if (needed != range.end - range.begin) {
    return place.Refuse("shape ", tensor.ShapeText(), " of ", TensorTypeName(tensor.type),
                        " needs ", needed, " bytes, its offsets give ", range.end - range.begin);
  }
  tensor.bytes = buffer.subspan(range.begin, range.end - range.begin);
  return tensor;
}

Status CheckTiling(const SafetensorsHeader& header, std::span<const uint8_t> buffer,
                   absl::string_view file) {
  struct Tile {
    uint64_t begin;
    uint64_t end;
    const std::string* name;
  };
  std::vector<Tile> tiles;
  tiles.reserve(header.tensors.size());
  for (const auto& [name, tensor] : header.tensors) {
    const auto begin = static_cast<uint64_t>(tensor.bytes.data() - buffer.data());
    tiles.push_back({begin, begin + tensor.bytes.size(), &name});
  }
  std::sort(tiles.begin(), tiles.end(), [](const Tile& a, const Tile& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t covered = 0;
  for (const Tile& tile : tiles) {
    const Place place{file, *tile.name};
    if (tile.begin > covered) {
      return place.Refuse("begins at ", tile.begin, ", leaving a hole after byte ", covered);
    }
    if (tile.begin < covered) {
      return place.Refuse("begins at ", tile.begin, ", overlapping data up to byte ", covered);
    }
    covered = tile.end;
  }
  if (covered != buffer.size()) {
    return Place{file, ""}.Refuse("tensors cover ", covered, " bytes of a buffer of ",
                                  buffer.size());
  }
  return absl::OkStatus();
}

// The header's text, after every check that its length allows.
StatusOr<absl::string_view> HeaderText(absl::string_view file, std::span<const uint8_t> bytes) {
  const Place place{file, ""};
  if (bytes.size() < kPrefixBytes) {
    return place.Refuse(bytes.size(), " bytes are fewer than the 8 of the header length");
  }
  const uint64_t length = ByteReader(bytes).U64("header length");
  if (length > limits::kSafetensorsHeaderBytesMax) {
    return absl::ResourceExhaustedError(absl::StrCat(file, ": header of ", length,
                                                     " bytes is over the limit of ",
                                                     limits::kSafetensorsHeaderBytesMax));
  }
  if (length > bytes.size() - kPrefixBytes) {
    return place.Refuse("header of ", length, " bytes reaches past the file's ", bytes.size());
  }
  const absl::string_view text = AsText(bytes.subspan(kPrefixBytes, length));
  if (text.empty() || text.front() != '{') return place.Refuse("header does not begin with '{'");
  return text;
}

}  // namespace

absl::string_view TensorTypeName(TensorType type) { return kTypes[static_cast<size_t>(type)].name; }

int TensorTypeBits(TensorType type) { return kTypes[static_cast<size_t>(type)].bits; }

uint64_t TensorView::elements() const {
  uint64_t n = 1;
  for (const uint64_t dim : shape) n *= dim;
  return n;
}

std::string TensorView::ShapeText() const {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view file,
                                             std::span<const uint8_t> bytes) {
  ASSIGN_OR_RETURN(const absl::string_view text, HeaderText(file, bytes));
  JsonLimits json_limits;
  json_limits.bytes_max = limits::kSafetensorsHeaderBytesMax;
  json_limits.depth_max = 4;
  json_limits.unique_keys = true;
  StatusOr<JsonDocument> doc = ParseJson(text, json_limits);
  if (!doc.ok()) return Annotate(doc.status(), absl::StrCat(file, ": header"));
  if (!doc->IsObject()) return Place{file, ""}.Refuse("header must be a JSON object");

  const std::span<const uint8_t> buffer = bytes.subspan(kPrefixBytes + text.size());
  SafetensorsHeader header;
  for (const auto& member : std::as_const(*doc).GetObject()) {
    const absl::string_view name = Text(member.name);
    if (name == kMetadataKey) {
      RETURN_IF_ERROR(ReadMetadata(member.value, Place{file, ""}, &header.metadata));
      continue;
    }
    if (header.tensors.size() == limits::kTensorsMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat(file, ": more tensors than the limit of ", limits::kTensorsMax));
    }
    ASSIGN_OR_RETURN(TensorView tensor, ReadTensor(member.value, buffer, Place{file, name}));
    header.tensors.emplace(name, std::move(tensor));
  }
  RETURN_IF_ERROR(CheckTiling(header, buffer, file));
  return header;
}

StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  SafetensorsFile file;
  file.path_ = path;
  file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file.fd_ < 0) {
    const std::string message = absl::StrCat(path, " cannot be opened: ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::PermissionDeniedError(message);
  }
  struct stat info {};
  if (fstat(file.fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  file.changed_ = info.st_mtim;
  std::span<const uint8_t> bytes;
  if (info.st_size > 0) {
    const auto size = static_cast<size_t>(info.st_size);
    void* mapping = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd_, 0);
    if (mapping == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path, ": ", size, " bytes cannot be mapped: ", std::strerror(errno)));
    }
    file.mapping_ = mapping;
    file.mapped_bytes_ = size;
    bytes = {static_cast<const uint8_t*>(mapping), size};
  }
  ASSIGN_OR_RETURN(file.header_, ParseSafetensors(path, bytes));
  return file;
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapped_bytes_(std::exchange(other.mapped_bytes_, 0)),
      fd_(std::exchange(other.fd_, -1)),
      changed_(other.changed_),
      header_(std::move(other.header_)) {}

SafetensorsFile::~SafetensorsFile() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_bytes_);
  if (fd_ >= 0) close(fd_);
}

Status SafetensorsFile::CheckUnchanged() const {
  struct stat info {};
  if (fstat(fd_, &info) != 0 || static_cast<uint64_t>(info.st_size) != mapped_bytes_ ||
      info.st_mtim.tv_sec != changed_.tv_sec || info.st_mtim.tv_nsec != changed_.tv_nsec) {
    return absl::AbortedError(absl::StrCat(path_, " changed while it was being read"));
  }
  return absl::OkStatus();
}

}  // namespace reprise::worker
