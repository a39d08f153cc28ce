#include "worker/model/bounded.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace reprise::worker {
namespace {

constexpr double kTable = 1e-7 + 2 * kF32Unit;  // absolute, of cos and sin (kernels::FillRopeTable)
constexpr double kExp = 0x1p-22;                // relative: two ulp (kernels/math_test)
constexpr double kFlushed = 1e-30;              // absolute: all denormals of a sum together

// Roundings one after the other in a 16-lane sum of n: those of a lane, the lane tree, and a few
// around it.
double SumRoundings(int64_t n) {
  const int64_t roundings = (n + 15) / 16 + 8;
  return static_cast<double>(roundings) * kF32Unit;
}

}  // namespace

DoubleMatrix RowsOf(const DoubleMatrix& m, int64_t first, int64_t rows) {
  return {rows, m.cols, {m.row(first), m.row(first + rows)}};
}

DoubleMatrix Transposed(const DoubleMatrix& m) {
  DoubleMatrix t{m.cols, m.rows, std::vector<double>(m.values.size())};
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t c = 0; c < m.cols; ++c)
      t.values[static_cast<size_t>(c * m.rows + r)] = m.row(r)[c];
  }
  return t;
}

Bounded Zeros(int64_t rows, int64_t cols) {
  const auto size = static_cast<size_t>(rows * cols);
  return {rows, cols, std::vector<double>(size), std::vector<double>(size)};
}

Bounded ColumnsOf(const Bounded& x, int64_t first, int64_t cols) {
  Bounded part = Zeros(x.rows, cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    std::copy_n(x.values(r) + first, cols, part.value.begin() + r * cols);
    std::copy_n(x.bounds(r) + first, cols, part.bound.begin() + r * cols);
  }
  return part;
}

Bounded SideBySide(const Bounded& a, const Bounded& b) {
  Bounded both{a.rows, a.cols + b.cols, {}, {}};
  for (int64_t r = 0; r < a.rows; ++r) {
    for (const Bounded* x : {&a, &b}) {
      both.value.insert(both.value.end(), x->values(r), x->values(r + 1));
      both.bound.insert(both.bound.end(), x->bounds(r), x->bounds(r + 1));
    }
  }
  return both;
}

// |error| <= sum |w| e + (roundings of the sum) sum |w| (|x| + e).
Bounded Product(const Bounded& x, const DoubleMatrix& w) {
  Bounded y = Zeros(x.rows, w.rows);
  const double roundings = SumRoundings(w.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    const double* value = x.values(r);
    const double* bound = x.bounds(r);
    for (int64_t o = 0; o < w.rows; ++o) {
      const double* row = w.row(o);
      double sum = 0;
      double moved = 0;
      double magnitude = 0;
      for (int64_t k = 0; k < w.cols; ++k) {
        sum += row[k] * value[k];
        moved += std::abs(row[k]) * bound[k];
        magnitude += std::abs(row[k]) * (std::abs(value[k]) + bound[k]);
      }
      const auto at = static_cast<size_t>(r * w.rows + o);
      y.value[at] = sum;
      y.bound[at] = moved + roundings * magnitude + kFlushed;
    }
  }
  return y;
}

// With N the root mean square and d that of the input's errors, N moves by at most d (the triangle
// inequality), so x / N moves by at most e / (N - d) + |x| d / (N (N - d)).
Bounded RmsNorm(const Bounded& x, const DoubleMatrix& weight, double eps) {
  Bounded y = Zeros(x.rows, x.cols);
  const auto n = static_cast<double>(x.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    const auto row = static_cast<size_t>(r * x.cols);
    double squares = 0;
    double errors = 0;
    for (size_t c = row; c < row + static_cast<size_t>(x.cols); ++c) {
      squares += x.value[c] * x.value[c];
      errors += x.bound[c] * x.bound[c];
    }
    const double rms = std::sqrt(squares / n + eps);
    const double d = std::sqrt(errors / n);
    const double least = std::max(rms - d, 0.0);  // zero: the bound becomes infinite, which is true
    for (int64_t c = 0; c < x.cols; ++c) {
      const size_t at = row + static_cast<size_t>(c);
      const double w = std::abs(weight.values[static_cast<size_t>(c)]);
      y.value[at] = x.value[at] / rms * weight.values[static_cast<size_t>(c)];
      const double moved = w * (x.bound[at] / least + std::abs(x.value[at]) * d / (rms * least));
      y.bound[at] = moved + SumRoundings(x.cols) * (std::abs(y.value[at]) + moved) + kFlushed;
    }
  }
  return y;
}

void Rotate(const std::vector<double>& inv_freq, const RotatedPairs& pairs, Bounded* x) {
  for (int64_t r = 0; r < x->rows; ++r) {
    for (size_t i = 0; i < inv_freq.size(); ++i) {
      const double angle = static_cast<double>(r) * inv_freq[i];
      const double c = pairs.amplitude * std::cos(angle);
      const double s = pairs.amplitude * std::sin(angle);
      const auto ia =
          static_cast<size_t>(r * x->cols + pairs.first + static_cast<int64_t>(i) * pairs.step);
      const size_t ib = ia + static_cast<size_t>(pairs.apart);
      const double a = x->value[ia];
      const double b = x->value[ib];
      const double ea = x->bound[ia];
      const double eb = x->bound[ib];
      x->value[ia] = a * c - b * s;
      x->value[ib] = b * c + a * s;
      const double rounded =
          (pairs.amplitude * kTable + 3 * kF32Unit) * (std::abs(a) + ea + std::abs(b) + eb) +
          kFlushed;
      x->bound[ia] = std::abs(c) * ea + std::abs(s) * eb + rounded;
      x->bound[ib] = std::abs(c) * eb + std::abs(s) * ea + rounded;
    }
  }
}

// Scores that move by at most e_j move the weights p_j by factors between exp(-e_j) / U and
// exp(e_j) / D, U and D the sums of p_i exp(e_i) and of p_i exp(-e_i).
KeyWeights WeighKeys(const Bounded& q, const Bounded& k, double scale, int64_t t) {
  const auto keys = static_cast<size_t>(t + 1);
  std::vector<double> score(keys), error(keys);
  for (size_t j = 0; j < keys; ++j) {
    double sum = 0;
    double moved = 0;
    double magnitude = 0;
    for (int64_t i = 0; i < q.cols; ++i) {
      const auto a = static_cast<size_t>(t * q.cols + i);
      const size_t b = j * static_cast<size_t>(k.cols) + static_cast<size_t>(i);
      const double q_size = std::abs(q.value[a]);
      const double k_size = std::abs(k.value[b]) + k.bound[b];
      sum += q.value[a] * k.value[b];
      moved += q_size * k.bound[b] + q.bound[a] * k_size;
      magnitude += (q_size + q.bound[a]) * k_size;
    }
    score[j] = scale * sum;
    error[j] = scale * (moved + SumRoundings(q.cols) * magnitude) + kFlushed;
  }
  const auto [least, most] = std::minmax_element(score.begin(), score.end());
  KeyWeights w;
  for (const double s : score) w.weight.push_back(std::exp(s - *most));
  const double total = std::accumulate(w.weight.begin(), w.weight.end(), 0.0);
  double up = 0;
  double down = 0;
  for (size_t j = 0; j < keys; ++j) {
    w.weight[j] /= total;
    up += w.weight[j] * std::exp(error[j]);
    down += w.weight[j] * std::exp(-error[j]);
  }
  for (const double e : error) {
    w.share.push_back(std::max(std::exp(e) / down - 1, 1 - std::exp(-e) / up));
  }
  // Blocks of 64 keys and the tree of leaves rescale what came before them: an exp each.
  const int64_t merges = t / 64 + 16;
  const auto rescales = static_cast<double>(merges);
  const double range = *most - *least + 2 * *std::max_element(error.begin(), error.end());
  w.rounded = (rescales + 1) * (kExp + kF32Unit * range) +
              (static_cast<double>(keys) + 3 * rescales) * kF32Unit;
  return w;
}

// Since all weights together stay one, their errors count times the values' distance from the
// output.
void WeighValues(const KeyWeights& w, const Bounded& v, int64_t t, Bounded* out) {
  for (int64_t c = 0; c < v.cols; ++c) {
    const auto to = static_cast<size_t>(t * v.cols + c);
    double sum = 0;
    for (size_t j = 0; j < w.weight.size(); ++j) {
      sum += w.weight[j] * v.values(static_cast<int64_t>(j))[c];
    }
    double moved = 0;
    for (size_t j = 0; j < w.weight.size(); ++j) {
      const double value = v.values(static_cast<int64_t>(j))[c];
      const double error = v.bounds(static_cast<int64_t>(j))[c];
      moved += w.weight[j] * (w.share[j] * std::abs(value - sum) +
                              (1 + w.share[j]) * (error + w.rounded * (std::abs(value) + error)));
    }
    out->value[to] = sum;
    out->bound[to] = moved;
  }
}

}  // namespace reprise::worker
