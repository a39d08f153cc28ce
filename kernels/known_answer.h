// The fixed run that defines a numerics class: two processes whose bytes are equal compute the same
// bits, so their KV may mix. The class is a digest of these bytes, not a name: another compiler, a
// broken CPU or a changed canonical order shows.
//
// Owner: process start. Threads: any; runs in the caller, a few milliseconds (scalar: some tens).
#ifndef REPRISE_KERNELS_KNOWN_ANSWER_H_
#define REPRISE_KERNELS_KNOWN_ANSWER_H_

#include <cstdint>
#include <vector>

#include "kernels/ops.h"

namespace reprise::kernels {

// Linear (f32 and bf16, one and eight slices), norm, rope, attention over several leaves with each
// cache type, SwiGLU, softmax and sampling pieces on counter-based data, outputs concatenated.
std::vector<uint8_t> KnownAnswerBytes(const CpuOps& ops);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_KNOWN_ANSWER_H_
