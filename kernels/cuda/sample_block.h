// What the block that samples a row is made of: its shared memory, the order of candidates as
// integers, minima, a sort, and walks over the logits. Only sample.cu and its parts include it.
#ifndef REPRISE_KERNELS_CUDA_SAMPLE_BLOCK_H_
#define REPRISE_KERNELS_CUDA_SAMPLE_BLOCK_H_

#include "kernels/cuda/device/barrier.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/sample.h"
#include "kernels/portable_math.h"

namespace reprise::cuda::sampling {

inline constexpr uint32_t kThreads = 512;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kMassBlock = 512;  // ids whose mass is summed as one, as the CPU's
inline constexpr int kMassBlocksMax = kSampleVocabMax / kMassBlock;
inline constexpr int kChunkMax = 2048;  // candidates sorted at once
inline constexpr int kTile = 4096;      // terms of the canonical sum computed at once

struct Candidates {
  uint64_t order[kChunkMax];
  double cumulative[kChunkMax];
};
struct Memory {
  union {
    Candidates candidates;
    float terms[2][kTile];
  };
  uint64_t bests[kThreads];
  double mass[kMassBlocksMax];
  double mass_end[kMassBlocksMax];  // of this block and those before
  float block_max[kMassBlocksMax];
  float block_sum[kMassBlocksMax];
  uint64_t minima[kWarps];
  double number;  // from one thread to all
  float real;
  uint32_t count;
};

// A candidate as an integer: ascending in the order (logit descending, id ascending). +0, -0 and
// denormals are equal; NaN is kNone.
inline constexpr uint64_t kNone = ~uint64_t{0};
inline constexpr uint64_t kBeforeAll = 0;
inline constexpr uint64_t kMinusInfinity = uint64_t{0xFF800000} << 32;  // the first such

REPRISE_DEVICE uint64_t OrderOf(float logit, int id) {
  if (logit != logit) return kNone;
  const uint32_t bits = BitsOf(logit + 0.0F);
  const uint32_t key = (bits & 0x80000000U) != 0 ? bits : ~(bits | 0x80000000U);
  return static_cast<uint64_t>(key) << 32 | static_cast<uint32_t>(id);
}
REPRISE_DEVICE int IdOf(uint64_t order) { return static_cast<int>(static_cast<uint32_t>(order)); }
REPRISE_DEVICE float LogitOf(uint64_t order) {
  const auto key = static_cast<uint32_t>(order >> 32);
  return FloatOf((key & 0x80000000U) != 0 ? key : ~key & 0x7FFFFFFFU);
}

REPRISE_DEVICE uint64_t MinOf(uint64_t a, uint64_t b) { return a < b ? a : b; }

// Of the values of all threads.
REPRISE_DEVICE uint64_t BlockMin(Memory& m, uint64_t value) {
  for (uint32_t step = 16; step >= 1; step /= 2) {
    const uint64_t low = ShuffleXor(static_cast<uint32_t>(value), step);
    const uint64_t high = ShuffleXor(static_cast<uint32_t>(value >> 32), step);
    value = MinOf(value, high << 32 | low);
  }
  if (Lane() == 0) m.minima[Warp()] = value;
  SyncBlock();
  uint64_t all = m.minima[0];
  REPRISE_UNROLL
  for (int i = 1; i < kWarps; ++i) all = MinOf(all, m.minima[i]);
  SyncBlock();
  return all;
}

// Ascending, `count` a power of two. Begins and ends with a barrier.
REPRISE_DEVICE void Sort(uint64_t* values, uint32_t count) {
  SyncBlock();
  for (uint32_t width = 2; width <= count; width *= 2) {
    for (uint32_t step = width / 2; step >= 1; step /= 2) {
      for (uint32_t i = ThreadX(); i < count / 2; i += kThreads) {
        const uint32_t low = i / step * step * 2 + i % step;
        const uint64_t a = values[low];
        const uint64_t b = values[low + step];
        if ((a > b) == ((low & width) == 0)) {
          values[low] = b;
          values[low + step] = a;
        }
      }
      SyncBlock();
    }
  }
}

// fn(id, logit) for this thread's share of a row, by four neighbours.
template <class F>
REPRISE_DEVICE void ForLogits(const float* logits, int vocab, F fn) {
#pragma unroll 4
  for (int first = static_cast<int>(ThreadX()) * 4; first < vocab; first += kThreads * 4) {
    const int n = vocab - first < 4 ? vocab - first : 4;
    const Four four = LoadSomeOfFour(logits + first, n);
    REPRISE_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (i < n) fn(first + i, four.v[i]);
    }
  }
}

// The first in order, infinities included; kNone: nothing but NaN.
REPRISE_DEVICE uint64_t FirstOf(Memory& m, const float* logits, int vocab) {
  uint64_t best = kNone;
  ForLogits(logits, vocab, [&](int id, float x) { best = MinOf(best, OrderOf(x, id)); });
  return BlockMin(m, best);
}

}  // namespace reprise::cuda::sampling

#endif  // REPRISE_KERNELS_CUDA_SAMPLE_BLOCK_H_
