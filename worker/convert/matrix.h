// Small dense matrices of doubles and the eigenvectors of a symmetric one: what converting a model
// needs of linear algebra. Made of additions, multiplications, divisions and square roots in a
// fixed order, so that every machine gets the same bits. Pure functions; any thread.
#ifndef REPRISE_WORKER_CONVERT_MATRIX_H_
#define REPRISE_WORKER_CONVERT_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/status.h"

namespace reprise::convert {

// Row-major.
class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t cols)
      : rows_(rows), cols_(cols), values_(static_cast<size_t>(rows * cols)) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  double* row(int64_t r) { return values_.data() + r * cols_; }
  const double* row(int64_t r) const { return values_.data() + r * cols_; }
  double& at(int64_t r, int64_t c) { return row(r)[c]; }
  double at(int64_t r, int64_t c) const { return row(r)[c]; }
  std::vector<double>& values() { return values_; }
  const std::vector<double>& values() const { return values_; }
  bool operator==(const Matrix&) const = default;

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  std::vector<double> values_;
};

Matrix Identity(int64_t n);
Matrix Transposed(const Matrix& m);
// a b. What is multiplied by zero is left out: a row of an identity copies to the bit.
Matrix Product(const Matrix& a, const Matrix& b);
// Rows [first, first + rows), columns [first, first + cols).
Matrix RowsOf(const Matrix& m, int64_t first, int64_t rows);
Matrix ColumnsOf(const Matrix& m, int64_t first, int64_t cols);
// m[i][j] += scale * other[i][j].
void AddScaled(Matrix& m, double scale, const Matrix& other);
void Scale(Matrix& m, double factor);
double Trace(const Matrix& m);

struct Eigen {
  std::vector<double> values;  // descending
  Matrix vectors;              // row i belongs to values[i]; orthonormal
};
// Of a symmetric matrix: Householder's reduction to three diagonals,
// then implicit QL with Wilkinson's shift (Golub and Van Loan, Matrix Computations, sections 8.3.1
// and 8.3.3). INTERNAL when an eigenvalue does not come out within 64 sweeps, as with what is not
// finite.
StatusOr<Eigen> SymmetricEigen(Matrix m);

}  // namespace reprise::convert

#endif  // REPRISE_WORKER_CONVERT_MATRIX_H_
