// Matrices in double precision whose elements travel with the largest distance that the same
// computation in f32 can have from them: a running error analysis (Higham, Accuracy and Stability
// of Numerical Algorithms, section 3.3) of the kernels' operations. A worst case, not an estimate.
// Pure functions; any thread.
#ifndef REPRISE_WORKER_MODEL_BOUNDED_H_
#define REPRISE_WORKER_MODEL_BOUNDED_H_

#include <cstdint>
#include <vector>

namespace reprise::worker {

// Unit roundoffs, half the distance from 1 to the next number: f32 keeps 24 bits of significand,
// bf16 keeps 8.
inline constexpr double kF32Unit = 0x1p-24;
inline constexpr double kBf16Unit = 0x1p-8;

struct DoubleMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<double> values;  // [rows, cols]
  const double* row(int64_t r) const { return values.data() + r * cols; }
};
DoubleMatrix RowsOf(const DoubleMatrix& m, int64_t first, int64_t rows);
DoubleMatrix Transposed(const DoubleMatrix& m);

struct Bounded {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<double> value;  // [rows, cols]
  std::vector<double> bound;  // [rows, cols]
  const double* values(int64_t r) const { return value.data() + r * cols; }
  const double* bounds(int64_t r) const { return bound.data() + r * cols; }
};
Bounded Zeros(int64_t rows, int64_t cols);
Bounded ColumnsOf(const Bounded& x, int64_t first, int64_t cols);
Bounded SideBySide(const Bounded& a, const Bounded& b);

// x W^T by 16-lane sums.
Bounded Product(const Bounded& x, const DoubleMatrix& w);
// x / rms(x) * weight, eps inside the root.
Bounded RmsNorm(const Bounded& x, const DoubleMatrix& weight, double eps);

// Columns of x that are rotated in pairs: pair i is (first + i * step, first + i * step + apart).
struct RotatedPairs {
  int64_t first = 0;
  int64_t step = 1;
  int64_t apart = 0;
  double amplitude = 1;
};
// Row r stands at position r.
void Rotate(const std::vector<double>& inv_freq, const RotatedPairs& pairs, Bounded* x);

// What causal attention gives each key up to row t: a weight, and by which share of itself it may
// move.
struct KeyWeights {
  std::vector<double> weight, share;
  double rounded = 0;  // relative, by everything after the scores
};
KeyWeights WeighKeys(const Bounded& q, const Bounded& k, double scale, int64_t t);
// The values of row t's keys by their weights: row t of the result.
void WeighValues(const KeyWeights& w, const Bounded& v, int64_t t, Bounded* out);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_BOUNDED_H_
