// Barriers of a block: of all threads, named ones of some warps, and mbarriers in shared memory
// that also count the bytes of copies. PTX ISA 8.7, sections 9.7.13.1 and 9.7.13.15.
#ifndef REPRISE_KERNELS_CUDA_DEVICE_BARRIER_H_
#define REPRISE_KERNELS_CUDA_DEVICE_BARRIER_H_

#include "kernels/cuda/device/device.h"

namespace reprise::cuda {

// A barrier object in shared memory: 8 bytes, aligned. A phase ends when all arrivals and all
// expected bytes are there; the first phase has parity 0.
using Mbarrier = uint64_t;

#if defined(__CUDACC__)

REPRISE_DEVICE void SyncBlock() { __syncthreads(); }
// Barrier `id`, 1 to 15 (0 is SyncBlock's), of `threads`, whole warps.
REPRISE_DEVICE void SyncNamed(uint32_t id, uint32_t threads) {
  asm volatile("bar.sync %0, %1;" : : "r"(id), "r"(threads) : "memory");
}
REPRISE_DEVICE void ArriveNamed(uint32_t id, uint32_t threads) {
  asm volatile("bar.arrive %0, %1;" : : "r"(id), "r"(threads) : "memory");
}

REPRISE_DEVICE void InitBarrier(Mbarrier* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
               :
               : "r"(SharedAddress(barrier)), "r"(arrivals)
               : "memory");
}
// After InitBarrier, before a copy may know of the barriers (and a SyncBlock for the other
// threads).
REPRISE_DEVICE void FenceInit() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
  asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
#endif
}
REPRISE_DEVICE void Arrive(Mbarrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
               :
               : "r"(SharedAddress(barrier))
               : "memory");
}
#if __CUDA_ARCH__ >= 900 || !defined(__CUDA_ARCH__)
REPRISE_DEVICE void ArriveExpecting(Mbarrier* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               :
               : "r"(SharedAddress(barrier)), "r"(bytes)
               : "memory");
}
// Until the phase of that parity has ended.
REPRISE_DEVICE void Wait(Mbarrier* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred ended;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@!ended bra again;\n}"
      :
      : "r"(SharedAddress(barrier)), "r"(parity)
      : "memory");
}
// What this thread stored to shared memory is there for the copy engine and the tensor cores once a
// barrier after it has let them go.
REPRISE_DEVICE void FenceAsync() { asm volatile("fence.proxy.async.shared::cta;" : : : "memory"); }
#endif

#else

REPRISE_DEVICE void SyncBlock() { emulator::Here().block->SyncAll(); }
REPRISE_DEVICE void SyncNamed(uint32_t id, uint32_t threads) {
  emulator::Here().block->NamedBarrier(id, threads, true);
}
REPRISE_DEVICE void ArriveNamed(uint32_t id, uint32_t threads) {
  emulator::Here().block->NamedBarrier(id, threads, false);
}
REPRISE_DEVICE void InitBarrier(Mbarrier* barrier, uint32_t arrivals) {
  emulator::Here().block->InitMbarrier(SharedAddress(barrier), arrivals);
}
REPRISE_DEVICE void FenceInit() {}
REPRISE_DEVICE void Arrive(Mbarrier* barrier) {
  emulator::Here().block->ArriveMbarrier(SharedAddress(barrier), 0);
}
REPRISE_DEVICE void ArriveExpecting(Mbarrier* barrier, uint32_t bytes) {
  emulator::Here().block->ArriveMbarrier(SharedAddress(barrier), bytes);
}
REPRISE_DEVICE void Wait(Mbarrier* barrier, uint32_t parity) {
  emulator::Here().block->WaitMbarrier(SharedAddress(barrier), parity);
}
REPRISE_DEVICE void FenceAsync() { emulator::Here().block->FenceAsync(); }

#endif

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DEVICE_BARRIER_H_
