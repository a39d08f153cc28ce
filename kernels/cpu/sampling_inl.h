// The sampling pieces over one row of logits.
#ifndef REPRISE_KERNELS_CPU_SAMPLING_INL_H_
#define REPRISE_KERNELS_CPU_SAMPLING_INL_H_

#include "kernels/cpu/math_inl.h"

namespace reprise::kernels::REPRISE_KERNEL_ISA {

// Sixteen logits; tail lanes and NaN are -inf.
static inline V LoadLogits(const float* logits, int64_t i, int64_t n) {
  const V floor = V::Set1(-kInfinity);
  if (n - i >= 16) return Max(V::Load(logits + i), floor);
  alignas(64) float tail[16];
  floor.Store(tail);
  for (int64_t j = 0; j < n - i; ++j) tail[j] = logits[i + j];
  return Max(V::Load(tail), floor);
}

static int64_t Argmax(const float* logits, int64_t n) {
  DenormalsOff denormals_off;
  int64_t best = -1;
  float best_logit = -kInfinity;
  for (int64_t i = 0; i < n; i += 16) {
    if (best >= 0 && !AnyGreater(LoadLogits(logits, i, n), V::Set1(best_logit))) continue;
    for (int64_t j = i; j < MinOf(n, i + 16); ++j) {
      if (logits[j] > best_logit || (best < 0 && logits[j] == best_logit)) {
        best = j;
        best_logit = logits[j];
      }
    }
  }
  return best;
}

static SoftmaxStats RowSoftmaxStats(const float* logits, int64_t n) {
  DenormalsOff denormals_off;
  V max = V::Set1(-kInfinity);
  for (int64_t i = 0; i < n; i += 16) max = Max(LoadLogits(logits, i, n), max);
  SoftmaxStats stats;
  stats.max = ReduceMax(max);
  if (stats.max == -kInfinity) return {-kInfinity, 0, -kInfinity};
  const V shift = V::Set1(stats.max);
  V sum = V::Zero();
  for (int64_t i = 0; i < n; i += 16) sum = Add(sum, Exp(Sub(LoadLogits(logits, i, n), shift)));
  stats.sum = ReduceAdd(sum);
  stats.lse = LogSumExp(stats.max, stats.sum);
  return stats;
}

// The order of top_k. +0 and -0 are equal.
static inline bool Before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Restores the heap whose top is the last candidate in order, after its element at `i` changed.
static void SiftDown(Candidate* heap, int64_t size, int64_t i) {
  const Candidate moved = heap[i];
  for (int64_t child = 2 * i + 1; child < size; child = 2 * i + 1) {
    if (child + 1 < size && Before(heap[child], heap[child + 1])) ++child;
    if (!Before(moved, heap[child])) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = moved;
}

static int64_t TopK(const float* logits, int64_t n, int64_t k, Candidate* out) {
  DenormalsOff denormals_off;
  int64_t size = 0;
  int64_t i = 0;
  for (; i < n && size < k; ++i) {
    if (logits[i] == logits[i]) out[size++] = {logits[i], static_cast<int32_t>(i)};
  }
  for (int64_t j = size / 2 - 1; j >= 0; --j) SiftDown(out, size, j);
  // A later id wins only with a larger logit, so most chunks fall to one comparison.
  while (i < n && size > 0) {
    const int64_t end = MinOf(n, i + 16);
    if (end - i < 16 || AnyGreater(V::Load(logits + i), V::Set1(out[0].logit))) {
      for (int64_t j = i; j < end; ++j) {
        if (!(logits[j] > out[0].logit)) continue;
        out[0] = {logits[j], static_cast<int32_t>(j)};
        SiftDown(out, size, 0);
      }
    }
    i = end;
  }
  for (int64_t last = size - 1; last > 0; --last) {
    const Candidate worst = out[0];
    out[0] = out[last];
    out[last] = worst;
    SiftDown(out, last, 0);
  }
  return size;
}

static void ApplyTemperature(float* logits, int64_t n, float temperature) {
  DenormalsOff denormals_off;
  const V t = V::Set1(temperature);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) Div(V::Load(logits + i), t).Store(logits + i);
  if (i < n) Div(V::LoadN(logits + i, n - i), t).StoreN(logits + i, n - i);
}

static void ApplyPenalties(float* logits, const TokenCount* counts, int64_t n_counts,
                           const Penalties& penalties) {
  DenormalsOff denormals_off;
  for (int64_t i = 0; i < n_counts; ++i) {
    const TokenCount& c = counts[i];
    float x = logits[c.id];
    if (c.prompt > 0 || c.output > 0) {
      x = x > 0 ? x / penalties.repetition : x * penalties.repetition;
    }
    if (c.output > 0) {
      x = x - (penalties.presence + penalties.frequency * static_cast<float>(c.output));
    }
    logits[c.id] = x;
  }
}

static double SoftmaxSorted(const Candidate* candidates, int64_t n, double* cumulative) {
  DenormalsOff denormals_off;
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    total += static_cast<double>(Exp(candidates[i].logit - candidates[0].logit));
    cumulative[i] = total;
  }
  return total;
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_SAMPLING_INL_H_
