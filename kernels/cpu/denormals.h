// Scoped flush-to-zero and denormals-are-zero, the mode every kernel computes in (vdpbf16ps knows
// no other). Owner: the scope. Threads: affects the calling thread alone, restored at the end of
// the scope.
#ifndef REPRISE_KERNELS_CPU_DENORMALS_H_
#define REPRISE_KERNELS_CPU_DENORMALS_H_

#include <xmmintrin.h>

#include "common/inline.h"

namespace reprise::kernels {

class DenormalsOff {
 public:
  REPRISE_INLINE DenormalsOff() : saved_(_mm_getcsr()) {
    // Round to nearest, exceptions masked, FTZ (0x8000) and DAZ (0x0040): the caller's mode never
    // shows.
    _mm_setcsr(0x1F80u | 0x8040u);
    asm volatile("" ::: "memory");  // keeps arithmetic on loaded values inside the scope
  }
  REPRISE_INLINE ~DenormalsOff() {
    asm volatile("" ::: "memory");
    _mm_setcsr(saved_);
  }
  DenormalsOff(const DenormalsOff&) = delete;
  DenormalsOff& operator=(const DenormalsOff&) = delete;

 private:
  unsigned saved_;
};

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_CPU_DENORMALS_H_
