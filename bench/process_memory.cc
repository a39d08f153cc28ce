#include "bench/process_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/match.h"

namespace reprise::bench {
namespace {

constexpr size_t kChunkBytes = size_t{4} << 20;

struct Mapping {
  uint64_t from = 0;
  uint64_t to = 0;
};

std::vector<Mapping> AnonymousMappings(pid_t pid) {
  std::vector<Mapping> mappings;
  std::ifstream maps(absl::StrCat("/proc/", pid, "/maps"));
  for (std::string line; std::getline(maps, line);) {
    Mapping m;
    char access[5] = {};
    uint64_t offset = 0;
    uint64_t inode = 1;
    const int fields =
        std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*s %" SCNu64, &m.from,
                    &m.to, access, &offset, &inode);
    if (fields == 5 && inode == 0 && std::strcmp(access, "rw-p") == 0) mappings.push_back(m);
  }
  return mappings;
}

}  // namespace

StatusOr<ProcessMemory> ProcessMemory::Open(pid_t pid) {
  const int fd = open(absl::StrCat("/proc/", pid, "/mem").c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot open the memory of process ", pid, ": ", std::strerror(errno)));
  }
  return ProcessMemory(pid, fd);
}

ProcessMemory::ProcessMemory(ProcessMemory&& other) noexcept
    : pid_(other.pid_), fd_(std::exchange(other.fd_, -1)) {}

ProcessMemory::~ProcessMemory() {
  if (fd_ >= 0) close(fd_);
}

Status ProcessMemory::Scan(const std::function<bool(uint64_t)>& wanted,
                           const std::function<void(uint64_t, uint64_t)>& found) const {
  std::vector<uint64_t> words(kChunkBytes / 8);
  for (const Mapping& mapping : AnonymousMappings(pid_)) {
    for (uint64_t at = mapping.from; at < mapping.to; at += kChunkBytes) {
      const size_t bytes = std::min<uint64_t>(kChunkBytes, mapping.to - at);
      const ssize_t n = pread(fd_, words.data(), bytes, static_cast<off_t>(at));
      if (n <= 0) break;  // unmapped meanwhile
      for (size_t i = 0; i < static_cast<size_t>(n) / 8; ++i) {
        if (words[i] != 0 && wanted(words[i])) found(words[i], at + 8 * i);
      }
    }
  }
  return absl::OkStatus();
}

Status ProcessMemory::Read(uint64_t address, std::span<uint8_t> bytes) const {
  if (pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(address)) ==
      static_cast<ssize_t>(bytes.size())) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat("cannot read the memory of process ", pid_));
}

Status ProcessMemory::Write(uint64_t address, std::span<const uint8_t> bytes) {
  if (pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(address)) ==
      static_cast<ssize_t>(bytes.size())) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat("cannot write the memory of process ", pid_));
}

}  // namespace reprise::bench
