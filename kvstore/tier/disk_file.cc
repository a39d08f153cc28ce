#include "kvstore/tier/disk_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/bytes.h"
#include "common/crc32c.h"
#include "kvstore/block/checksum.h"

namespace reprise::kv {
namespace {

constexpr uint64_t kPage = 4096;
constexpr absl::string_view kMagic = "RPKVDSK1";
constexpr uint32_t kVersion = 1;
constexpr uint32_t kValid = 0x56414c44;

uint64_t PageAligned(uint64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

Status Errno(const std::string& path, absl::string_view what) {
  const int error = errno;
  const std::string message = absl::StrCat(path, ": ", what, ": ", std::strerror(error));
  return error == ENOSPC || error == EDQUOT ? absl::ResourceExhaustedError(message)
                                            : absl::UnavailableError(message);
}

Status PwriteAll(int fd, const std::string& path, const void* data, uint64_t bytes, uint64_t at) {
  const auto* p = static_cast<const uint8_t*>(data);
  while (bytes > 0) {
    const ssize_t n = pwrite(fd, p, bytes, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Errno(path, "write");
    p += n;
    at += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

Status PreadAll(int fd, const std::string& path, void* data, uint64_t bytes, uint64_t at) {
  auto* p = static_cast<uint8_t*>(data);
  while (bytes > 0) {
    const ssize_t n = pread(fd, p, bytes, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Errno(path, "read");
    if (n == 0) return absl::DataLossError(absl::StrCat(path, ": ends before byte ", at + bytes));
    p += n;
    at += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

// Everything that must be equal for the file's contents to be believed.
std::string HeaderBytes(const DiskFileOptions& options) {
  std::string bytes(kMagic);
  ByteWriter writer(bytes);
  writer.U32(kVersion).U64(options.block_bytes).U32(options.layers).I32(options.slots);
  writer.Bytes(options.format_digest);
  const uint32_t crc = Crc32c(bytes.data(), bytes.size());
  writer.U32(crc);
  bytes.resize(kPage);
  return bytes;
}

uint64_t RecordBytes(uint32_t layers) { return 4 + 16 + 8 + uint64_t{4} * layers + 4; }

}  // namespace

DiskFile::DiskFile(int fd, const DiskFileOptions& options)
    : fd_(fd),
      options_(options),
      record_bytes_(RecordBytes(options.layers)),
      slot_bytes_(PageAligned(options.block_bytes)) {}

DiskFile::~DiskFile() { close(fd_); }

uint64_t DiskFile::record_offset(Slot slot) const {
  return kPage + static_cast<uint64_t>(slot) * record_bytes_;
}

uint64_t DiskFile::data_offset(Slot slot) const {
  return PageAligned(record_offset(options_.slots)) + static_cast<uint64_t>(slot) * slot_bytes_;
}

uint64_t DiskFile::file_bytes() const { return data_offset(options_.slots); }

StatusOr<std::unique_ptr<DiskFile>> DiskFile::Open(const DiskFileOptions& options,
                                                   std::string* replaced) {
  replaced->clear();
  if (options.slots <= 0 || options.block_bytes == 0 || options.layers == 0) {
    return absl::InvalidArgumentError(absl::StrCat(options.path, ": a disk tier of ", options.slots,
                                                   " slots of ", options.block_bytes, " bytes"));
  }
  const int fd = open(options.path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return Errno(options.path, "open");
  std::unique_ptr<DiskFile> file(new DiskFile(fd, options));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::UnavailableError(
        absl::StrCat(options.path, ": another store node is using this file"));
  }
  struct stat info {};
  if (fstat(fd, &info) != 0) return Errno(options.path, "stat");
  std::string header(kPage, '\0');
  if (info.st_size > 0) {
    if (static_cast<uint64_t>(info.st_size) != file->file_bytes()) {
      *replaced = absl::StrCat("it has ", info.st_size, " bytes, this configuration needs ",
                               file->file_bytes());
    } else {
      RETURN_IF_ERROR(PreadAll(fd, options.path, header.data(), kPage, 0));
      if (header != HeaderBytes(options))
        *replaced = "its header names another format or is damaged";
    }
  }
  if (info.st_size == 0 || !replaced->empty()) {
    RETURN_IF_ERROR(file->Initialize());
  } else {
    file->Scan();
  }
  return file;
}

Status DiskFile::Initialize() {
  if (ftruncate(fd_, 0) != 0) return Errno(options_.path, "truncate");
  // Room is taken now, so that a full disk shows at start and not in the middle of a write.
  if (const int error = posix_fallocate(fd_, 0, static_cast<off_t>(file_bytes())); error != 0) {
    errno = error;
    const Status status = Errno(options_.path, absl::StrCat("reserving ", file_bytes(), " bytes"));
    (void)ftruncate(fd_, 0);
    return status;
  }
  const std::string header = HeaderBytes(options_);
  RETURN_IF_ERROR(PwriteAll(fd_, options_.path, header.data(), header.size(), 0));
  return fdatasync(fd_) == 0 ? absl::OkStatus() : Errno(options_.path, "sync");
}

void DiskFile::Scan() {
  for (Slot slot = 0; slot < options_.slots; ++slot) {
    StatusOr<BlockRecord> record = ReadRecord(slot);
    if (record.ok()) records_.emplace_back(*std::move(record), slot);
  }
}

Status DiskFile::WriteRecord(Slot slot, const BlockRecord* record) {
  std::string bytes;
  if (record != nullptr) {
    ByteWriter writer(bytes);
    writer.U32(kValid).Bytes(record->id.bytes).I64(record->first_position);
    for (const uint32_t checksum : record->checksums) writer.U32(checksum);
    const uint32_t crc = Crc32c(bytes.data(), bytes.size());
    writer.U32(crc);
  } else {
    bytes.resize(record_bytes_);
  }
  return PwriteAll(fd_, options_.path, bytes.data(), bytes.size(), record_offset(slot));
}

StatusOr<BlockRecord> DiskFile::ReadRecord(Slot slot) const {
  std::string bytes(record_bytes_, '\0');
  RETURN_IF_ERROR(PreadAll(fd_, options_.path, bytes.data(), bytes.size(), record_offset(slot)));
  ByteReader reader((absl::string_view(bytes)));
  const uint32_t state = reader.U32("state");
  BlockRecord record;
  const auto id = reader.Bytes("id", record.id.bytes.size());
  std::copy(id.begin(), id.end(), record.id.bytes.begin());
  record.first_position = reader.I64("first position");
  for (uint32_t i = 0; i < options_.layers; ++i) record.checksums.push_back(reader.U32("checksum"));
  const uint32_t crc = reader.U32("record checksum");
  RETURN_IF_ERROR(reader.Finish());
  if (state != kValid || crc != Crc32c(bytes.data(), bytes.size() - 4)) {
    return absl::NotFoundError(absl::StrCat(options_.path, ": slot ", slot, " holds no block"));
  }
  return record;
}

Status DiskFile::Write(const BlockRecord& record, Slot slot, const uint8_t* data) {
  if (slot < 0 || slot >= options_.slots || record.checksums.size() != options_.layers) {
    return absl::InvalidArgumentError(absl::StrCat(options_.path, ": no slot ", slot));
  }
  RETURN_IF_ERROR(Forget(slot));
  RETURN_IF_ERROR(PwriteAll(fd_, options_.path, data, options_.block_bytes, data_offset(slot)));
  if (fdatasync(fd_) != 0) return Errno(options_.path, "sync");
  RETURN_IF_ERROR(WriteRecord(slot, &record));
  return fdatasync(fd_) == 0 ? absl::OkStatus() : Errno(options_.path, "sync");
}

Status DiskFile::Read(const BlockId& id, Slot slot, uint8_t* data) {
  if (slot < 0 || slot >= options_.slots) {
    return absl::InvalidArgumentError(absl::StrCat(options_.path, ": no slot ", slot));
  }
  ASSIGN_OR_RETURN(const BlockRecord record, ReadRecord(slot));
  if (record.id != id) {
    return absl::DataLossError(absl::StrCat(options_.path, ": slot ", slot, " holds block ",
                                            record.id.Hex(), ", wanted ", id.Hex()));
  }
  RETURN_IF_ERROR(PreadAll(fd_, options_.path, data, options_.block_bytes, data_offset(slot)));
  const uint64_t segment = options_.block_bytes / options_.layers;
  for (uint32_t layer = 0; layer < options_.layers; ++layer) {
    const uint32_t found =
        SegmentChecksum(id, layer, record.first_position, data + layer * segment, segment);
    if (found != record.checksums[layer]) {
      return absl::DataLossError(absl::StrCat(options_.path, ": block ", id.Hex(), " layer ", layer,
                                              " has checksum ", found, ", its record says ",
                                              record.checksums[layer]));
    }
  }
  return absl::OkStatus();
}

Status DiskFile::Forget(Slot slot) {
  if (slot < 0 || slot >= options_.slots) {
    return absl::InvalidArgumentError(absl::StrCat(options_.path, ": no slot ", slot));
  }
  return WriteRecord(slot, nullptr);
}

}  // namespace reprise::kv
