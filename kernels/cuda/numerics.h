// The order of operations of attention on the device: what makes a row's bits depend on nothing but
// its own query and the keys it sees. It joins the numerics class (docs/gpu.md), which is not the
// CPU's.
//
//   step form    (generated rows) keys are cut at absolute multiples of kStepLeaf; in a leaf,
//   blocks of
//                64 keys ascending, online softmax with P rounded to bf16. Leaves join by the
//                binary tree over the absolute leaf index (ops.h, MergeArgs' rule, with Exp2 and
//                Log2).
//   prompt form  the same with kPromptLeaf and blocks of kPromptBlock keys.
//
// Which threads, blocks or ranks compute a leaf, and in what company, changes no bit.
#ifndef REPRISE_KERNELS_CUDA_NUMERICS_H_
#define REPRISE_KERNELS_CUDA_NUMERICS_H_

#include "kernels/cuda/device/device.h"

namespace reprise::cuda {

inline constexpr int kStepLeaf = 256;
inline constexpr int kPromptLeaf = 4096;
inline constexpr int kPromptBlock = 128;

inline constexpr float kLog2E = 1.4426950408889634F;
inline constexpr float kLn2 = 0.6931471805599453F;

// Weights of two partial results with log-sum-exps in base 2, and what they have together. A side
// with -inf has weight 0 and leaves the other's bits untouched; two such give -inf.
struct MergeWeights {
  float left;
  float right;
  float lse2;
};
REPRISE_DEVICE MergeWeights WeightsOf(float left_lse2, float right_lse2) {
  if (right_lse2 == -Infinity()) return {1, 0, left_lse2};
  if (left_lse2 == -Infinity()) return {0, 1, right_lse2};
  const float top = Max(left_lse2, right_lse2);
  const float l = Exp2(left_lse2 - top);
  const float r = Exp2(right_lse2 - top);
  const float sum = l + r;
  return {Divide(l, sum), Divide(r, sum), top + Log2(sum)};
}
REPRISE_DEVICE float Merged(const MergeWeights& w, float left, float right) {
  if (w.right == 0) return left;
  if (w.left == 0) return right;
  return Fma(left, w.left, right * w.right);
}

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_NUMERICS_H_
