#include "kernels/cuda/emulator/shared_memory.h"

#include <algorithm>
#include <cstring>

namespace reprise::cuda::emulator {
SharedMemory::Memory SharedMemory::Allocate(size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, kAlignment, std::max<size_t>(bytes, 1)) != 0) abort();
  std::memset(p, kPoison, bytes);
  return Memory(static_cast<uint8_t*>(p));
}

SharedMemory::SharedMemory(size_t bytes)
    : bytes_(bytes), generic_(Allocate(bytes)), async_(Allocate(bytes)) {}

uint32_t SharedMemory::AddressOf(const void* p) const {
  const auto* at = static_cast<const uint8_t*>(p);
  if (at < generic_.get() || at > generic_.get() + bytes_) return kNoAddress;
  return kBase + static_cast<uint32_t>(at - generic_.get());
}

void SharedMemory::WriteAsync(uint32_t address, const void* from, size_t bytes) {
  std::memcpy(generic_.get() + (address - kBase), from, bytes);
  std::memcpy(async_.get() + (address - kBase), from, bytes);
}

void SharedMemory::Poison(uint32_t address, size_t bytes) {
  std::fill_n(generic_.get() + (address - kBase), bytes, kPoison);
  std::fill_n(async_.get() + (address - kBase), bytes, kPoison);
}

void SharedMemory::Fence() { std::memcpy(async_.get(), generic_.get(), bytes_); }

}  // namespace reprise::cuda::emulator
