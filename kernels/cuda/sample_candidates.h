// Candidates of a row in order, a chunk at a time, with the sums of their masses: what top-k, top-p
// and min-p look at. No list of the whole vocabulary is ever made: a chunk begins where the last
// one ended, and a walk over the candidates that needs more than the chunk at hand begins again.
#ifndef REPRISE_KERNELS_CUDA_SAMPLE_CANDIDATES_H_
#define REPRISE_KERNELS_CUDA_SAMPLE_CANDIDATES_H_

#include "kernels/cuda/sample_block.h"

namespace reprise::cuda::sampling {

// The next candidates behind `after`, about `wanted` of them (at most kThreads): sorted into
// m.candidates.order; how many. 0: there are none before `end`.
//
// Each thread's best gives a bound: as many candidates as there are bests up to it are at least as
// good, and for logits in no particular place hardly more.
REPRISE_DEVICE int NextChunk(Memory& m, const float* logits, int vocab, uint64_t after,
                             uint64_t end, int wanted) {
  uint64_t mine = kNone;
  ForLogits(logits, vocab, [&](int id, float x) {
    const uint64_t order = OrderOf(x, id);
    if (order > after && order < end) mine = MinOf(mine, order);
  });
  SyncBlock();
  m.bests[ThreadX()] = mine;
  Sort(m.bests, kThreads);
  if (m.bests[0] == kNone) return 0;
  for (int kept = wanted;; kept = kept > 1 ? kept / 2 : 1) {
    const uint64_t bound = m.bests[kept - 1];
    const uint64_t last = bound == kNone ? end - 1 : bound;
    if (ThreadX() == 0) m.count = 0;
    SyncBlock();
    ForLogits(logits, vocab, [&](int id, float x) {
      const uint64_t order = OrderOf(x, id);
      if (order <= after || order > last) return;
      const uint32_t at = AtomicAdd(&m.count, 1);
      if (at < kChunkMax) m.candidates.order[at] = order;
    });
    SyncBlock();
    const uint32_t count = m.count;
    SyncBlock();
    if (count > kChunkMax) continue;
    uint32_t size = 2;
    while (size < count) size *= 2;
    for (uint32_t i = count + ThreadX(); i < size; i += kThreads) m.candidates.order[i] = kNone;
    Sort(m.candidates.order, size);
    return static_cast<int>(count);
  }
}

// A walk over a row's finite candidates. All threads hold the same values.
struct Walk {
  const float* logits;
  int vocab;
  float temperature;
  int64_t limit;    // candidates looked at, at most
  float first = 0;  // tempered logit of the first of all
  // The chunk at hand.
  int64_t begin = 0;  // its first's number
  int count = 0;
  uint64_t after = kBeforeAll;
  double before = 0;  // sum of the masses before it
};

REPRISE_DEVICE void LoadChunk(Memory& m, Walk& w) {
  // Few candidates hold most of a model's mass; who asked for a number of them gets it.
  const bool few = w.begin == 0 && w.limit == w.vocab;
  const int64_t left = w.limit - w.begin;
  const int most = few ? 64 : static_cast<int>(kThreads) / 2;
  const int wanted = left < most ? static_cast<int>(left) : most;
  if (wanted <= 0) {
    w.count = 0;
    return;
  }
  const int count = NextChunk(m, w.logits, w.vocab, w.after, kMinusInfinity, wanted);
  w.count = count < left ? count : static_cast<int>(left);
  if (w.count == 0) return;
  Candidates& c = m.candidates;
  if (w.begin == 0) w.first = Divide(LogitOf(c.order[0]), w.temperature);
  for (int i = static_cast<int>(ThreadX()); i < w.count; i += kThreads) {
    const float tempered = Divide(LogitOf(c.order[i]), w.temperature);
    c.cumulative[i] = static_cast<double>(kernels::PortableExp(tempered - w.first));
  }
  SyncBlock();
  if (ThreadX() == 0) {
    double sum = w.before;
#pragma unroll 8
    for (int i = 0; i < w.count; ++i) {
      sum += c.cumulative[i];
      c.cumulative[i] = sum;
    }
  }
  SyncBlock();
}

// From the first candidate on; the first chunk is still there when no other was wanted.
REPRISE_DEVICE void BeginWalk(Memory& m, Walk& w) {
  if (w.begin == 0 && w.count > 0) return;
  w.begin = 0;
  w.after = kBeforeAll;
  w.before = 0;
  LoadChunk(m, w);
}
// Whether there is another chunk; the one at hand is lost.
REPRISE_DEVICE bool NextInWalk(Memory& m, Walk& w) {
  w.after = m.candidates.order[w.count - 1];
  w.before = m.candidates.cumulative[w.count - 1];
  SyncBlock();
  w.begin += w.count;
  LoadChunk(m, w);
  return w.count > 0;
}

struct Prefix {
  int64_t count;
  double mass;
};

// All that the walk's limit leaves.
REPRISE_DEVICE Prefix AllOf(Memory& m, Walk& w) {
  BeginWalk(m, w);
  Prefix all = {};
  do {
    all = {w.begin + w.count, m.candidates.cumulative[w.count - 1]};
  } while (all.count < w.limit && NextInWalk(m, w));
  return all;
}

// The smallest prefix whose mass reaches top_p of `total`, cut where min_p cuts it; at least one.
REPRISE_DEVICE Prefix KeptOf(Memory& m, Walk& w, const SampleRow& params, double total) {
  const double wanted = static_cast<double>(params.top_p) * total;
  const double least = params.min_p;
  BeginWalk(m, w);
  for (;;) {
    const double* sums = m.candidates.cumulative;
    // 2 i when it falls to min_p before the i-th, 2 i + 1 when the i-th completes the mass.
    uint64_t closed = kNone;
    for (int i = static_cast<int>(ThreadX()); i < w.count && closed == kNone; i += kThreads) {
      const double before = i > 0 ? sums[i - 1] : w.before;
      const bool cut = w.begin + i > 0 && sums[i] - before < least;
      if (cut || (params.top_p < 1 && sums[i] >= wanted)) {
        closed = static_cast<uint64_t>(2 * i + (cut ? 0 : 1));
      }
    }
    closed = BlockMin(m, closed);
    if (closed != kNone) {
      const int kept = static_cast<int>(closed / 2 + closed % 2);
      return {w.begin + kept, kept > 0 ? sums[kept - 1] : w.before};
    }
    const Prefix all = {w.begin + w.count, sums[w.count - 1]};
    if (all.count == w.limit || !NextInWalk(m, w)) return all;
  }
}

// The token at which the mass passes `uniform` of the prefix's.
REPRISE_DEVICE int PickFrom(Memory& m, Walk& w, const Prefix& prefix, double uniform) {
  const double target = uniform * prefix.mass;
  BeginWalk(m, w);
  for (;;) {
    const int64_t left = prefix.count - w.begin;
    const int n = left < w.count ? static_cast<int>(left) : w.count;
    uint64_t found = kNone;
    for (int i = static_cast<int>(ThreadX()); i < n && found == kNone; i += kThreads) {
      if (m.candidates.cumulative[i] > target) found = static_cast<uint64_t>(i);
    }
    found = BlockMin(m, found);
    if (found == kNone && left <= w.count) found = static_cast<uint64_t>(n - 1);
    if (found != kNone) return IdOf(m.candidates.order[found]);
    NextInWalk(m, w);
  }
}

}  // namespace reprise::cuda::sampling

#endif  // REPRISE_KERNELS_CUDA_SAMPLE_CANDIDATES_H_
