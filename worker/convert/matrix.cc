#include "worker/convert/matrix.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace reprise::convert {
namespace {

constexpr int kSweepsMax = 64;  // of QL for one eigenvalue; two or three are usual

// to[i] += scale * from[i].
void AddRow(double scale, const double* from, int64_t n, double* to) {
  for (int64_t i = 0; i < n; ++i) to[i] += scale * from[i];
}

double Dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// The three diagonals of a symmetric matrix, and the rows that will become its eigenvectors.
struct Tridiagonal {
  std::vector<double> diagonal;  // [n]
  std::vector<double> beside;    // [n], the last is 0
  Matrix rows;                   // Q^T of m = Q T Q^T
  double nothing = 0;            // what beside the diagonal is as small as rounding makes it
};

// The reflection I - beta v v^T that leaves of x only its first element.
struct Reflection {
  std::vector<double> v;
  double beta = 0;
  double first = 0;  // what is left
};

Reflection ReflectionOf(std::vector<double> x) {
  const auto n = static_cast<int64_t>(x.size());
  Reflection r;
  r.first = x[0];
  const double rest = Dot(x.data() + 1, x.data() + 1, n - 1);
  if (rest != 0) {
    const double length = std::sqrt(x[0] * x[0] + rest);
    r.first = x[0] > 0 ? -length : length;
    x[0] -= r.first;
    r.beta = 2 / (x[0] * x[0] + rest);
  }
  r.v = std::move(x);
  return r;
}

// The square of size n at (at, at): reflected from both sides.
void ReflectSquare(const Reflection& r, int64_t at, Matrix& m) {
  const auto n = static_cast<int64_t>(r.v.size());
  std::vector<double> p(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    p[static_cast<size_t>(i)] = r.beta * Dot(m.row(at + i) + at, r.v.data(), n);
  }
  AddRow(-r.beta / 2 * Dot(p.data(), r.v.data(), n), r.v.data(), n, p.data());
  for (int64_t i = 0; i < n; ++i) {
    double* row = m.row(at + i) + at;
    AddRow(-r.v[static_cast<size_t>(i)], p.data(), n, row);
    AddRow(-p[static_cast<size_t>(i)], r.v.data(), n, row);
  }
}

void ReflectRows(const Reflection& r, int64_t at, Matrix& rows) {
  const auto n = static_cast<int64_t>(r.v.size());
  std::vector<double> sum(static_cast<size_t>(rows.cols()));
  for (int64_t i = 0; i < n; ++i) {
    AddRow(r.v[static_cast<size_t>(i)], rows.row(at + i), rows.cols(), sum.data());
  }
  for (int64_t i = 0; i < n; ++i) {
    AddRow(-r.beta * r.v[static_cast<size_t>(i)], sum.data(), rows.cols(), rows.row(at + i));
  }
}

Tridiagonal Reduce(Matrix m) {
  const int64_t n = m.rows();
  Tridiagonal t{std::vector<double>(static_cast<size_t>(n)),
                std::vector<double>(static_cast<size_t>(n)), Identity(n), 0};
  for (int64_t k = 0; k + 1 < n; ++k) {
    std::vector<double> below;
    for (int64_t i = k + 1; i < n; ++i) below.push_back(m.at(i, k));
    const Reflection r = ReflectionOf(std::move(below));
    t.beside[static_cast<size_t>(k)] = r.first;
    if (r.beta == 0) continue;
    ReflectSquare(r, k + 1, m);
    ReflectRows(r, k + 1, t.rows);
  }
  for (int64_t i = 0; i < n; ++i) t.diagonal[static_cast<size_t>(i)] = m.at(i, i);
  double size = 0;
  for (size_t i = 0; i < t.diagonal.size(); ++i) {
    size = std::max(size, std::abs(t.diagonal[i]) + std::abs(t.beside[i]));
  }
  t.nothing = std::numeric_limits<double>::epsilon() * size;
  return t;
}

// Rows i and i + 1 turned by an angle of this cosine and sine.
void Turn(Matrix& rows, int64_t i, double c, double s) {
  double* a = rows.row(i);
  double* b = rows.row(i + 1);
  for (int64_t j = 0; j < rows.cols(); ++j) {
    const double was = a[j];
    a[j] = c * was - s * b[j];
    b[j] = s * was + c * b[j];
  }
}

// The last index from `first` on that is joined to it by elements beside the diagonal.
size_t EndOfBlock(const Tridiagonal& t, size_t first) {
  size_t last = first;
  while (last + 1 < t.diagonal.size() && !(std::abs(t.beside[last]) <= t.nothing)) ++last;
  return last;
}

// One sweep over the block [first, last], its bulge chased upwards.
void Sweep(Tridiagonal& t, size_t first, size_t last) {
  std::vector<double>& d = t.diagonal;
  std::vector<double>& e = t.beside;
  const double gap = (d[first + 1] - d[first]) / (2 * e[first]);
  const double root = std::sqrt(gap * gap + 1);
  double x = d[last] - d[first] + e[first] / (gap + (gap < 0 ? -root : root));
  double c = 1;
  double s = 1;
  double carried = 0;
  for (size_t i = last; i-- > first;) {
    const double bulge = s * e[i];
    const double kept = c * e[i];
    const double length = std::sqrt(bulge * bulge + x * x);
    e[i + 1] = length;
    if (length == 0) {  // the block falls apart here
      d[i + 1] -= carried;
      e[last] = 0;
      return;
    }
    s = bulge / length;
    c = x / length;
    const double moved = d[i + 1] - carried;
    const double r = (d[i] - moved) * s + 2 * c * kept;
    carried = s * r;
    d[i + 1] = moved + carried;
    x = c * r - kept;
    Turn(t.rows, static_cast<int64_t>(i), c, s);
  }
  d[first] -= carried;
  e[first] = x;
  e[last] = 0;
}

Eigen Sorted(const Tridiagonal& t) {
  std::vector<size_t> order(t.diagonal.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&t](size_t a, size_t b) { return t.diagonal[a] > t.diagonal[b]; });
  Eigen eigen{{}, Matrix(t.rows.rows(), t.rows.cols())};
  for (const size_t from : order) {
    const auto to = static_cast<int64_t>(eigen.values.size());
    eigen.values.push_back(t.diagonal[from]);
    std::copy_n(t.rows.row(static_cast<int64_t>(from)), t.rows.cols(), eigen.vectors.row(to));
  }
  return eigen;
}

}  // namespace

Matrix Identity(int64_t n) {
  Matrix m(n, n);
  for (int64_t i = 0; i < n; ++i) m.at(i, i) = 1;
  return m;
}

Matrix Transposed(const Matrix& m) {
  Matrix t(m.cols(), m.rows());
  for (int64_t r = 0; r < m.rows(); ++r) {
    for (int64_t c = 0; c < m.cols(); ++c) t.at(c, r) = m.at(r, c);
  }
  return t;
}

Matrix Product(const Matrix& a, const Matrix& b) {
  Matrix product(a.rows(), b.cols());
  for (int64_t r = 0; r < a.rows(); ++r) {
    for (int64_t k = 0; k < a.cols(); ++k) {
      if (a.at(r, k) != 0) AddRow(a.at(r, k), b.row(k), b.cols(), product.row(r));
    }
  }
  return product;
}

Matrix RowsOf(const Matrix& m, int64_t first, int64_t rows) {
  Matrix part(rows, m.cols());
  std::copy_n(m.row(first), rows * m.cols(), part.values().data());
  return part;
}

Matrix ColumnsOf(const Matrix& m, int64_t first, int64_t cols) {
  Matrix part(m.rows(), cols);
  for (int64_t r = 0; r < m.rows(); ++r) std::copy_n(m.row(r) + first, cols, part.row(r));
  return part;
}

void AddScaled(Matrix& m, double scale, const Matrix& other) {
  AddRow(scale, other.row(0), static_cast<int64_t>(m.values().size()), m.row(0));
}

void Scale(Matrix& m, double factor) {
  for (double& x : m.values()) x *= factor;
}

double Trace(const Matrix& m) {
  double sum = 0;
  for (int64_t i = 0; i < m.rows(); ++i) sum += m.at(i, i);
  return sum;
}

StatusOr<Eigen> SymmetricEigen(Matrix m) {
  Tridiagonal t = Reduce(std::move(m));
  for (size_t first = 0; first < t.diagonal.size(); ++first) {
    int sweeps = 0;
    for (size_t last = EndOfBlock(t, first); last != first; last = EndOfBlock(t, first)) {
      if (++sweeps > kSweepsMax) {
        return absl::InternalError(absl::StrCat("eigenvalue ", first, " of ", t.diagonal.size(),
                                                " is not found within ", kSweepsMax, " sweeps"));
      }
      Sweep(t, first, last);
    }
  }
  return Sorted(t);
}

}  // namespace reprise::convert
