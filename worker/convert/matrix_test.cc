#include "worker/convert/matrix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "common/random.h"

namespace reprise::convert {
namespace {

double Uniform(SplitMix64& random) {
  return static_cast<double>(random.Below(1 << 30)) / (1 << 29) - 1;
}

Matrix Random(int64_t rows, int64_t cols, uint64_t seed) {
  SplitMix64 random(seed);
  Matrix m(rows, cols);
  for (double& x : m.values()) x = Uniform(random);
  return m;
}

// Of rank `rank` at most.
Matrix RandomSquares(int64_t n, int64_t rank, uint64_t seed) {
  const Matrix half = Random(n, rank, seed);
  return Product(half, Transposed(half));
}

double Largest(const Matrix& m) {
  double largest = 0;
  for (const double x : m.values()) largest = std::max(largest, std::abs(x));
  return largest;
}

Matrix Difference(Matrix a, const Matrix& b) {
  AddScaled(a, -1, b);
  return a;
}

void ExpectEigen(const Matrix& m) {
  const auto eigen = SymmetricEigen(m);
  ASSERT_TRUE(eigen.ok()) << eigen.status();
  const int64_t n = m.rows();
  const Matrix& v = eigen->vectors;
  EXPECT_LT(Largest(Difference(Product(v, Transposed(v)), Identity(n))), 1e-12) << "orthonormal";
  Matrix scaled = v;
  for (int64_t i = 0; i < n; ++i) {
    const double value = eigen->values[static_cast<size_t>(i)];
    for (int64_t j = 0; j < n; ++j) scaled.at(i, j) *= value;
    if (i > 0) EXPECT_GE(eigen->values[static_cast<size_t>(i) - 1], value);
  }
  const double size = 1 + Largest(m);
  EXPECT_LT(Largest(Difference(Product(Transposed(v), scaled), m)) / size, 1e-12 * n) << n;
}

TEST(Matrix, EigenvectorsOfRandomSymmetricMatrices) {
  for (const int64_t n : {1, 2, 3, 5, 16, 64, 130}) {
    ExpectEigen(RandomSquares(n, n, 1));
    Matrix mixed = Random(n, n, 2);
    AddScaled(mixed, 1, Transposed(mixed));
    ExpectEigen(mixed);
  }
}

TEST(Matrix, EigenvectorsWhereValuesAreEqualOrZero) {
  ExpectEigen(Matrix(6, 6));
  ExpectEigen(Identity(7));
  ExpectEigen(RandomSquares(20, 3, 3));
  Matrix twice(12, 12);  // every value two times, as a Hermitian matrix written in reals has them
  const Matrix once = RandomSquares(6, 6, 4);
  for (int64_t i = 0; i < 6; ++i) {
    for (int64_t j = 0; j < 6; ++j) twice.at(i, j) = twice.at(i + 6, j + 6) = once.at(i, j);
  }
  ExpectEigen(twice);
}

TEST(Matrix, KnownEigenvalues) {
  Matrix m(2, 2);
  m.at(0, 0) = m.at(1, 1) = 2;
  m.at(0, 1) = m.at(1, 0) = 1;
  const auto eigen = SymmetricEigen(m);
  ASSERT_TRUE(eigen.ok()) << eigen.status();
  EXPECT_NEAR(eigen->values[0], 3, 1e-15);
  EXPECT_NEAR(eigen->values[1], 1, 1e-15);
}

TEST(Matrix, WhatIsNotFiniteEndsInAnError) {
  Matrix m = RandomSquares(5, 5, 5);
  m.at(3, 2) = m.at(2, 3) = std::numeric_limits<double>::quiet_NaN();
  const auto eigen = SymmetricEigen(m);
  ASSERT_FALSE(eigen.ok());
  EXPECT_NE(std::string(eigen.status().message()).find("within 64 sweeps"), std::string::npos);
}

TEST(Matrix, AnIdentityCopiesToTheBit) {
  Matrix m = Random(4, 3, 6);
  m.at(1, 1) = -0.0;
  m.at(2, 2) = std::numeric_limits<double>::infinity();
  EXPECT_EQ(Product(Identity(4), m), m);
}

}  // namespace
}  // namespace reprise::convert
