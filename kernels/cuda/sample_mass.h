// The mass of a row by blocks of ids, and the draw from all of it: what the CPU's sampler does
// where nothing is cut off (worker/engine/sampling.cc, SumMasses and PickFromAll), in its order of
// sums.
#ifndef REPRISE_KERNELS_CUDA_SAMPLE_MASS_H_
#define REPRISE_KERNELS_CUDA_SAMPLE_MASS_H_

#include "kernels/cuda/sample_block.h"

namespace reprise::cuda::sampling {

REPRISE_DEVICE int MassBlocks(int vocab) { return (vocab + kMassBlock - 1) / kMassBlock; }

// Maximum and canonical sum of each block's tempered logits: sixteen lanes a block.
REPRISE_DEVICE void BlockStats(Memory& m, const float* logits, int vocab, float temperature) {
  constexpr int kTerms = kMassBlock / 16;
  const int lane = static_cast<int>(ThreadX() % 16);
  const int blocks = MassBlocks(vocab);
  for (int first = 0; first < blocks; first += kThreads / 16) {
    const int block = first + static_cast<int>(ThreadX() / 16);
    float x[kTerms];
    float max = -Infinity();
    REPRISE_UNROLL
    for (int j = 0; j < kTerms; ++j) {
      const int id = block * kMassBlock + j * 16 + lane;
      x[j] = id < vocab ? Max(Divide(logits[id], temperature), -Infinity()) : -Infinity();
      max = Max(max, x[j]);
    }
    max = MaxOf(max, 16);
    float sum = 0;
    REPRISE_UNROLL
    for (int j = 0; j < kTerms; ++j) sum = sum + kernels::PortableExp(x[j] - max);
    sum = SumOf(sum, 16);
    if (block < blocks && lane == 0) {
      m.block_max[block] = max;
      m.block_sum[block] = max == -Infinity() ? 0 : sum;
    }
  }
  SyncBlock();
}

// m.mass and m.mass_end, relative to the largest logit; returns the sum of all.
REPRISE_DEVICE double SumMasses(Memory& m, const float* logits, int vocab, float temperature) {
  BlockStats(m, logits, vocab, temperature);
  const int blocks = MassBlocks(vocab);
  const int self = static_cast<int>(ThreadX());
  uint64_t best = kNone;
  for (int b = self; b < blocks; b += kThreads) best = MinOf(best, OrderOf(m.block_max[b], 0));
  const float top = LogitOf(BlockMin(m, best));
  for (int b = self; b < blocks; b += kThreads) {
    m.block_max[b] = kernels::PortableExp(m.block_max[b] - top);
  }
  SyncBlock();
  if (self == 0) {
    double scale = 1;  // of the top itself
    double end = 0;
    for (int b = 0; b < blocks; ++b) {
      const double next = scale + static_cast<double>(m.block_max[b]);
      m.mass[b] = static_cast<double>(m.block_sum[b]) * (next - scale);
      scale = next;
      end += m.mass[b];
      m.mass_end[b] = end;
    }
  }
  SyncBlock();
  return m.mass_end[blocks - 1];
}

// The block in which the mass passes `target`; past the end, should rounding lead there, the last
// one with any. `before`: the mass before it, as the CPU has it then.
REPRISE_DEVICE int DrawnBlock(Memory& m, int blocks, double target, double* before) {
  uint64_t found = kNone;
  uint64_t last = kNone;  // from the end
  for (int b = static_cast<int>(ThreadX()); b < blocks; b += kThreads) {
    if (m.mass_end[b] > target) found = MinOf(found, static_cast<uint64_t>(b));
    if (m.mass[b] > 0) last = MinOf(last, static_cast<uint64_t>(blocks - 1 - b));
  }
  found = BlockMin(m, found);
  last = BlockMin(m, last);
  if (found != kNone) {
    const int block = static_cast<int>(found);
    *before = block > 0 ? m.mass_end[block - 1] : 0;
    return block;
  }
  *before = m.mass_end[blocks - 1];
  return last == kNone ? 0 : blocks - 1 - static_cast<int>(last);
}

// After SumMasses: blocks in order of id, in the drawn block its most probable token, then the
// others in order of id.
REPRISE_DEVICE int PickFromAll(Memory& m, const float* logits, int vocab, float temperature,
                               double uniform) {
  const int blocks = MassBlocks(vocab);
  const double target = uniform * m.mass_end[blocks - 1];
  double before = 0;
  const int block = DrawnBlock(m, blocks, target, &before);
  const int first = block * kMassBlock;
  const int n = vocab - first < kMassBlock ? vocab - first : kMassBlock;
  static_assert(kThreads == kMassBlock, "a thread is a token of the block");
  const int self = static_cast<int>(ThreadX());
  const float x = self < n ? Divide(logits[first + self], temperature) : -Infinity();
  const uint64_t best = BlockMin(m, self < n ? OrderOf(x, self) : kNone);
  const bool counts = self != IdOf(best) && x > -Infinity();
  double* sums = m.candidates.cumulative;
  sums[self] = counts ? static_cast<double>(kernels::PortableExp(x - LogitOf(best))) : 0;
  SyncBlock();
  if (self == 0) {
    double sum = 1;  // the best itself
#pragma unroll 8
    for (int i = 0; i < n; ++i) {
      sum += sums[i];
      sums[i] = sum;
    }
  }
  SyncBlock();
  const double wanted = (target - before) / m.mass[block] * sums[n - 1];
  if (1.0 > wanted) return first + IdOf(best);
  const uint64_t found =
      BlockMin(m, counts && sums[self] > wanted ? static_cast<uint64_t>(self) : kNone);
  const uint64_t last = BlockMin(m, counts ? static_cast<uint64_t>(n - 1 - self) : kNone);
  if (found != kNone) return first + static_cast<int>(found);
  return first + (last == kNone ? IdOf(best) : n - 1 - static_cast<int>(last));
}

}  // namespace reprise::cuda::sampling

#endif  // REPRISE_KERNELS_CUDA_SAMPLE_MASS_H_
