// The shared memory of one block as two observers see it: ordinary loads and stores (the generic
// proxy), and the copy engine and tensor cores (the async proxy). What threads store becomes
// visible to the async proxy only by a fence, so a kernel that forgets one reads poison. Owned by
// the block.
#ifndef REPRISE_KERNELS_CUDA_EMULATOR_SHARED_MEMORY_H_
#define REPRISE_KERNELS_CUDA_EMULATOR_SHARED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace reprise::cuda::emulator {

class SharedMemory {
 public:
  // Address of the first byte: cards keep a first part for themselves.
  static constexpr uint32_t kBase = 1024;
  static constexpr size_t kAlignment = 1024;
  static constexpr uint8_t kPoison = 0xFF;  // NaN in every format

  explicit SharedMemory(size_t bytes);

  uint8_t* generic() { return generic_.get(); }
  size_t bytes() const { return bytes_; }
  // Of a pointer into generic(); kNoAddress beyond it.
  static constexpr uint32_t kNoAddress = 0xFFFFFFFF;
  uint32_t AddressOf(const void* p) const;
  bool Holds(uint32_t address, size_t bytes) const {
    return address >= kBase && address - kBase <= bytes_ && bytes <= bytes_ - (address - kBase);
  }

  // Preconditions: Holds(address, bytes).
  const uint8_t* Async(uint32_t address) const { return async_.get() + (address - kBase); }
  void WriteAsync(uint32_t address, const void* from, size_t bytes);  // both see it
  void Poison(uint32_t address, size_t bytes);
  // fence.proxy.async
  void Fence();

 private:
  struct Free {
    void operator()(uint8_t* p) const { free(p); }
  };
  // Of exactly that many bytes, so that a sanitizer sees an access beyond them.
  using Memory = std::unique_ptr<uint8_t, Free>;
  static Memory Allocate(size_t bytes);

  const size_t bytes_;
  const Memory generic_;
  const Memory async_;
};

}  // namespace reprise::cuda::emulator

#endif  // REPRISE_KERNELS_CUDA_EMULATOR_SHARED_MEMORY_H_
