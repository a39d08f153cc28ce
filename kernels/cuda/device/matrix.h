// Matrix products of a warpgroup on the tensor cores: d (+)= a b, 64 x n x 16 at a time, bf16 into
// f32, under way beside the threads until they are waited for. Four consecutive warps, the first
// divisible by four, make every call together with the same arguments.
//
// Fragments. With r = 16 (t / 32) + t % 32 / 4 and c = 2 (t % 4) for thread t of 128:
//   d[4 j + i]  element (r + 8 (i / 2), 8 j + c + i % 2)
//   a[i]        elements (r + 8 (i % 2), c + 8 (i / 2)) low and (.., .. + 1) high
//
// Operands in shared memory are k-major (k lies densely) or mn-major, in rows of 128 bytes swizzled
// as the copy engine's: 8 rows are an atom of 1,024 bytes.
#ifndef REPRISE_KERNELS_CUDA_DEVICE_MATRIX_H_
#define REPRISE_KERNELS_CUDA_DEVICE_MATRIX_H_

#include "kernels/cuda/device/barrier.h"
#if defined(__CUDACC__)
#include "kernels/cuda/device/matrix_ptx.h"
#endif

namespace reprise::cuda {

enum class Major : uint8_t { kK, kMn };

// A swizzled operand. Its rows of `row_bytes` (128, 64 or 32) lie in atoms of 8 rows.
//   k-major   row i of an atom is mn = i, row_bytes / 2 elements of k wide; atoms of the next 8 mn
//             follow at atom_bytes. To go on along k within a row add 2 k bytes to the address.
//   mn-major  row i is k = i, row_bytes / 2 elements of mn wide; atoms of the next 8 k follow at
//             atom_bytes, those of the next row_bytes / 2 mn at wide_bytes.
struct Operand {
  uint32_t address = 0;  // shared; the tile it belongs to starts at a multiple of 1,024
  uint32_t row_bytes = 128;
  uint32_t atom_bytes = 1024;
  uint32_t wide_bytes = 0;
};

REPRISE_HOST_DEVICE uint64_t DescriptorOf(const Operand& o) {
  const uint64_t layout = o.row_bytes == 128 ? 1 : o.row_bytes == 64 ? 2 : 3;
  const uint32_t leading = o.wide_bytes == 0 ? 16 : o.wide_bytes;
  return static_cast<uint64_t>((o.address & 0x3FFFF) >> 4) |
         static_cast<uint64_t>((leading & 0x3FFFF) >> 4) << 16 |
         static_cast<uint64_t>((o.atom_bytes & 0x3FFFF) >> 4) << 32 | layout << 62;
}

// The operand that begins so many bytes, a multiple of 16, later.
REPRISE_HOST_DEVICE uint64_t Advance(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

// A swizzled element's address: what threads that fill an operand themselves must write to.
// `offset` is from the tile's start, which is a multiple of 1,024.
REPRISE_HOST_DEVICE uint32_t Swizzle(uint32_t offset, uint32_t row_bytes) {
  return offset ^ (offset >> 3 & ((row_bytes - 1) & 0x70));
}

#if defined(__CUDACC__)
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

// Before the first product after this warpgroup's registers or shared memory were written.
REPRISE_DEVICE void FenceMatrix() { asm volatile("wgmma.fence.sync.aligned;" : : : "memory"); }
REPRISE_DEVICE void CommitMatrix() {
  asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
}
// Until at most kLeft groups are under way.
template <int kLeft>
REPRISE_DEVICE void WaitMatrix() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(kLeft) : "memory");
}
// Keeps the compiler from moving what is done with d, or fragments a, across a fence or a wait.
template <int kCount>
REPRISE_DEVICE void Pin(float (&d)[kCount]) {
  REPRISE_UNROLL
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int kSteps>
REPRISE_DEVICE void Pin(uint32_t (&a)[kSteps][4]) {
  REPRISE_UNROLL
  for (int i = 0; i < kSteps * 4; ++i) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
}
template <int kN, Major kA, Major kB>
REPRISE_DEVICE void Multiply(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  ptx::Wgmma<kN, static_cast<int>(kA), static_cast<int>(kB)>::Shared(d, a, b, accumulate ? 1 : 0);
}
template <int kN, Major kB>
REPRISE_DEVICE void Multiply(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b,
                             bool accumulate) {
  ptx::Wgmma<kN, 0, static_cast<int>(kB)>::Registers(d, a, b, accumulate ? 1 : 0);
}
// Registers of this warpgroup: what others give back, it may take. The kernel is compiled with a
// cap.
template <int kCount>
REPRISE_DEVICE void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(kCount));
}
template <int kCount>
REPRISE_DEVICE void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(kCount));
}

#endif
#else

REPRISE_DEVICE void FenceMatrix() {}
REPRISE_DEVICE void CommitMatrix() { emulator::Here().block->CommitMatrix(); }
template <int kLeft>
REPRISE_DEVICE void WaitMatrix() {
  emulator::Here().block->WaitMatrix(kLeft);
}
template <int kCount>
REPRISE_DEVICE void Pin(float (&)[kCount]) {}
template <int kSteps>
REPRISE_DEVICE void Pin(uint32_t (&)[kSteps][4]) {}
template <int kN, Major kA, Major kB>
REPRISE_DEVICE void Multiply(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  emulator::Here().block->IssueMatrix(
      {kN, d, nullptr, a, b, kA == Major::kMn, kB == Major::kMn, accumulate});
}
template <int kN, Major kB>
REPRISE_DEVICE void Multiply(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b,
                             bool accumulate) {
  emulator::Here().block->IssueMatrix({kN, d, a, 0, b, false, kB == Major::kMn, accumulate});
}
template <int kCount>
REPRISE_DEVICE void TakeRegisters() {}
template <int kCount>
REPRISE_DEVICE void GiveRegisters() {}

#endif

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DEVICE_MATRIX_H_
