// Latent attention in double precision from a folder's own tensors, with a bound of what rounding
// to f32 and bf16 may do to it. The oracle of tests and benchmarks: slow, and it shares no code
// with what serves.
//
// The bound of an element is the sum of two (docs/models.md has the derivation):
//   f32   the worst case of every f32 operation, by running error analysis (bounded.h)
//   bf16  kDeviations 2^-8 sqrt(sum of (d out / d a)^2 a^2) over all numbers a that are rounded to
//         bf16 on the way, the derivatives exact: Hoeffding's inequality for independent roundings
//         of mean zero, to first order
#ifndef REPRISE_WORKER_MODEL_LATENT_REFERENCE_H_
#define REPRISE_WORKER_MODEL_LATENT_REFERENCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "kernels/ops.h"
#include "worker/model/bounded.h"
#include "worker/model/model_folder.h"

namespace reprise::worker {

// Exceeded by one element in 2 exp(-8^2 / 2): once in 4e13.
inline constexpr double kDeviations = 8;

enum class LatentForm : uint8_t { kExpanded, kAbsorbed };

// What the computation rounds to: kF32 or kBF16.
struct LatentRounding {
  kernels::DType weights = kernels::DType::kF32;  // products round their inputs to it
  kernels::DType cache = kernels::DType::kF32;
};

class LatentReference {
 public:
  // UNIMPLEMENTED for a model without latent attention, with biases or in FP8.
  static StatusOr<LatentReference> Load(const ModelFolder& folder, int64_t layer);

  // Attention before the output projection, [rows, heads * value_dim], of a sequence whose rows
  // [0, x.rows) come out of the layer's norm as x [rows, hidden]. With bf16 weights x must hold
  // bf16 numbers: its own rounding is not counted.
  Bounded Attended(const kernels::F32& x, LatentForm form, const LatentRounding& rounding) const;

 private:
  struct Rows;     // queries and cache rows
  struct Head;     // of them, one head's
  struct Sources;  // which numbers are rounded to bf16

  LatentReference() = default;
  RotatedPairs PairsAt(int64_t first_col) const;
  Rows Project(const kernels::F32& x) const;
  Head HeadOf(const Rows& rows, int64_t head) const;
  Bounded AttendHead(const Rows& rows, const Head& head, LatentForm form) const;
  void AddBf16(const Rows& rows, const Head& head, const Sources& sources, Bounded* out) const;
  double RowVariance(const Rows& rows, const Head& head, const Sources& sources, int64_t t,
                     int64_t c, const std::vector<double>& weights, double out) const;
  double QueryVariance(const Rows& rows, const Head& head, const Sources& sources, int64_t t,
                       const std::vector<double>& by_query) const;

  ModelConfig config_;
  std::vector<double> inv_freq_;
  DoubleMatrix q_a_, q_a_norm_, q_, kv_a_, kv_a_norm_, kv_b_;
};

// The largest distance of `found` from the reference over its bound: at most 1 when the bound
// holds. What is not a number is infinitely far.
double LargestShareOfBound(const kernels::F32& found, const Bounded& want);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_LATENT_REFERENCE_H_
