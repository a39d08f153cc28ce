// The online softmax of attention kernels on tensor cores, over accumulator fragments (matrix.h): a
// thread holds two rows of 64 x n scores, of each n / 4 columns, and shares them with three others.
#ifndef REPRISE_KERNELS_CUDA_SOFTMAX_ROWS_H_
#define REPRISE_KERNELS_CUDA_SOFTMAX_ROWS_H_

#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/numerics.h"

namespace reprise::cuda {

// Row r of a thread, 0 or 1, is in elements 4 j + 2 r and 4 j + 2 r + 1 of a fragment.
struct SoftmaxRows {
  float top[2];  // greatest score so far
  float sum[2];  // of this thread's columns
};

REPRISE_DEVICE void Clear(SoftmaxRows* rows) {
  REPRISE_UNROLL
  for (int r = 0; r < 2; ++r) {
    rows->top[r] = -Infinity();
    rows->sum[r] = 0;
  }
}

// Scores of columns beyond last[r] are not seen. `column`: this thread's first, 2 (t % 4).
template <int kCount>
REPRISE_DEVICE void Hide(const int32_t (&last)[2], int32_t column, float (&scores)[kCount]) {
  REPRISE_UNROLL
  for (int i = 0; i < kCount; ++i) {
    if (column + i / 4 * 8 + i % 2 > last[i / 2 % 2]) scores[i] = -Infinity();
  }
}

// The next block's scores become exp2(scale2 * (score - top)). What was summed up to here counts
// `keep` of what it did. A block of which a row sees nothing changes nothing of the row: keep is 1.
template <int kCount>
REPRISE_DEVICE void AddBlock(float scale2, float (&scores)[kCount], SoftmaxRows* rows,
                             float (&keep)[2]) {
  REPRISE_UNROLL
  for (int r = 0; r < 2; ++r) {
    float top = rows->top[r];
    REPRISE_UNROLL
    for (int i = 2 * r; i < kCount; i += 4) top = Max(top, Max(scores[i], scores[i + 1]));
    top = MaxOf(top, 4);
    const float shown = top == -Infinity() ? 0 : top;
    keep[r] = Exp2((rows->top[r] - shown) * scale2);
    const float base = -(shown * scale2);
    float sum = 0;
    REPRISE_UNROLL
    for (int i = 2 * r; i < kCount; i += 4) {
      scores[i] = Exp2(Fma(scores[i], scale2, base));
      scores[i + 1] = Exp2(Fma(scores[i + 1], scale2, base));
      sum = sum + (scores[i] + scores[i + 1]);
    }
    rows->sum[r] = Fma(rows->sum[r], keep[r], sum);
    rows->top[r] = top;
  }
}

template <int kCount>
REPRISE_DEVICE void Scale(const float (&by)[2], float (&values)[kCount]) {
  REPRISE_UNROLL
  for (int i = 0; i < kCount; ++i) values[i] = values[i] * by[i / 2 % 2];
}

// Weights as operand a of the next product, 16 columns a step.
template <int kSteps>
REPRISE_DEVICE void PackWeights(const float (&weights)[kSteps * 8], uint32_t (&a)[kSteps][4]) {
  REPRISE_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    REPRISE_UNROLL
    for (int i = 0; i < 4; ++i) {
      a[step][i] = PackBf16(weights[8 * step + 2 * i], weights[8 * step + 2 * i + 1]);
    }
  }
}

// At a leaf's end, of whole sums: log-sum-exp in base 2, and what its weighted sum is to be
// multiplied with.
REPRISE_DEVICE void Finish(float scale2, const float (&top)[2], const float (&sum)[2],
                           float (&lse2)[2], float (&inverse)[2]) {
  REPRISE_UNROLL
  for (int r = 0; r < 2; ++r) {
    const bool seen = top[r] != -Infinity();
    lse2[r] = seen ? Fma(top[r], scale2, Log2(sum[r])) : -Infinity();
    inverse[r] = seen ? Divide(1, sum[r]) : 0;
  }
}

// Four threads of a row: thread c of them gets what the others have at index c, in their order.
REPRISE_DEVICE void ExchangeFour(uint32_t (&x)[4]) {
  REPRISE_UNROLL
  for (uint32_t step = 1; step <= 2; step *= 2) {
    const bool upper = (Lane() & step) != 0;
    REPRISE_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
      if ((i & step) != 0) continue;
      const uint32_t got = ShuffleXor(upper ? x[i] : x[i | step], step);
      x[i] = upper ? got : x[i];
      x[i | step] = upper ? x[i | step] : got;
    }
  }
}

// Row r of results, columns in order from `to` on, aligned to 16 bytes. All threads of the row
// come; `ours`: it is written. Pairs of columns are brought together to 16 bytes a thread first.
template <int kCount>
REPRISE_DEVICE void StoreRow(const float (&results)[kCount], int r, bool ours, Bf16* to) {
  REPRISE_UNROLL
  for (int group = 0; group < kCount / 16; ++group) {
    Words words;
    REPRISE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int at = 16 * group + 4 * i + 2 * r;
      words.w[i] = PackBf16(results[at], results[at + 1]);
    }
    ExchangeFour(words.w);
    if (ours) Store16(to + 32 * group + static_cast<int>(Lane() % 4) * 8, words);
  }
}
template <int kCount>
REPRISE_DEVICE void StoreRow(const float (&results)[kCount], int r, bool ours, float* to) {
  struct alignas(8) Pair {
    float x[2];
  };
  REPRISE_UNROLL
  for (int j = 0; j < kCount / 4; ++j) {
    auto* at = reinterpret_cast<Pair*>(to + 8 * j + static_cast<int>(Lane() % 4) * 2);
    if (ours) *at = {{results[4 * j + 2 * r], results[4 * j + 2 * r + 1]}};
  }
}

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_SOFTMAX_ROWS_H_
