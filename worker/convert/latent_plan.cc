#include "worker/convert/latent_plan.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "common/limits.h"

namespace reprise::convert {
namespace {

// Squared length below which a vector lies in the span of those before it: rounding leaves 1e-28.
constexpr double kNothingLeft = 1e-6;

Status OutOfRange(absl::string_view what, int64_t value, int64_t min, int64_t max) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is ", value, ", the range for this model is ", min, " to ", max));
}

Status CheckRopeDims(const LatentShape& s) {
  if (s.rope_dims < 2 || s.rope_dims > s.keys()) {
    return OutOfRange("rope dims", s.rope_dims, 2, s.keys());
  }
  const bool strided = s.rope_dims < s.head_dim && s.head_dim % s.rope_dims == 0;
  if ((!strided && s.rope_dims % s.head_dim != 0) || s.rope_dims % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("rope dims are ", s.rope_dims,
                                                   ", neither an even divisor of a head's ",
                                                   s.head_dim, " nor a multiple of them"));
  }
  if (s.rope_dims > limits::kHeadDimMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("rope dims are ", s.rope_dims, ", the limit is ", limits::kHeadDimMax));
  }
  return absl::OkStatus();
}

Status CheckFold(const LatentShape& s) {
  const int64_t pairs = s.head_dim / 2;
  if (s.fold >= 1 && s.fold <= pairs && s.fold % s.stride() == 0 && pairs % s.fold == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("fold is ", s.fold, ", not a multiple of ", s.stride(), " (head dims ",
                   s.head_dim, " by rope dims ", s.rope_dims, ") that divides ", pairs, " pairs"));
}

// Components that mix with each other: of the pairs [first, first + fold), each of every head.
struct Group {
  std::vector<int64_t> real;       // dims of k; index (pair - first) * g + head
  std::vector<int64_t> imaginary;  // likewise
};

Group GroupAt(const LatentShape& s, int64_t first_pair) {
  Group group;
  for (int64_t pair = first_pair; pair < first_pair + s.fold; ++pair) {
    for (int64_t head = 0; head < s.kv_heads; ++head) {
      group.real.push_back(head * s.head_dim + pair);
      group.imaginary.push_back(head * s.head_dim + pair + s.head_dim / 2);
    }
  }
  return group;
}

// [[A, -B], [B, A]] of the Hermitian A + iB, the mean of the group's numbers times their
// conjugates: its eigenvectors (a, b) are a + ib and i (a + ib).
Matrix HermitianOf(const Group& group, const Matrix& moments) {
  const auto n = static_cast<int64_t>(group.real.size());
  Matrix m(2 * n, 2 * n);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t xi = group.real[static_cast<size_t>(i)];
    const int64_t yi = group.imaginary[static_cast<size_t>(i)];
    for (int64_t j = 0; j < n; ++j) {
      const int64_t xj = group.real[static_cast<size_t>(j)];
      const int64_t yj = group.imaginary[static_cast<size_t>(j)];
      const double a = moments.at(xi, xj) + moments.at(yi, yj);
      const double b = moments.at(yi, xj) - moments.at(xi, yj);
      m.at(i, j) = m.at(n + i, n + j) = a;
      m.at(n + i, j) = b;
      m.at(i, n + j) = -b;
    }
  }
  return m;
}

// u = (a, b) less its share in `chosen` (complex, orthonormal, a and b side by side); its squared
// length.
double Orthogonalize(const Matrix& chosen, int64_t count, std::vector<double>* u) {
  const size_t n = u->size() / 2;
  for (int64_t c = 0; c < count; ++c) {
    const double* w = chosen.row(c);
    double re = 0;  // of <w, u>
    double im = 0;
    for (size_t i = 0; i < n; ++i) {
      re += w[i] * (*u)[i] + w[n + i] * (*u)[n + i];
      im += w[i] * (*u)[n + i] - w[n + i] * (*u)[i];
    }
    for (size_t i = 0; i < n; ++i) {
      (*u)[i] -= re * w[i] - im * w[n + i];
      (*u)[n + i] -= re * w[n + i] + im * w[i];
    }
  }
  double length = 0;
  for (const double x : *u) length += x * x;
  return length;
}

// The group's complex principal components, the strongest first: rows (a, b) of a + ib, n of the
// 2 n real eigenvectors, which come in pairs that are one complex direction.
StatusOr<Matrix> Components(const Group& group, const Matrix& moments) {
  const auto n = static_cast<int64_t>(group.real.size());
  ASSIGN_OR_RETURN(const Eigen eigen, SymmetricEigen(HermitianOf(group, moments)));
  Matrix chosen(n, 2 * n);
  int64_t count = 0;
  for (int64_t i = 0; i < 2 * n && count < n; ++i) {
    std::vector<double> u(eigen.vectors.row(i), eigen.vectors.row(i) + 2 * n);
    const double length = std::sqrt(Orthogonalize(chosen, count, &u));
    if (length * length < kNothingLeft) continue;
    for (double& x : u) x /= length;
    std::copy(u.begin(), u.end(), chosen.row(count++));
  }
  return chosen;
}

// Rows of k's transformation for the component a + ib: its real and its imaginary part.
void SetComponent(const Group& group, const double* ab, Matrix* to, int64_t row) {
  const size_t n = group.real.size();
  for (size_t i = 0; i < n; ++i) {
    to->at(row, group.real[i]) = ab[i];
    to->at(row, group.imaginary[i]) = ab[n + i];
    to->at(row + 1, group.real[i]) = -ab[n + i];
    to->at(row + 1, group.imaginary[i]) = ab[i];
  }
}

// k split by an orthogonal matrix into what is rotated and what stands still.
struct Split {
  Matrix rotated;  // [rope_dims, g d]
  Matrix still;    // [still, g d]
};

StatusOr<Split> SplitKeys(const LatentShape& s, const Matrix& moments) {
  Split split{Matrix(s.rope_dims, s.keys()), Matrix(s.still(), s.keys())};
  const int64_t slots = s.fold / s.stride();  // frequencies the group's rotated numbers share
  const int64_t kept = slots * s.rope_heads();
  const int64_t pairs = s.rope_dims / s.rope_heads() / 2;
  int64_t still = 0;
  for (int64_t first = 0; first < s.head_dim / 2; first += s.fold) {
    const Group group = GroupAt(s, first);
    const auto n = static_cast<int64_t>(group.real.size());
    Matrix components = Identity(2 * n);
    if (kept < n) {
      ASSIGN_OR_RETURN(components, Components(group, moments));
    }
    for (int64_t i = 0; i < n; ++i) {
      if (i >= kept) {
        SetComponent(group, components.row(i), &split.still, still);
        still += 2;
        continue;
      }
      // With nothing left out component i is pair i / g of head i % g, and stays it.
      const int64_t slot = kept < n ? i % slots : i / s.rope_heads();
      const int64_t head = kept < n ? i / slots : i % s.rope_heads();
      const int64_t pair = head * pairs + first / s.stride() + slot;
      SetComponent(group, components.row(i), &split.rotated, 2 * pair);
    }
  }
  return split;
}

// The mean of y y^T, y = (alpha still k, v).
Matrix JointMoments(const LatentShape& s, const Matrix& still, const Matrix& moments,
                    double* alpha) {
  const Matrix top = RowsOf(moments, 0, s.keys());
  const Matrix kk = Product(Product(still, ColumnsOf(top, 0, s.keys())), Transposed(still));
  const Matrix kv = Product(still, ColumnsOf(top, s.keys(), s.keys()));
  const Matrix vv = ColumnsOf(RowsOf(moments, s.keys(), s.keys()), s.keys(), s.keys());
  const double keys = Trace(kk);
  const double values = Trace(vv);
  *alpha = keys > 0 && values > 0 ? std::sqrt(values / keys) : 1;
  Matrix joint(s.rank_max(), s.rank_max());
  const int64_t n = s.still();
  for (int64_t i = 0; i < s.rank_max(); ++i) {
    for (int64_t j = 0; j < s.rank_max(); ++j) {
      joint.at(i, j) = i < n && j < n ? *alpha * *alpha * kk.at(i, j)
                       : i < n        ? *alpha * kv.at(i, j - n)
                       : j < n        ? *alpha * kv.at(j, i - n)
                                      : vv.at(i - n, j - n);
    }
  }
  return joint;
}

// Of D z, D = (down_keys, down_values): the mean square of its rank numbers is the trace of
// D M D^T over the rank.
double LatentRms(const LatentShape& s, const LatentPlan& plan, const Matrix& moments) {
  Matrix down(s.rank, 2 * s.keys());
  for (int64_t r = 0; r < s.rank; ++r) {
    std::copy_n(plan.down_keys.row(r), s.keys(), down.row(r));
    std::copy_n(plan.down_values.row(r), s.keys(), down.row(r) + s.keys());
  }
  const Matrix square = Product(Product(down, moments), Transposed(down));
  return std::sqrt(Trace(square) / static_cast<double>(s.rank));
}

}  // namespace

StatusOr<LatentShape> FitLatent(const worker::ModelConfig& config, const LatentSizes& sizes) {
  LatentShape s;
  s.heads = config.heads;
  s.kv_heads = config.kv_heads;
  s.head_dim = config.head_dim;
  s.rope_dims = sizes.rope_dims == 0 ? s.keys() : sizes.rope_dims;
  RETURN_IF_ERROR(CheckRopeDims(s));
  s.fold = sizes.fold == 0 ? s.stride() : sizes.fold;
  RETURN_IF_ERROR(CheckFold(s));
  s.rank = sizes.rank == 0 ? s.rank_max() : sizes.rank;
  if (s.rank < 1 || s.rank > s.rank_max()) return OutOfRange("rank", s.rank, 1, s.rank_max());
  if (s.rank > limits::kLatentRankMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank is ", s.rank, ", the limit is ", limits::kLatentRankMax));
  }
  return s;
}

StatusOr<LatentPlan> PlanLatent(const LatentShape& shape, const Matrix& moments) {
  ASSIGN_OR_RETURN(Split split, SplitKeys(shape, moments));
  double alpha = 1;
  Matrix basis = Identity(shape.rank_max());
  if (shape.rank < shape.rank_max()) {
    ASSIGN_OR_RETURN(Eigen eigen,
                     SymmetricEigen(JointMoments(shape, split.still, moments, &alpha)));
    basis = RowsOf(eigen.vectors, 0, shape.rank);
  }
  const Matrix of_keys = ColumnsOf(basis, 0, shape.still());
  const Matrix of_values = ColumnsOf(basis, shape.still(), shape.keys());
  LatentPlan plan;
  plan.down_keys = Product(of_keys, split.still);
  plan.up_keys = Transposed(plan.down_keys);
  Scale(plan.down_keys, alpha);
  Scale(plan.up_keys, 1 / alpha);
  plan.down_values = of_values;
  plan.up_values = Transposed(of_values);
  plan.rotated = std::move(split.rotated);
  if (moments.rows() > 0) plan.latent_rms = LatentRms(shape, plan, moments);
  return plan;
}

}  // namespace reprise::convert
