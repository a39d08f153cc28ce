// The oracle: every operation of ops.h in double precision, written to be obviously right. Matrices
// are contiguous row-major vectors; nothing is blocked, fused or fast.
//
// Owner: tests. Threads: pure functions.
#ifndef REPRISE_KERNELS_REF_REF_H_
#define REPRISE_KERNELS_REF_REF_H_

#include <cstdint>
#include <map>
#include <vector>

namespace reprise::kernels::ref {

using Vec = std::vector<double>;

struct Shape {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
};

// [m, n] = x [m, k] w [n, k]^T.
Vec Linear(const Vec& x, const Vec& w, Shape shape);

// Rows of `cols`: x / sqrt(mean(x^2) + eps) * weight.
Vec RmsNorm(const Vec& x, const Vec& weight, double eps);

// x [m, heads, head_dim], rotate-half over the first 2 * inv_freq.size() dims.
Vec Rope(const Vec& x, const std::vector<int64_t>& positions, const Vec& inv_freq, int64_t heads,
         int64_t head_dim);

Vec Swiglu(const Vec& gate, const Vec& up);

struct AttentionShape {
  int64_t rows = 0;
  int64_t q_heads = 0;
  int64_t kv_heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  int64_t first_position = 0;
  int64_t key_position = 0;
  bool causal = true;
  double scale = 1;
};

struct AttentionResult {
  Vec out;  // [rows, q_heads, value_dim]; zero where nothing is visible
  Vec lse;  // [rows, q_heads]; -inf there
};

// q [rows, q_heads, key_dim]; k [keys, kv_heads, key_dim], v [keys, kv_heads, value_dim].
AttentionResult Attention(const Vec& q, const Vec& k, const Vec& v, const AttentionShape& shape);

// Two partial results over disjoint keys.
AttentionResult Merge(const AttentionResult& left, const AttentionResult& right, int64_t value_dim);

double LogSumExp(const Vec& x);

struct Routing {
  bool sigmoid = false;  // else softmax
  Vec bias;              // of the choice, empty: none
  int64_t groups = 1;
  int64_t groups_kept = 1;
  int64_t per_row = 1;
  bool normalize = false;
  double scale = 1;
};
// Expert to weight of one row of logits.
std::map<int64_t, double> Route(const Vec& logits, const Routing& routing);

}  // namespace reprise::kernels::ref

#endif  // REPRISE_KERNELS_REF_REF_H_
