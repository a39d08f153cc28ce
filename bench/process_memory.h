// Finds and changes bytes in the memory of another process, to damage what it holds behind its
// back. The process must be a child of this one. One thread.
#ifndef REPRISE_BENCH_PROCESS_MEMORY_H_
#define REPRISE_BENCH_PROCESS_MEMORY_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/status.h"

namespace reprise::bench {

class ProcessMemory {
 public:
  // Opens /proc/PID/mem; PERMISSION_DENIED where that is not allowed.
  static StatusOr<ProcessMemory> Open(pid_t pid);
  ProcessMemory(ProcessMemory&& other) noexcept;
  ~ProcessMemory();

  // Calls `found(word, address)` for each 8-byte word at an address divisible by 8 in the private
  // writable memory without a file, for which `wanted` is true.
  Status Scan(const std::function<bool(uint64_t word)>& wanted,
              const std::function<void(uint64_t word, uint64_t address)>& found) const;

  Status Read(uint64_t address, std::span<uint8_t> bytes) const;
  Status Write(uint64_t address, std::span<const uint8_t> bytes);

 private:
  ProcessMemory(pid_t pid, int fd) : pid_(pid), fd_(fd) {}
  const pid_t pid_;
  int fd_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_PROCESS_MEMORY_H_
