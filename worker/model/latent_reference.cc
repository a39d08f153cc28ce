#include "worker/model/latent_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/model/rope_frequencies.h"

namespace reprise::worker {
namespace {

using kernels::DType;

constexpr double kNormEps = 1e-6;

DoubleMatrix MatrixOf(const TensorView& tensor) {
  std::vector<float> floats(tensor.elements());
  const DType from = tensor.type == TensorType::kBF16  ? DType::kBF16
                     : tensor.type == TensorType::kF16 ? DType::kF16
                                                       : DType::kF32;
  kernels::Select(kernels::Isa::kScalar)
      .convert(tensor.bytes.data(), from, floats.data(), DType::kF32,
               static_cast<int64_t>(floats.size()));
  const auto cols = static_cast<int64_t>(tensor.shape.back());
  return {static_cast<int64_t>(floats.size()) / cols, cols, {floats.begin(), floats.end()}};
}

double Square(double x) { return x * x; }

}  // namespace

struct LatentReference::Rows {
  Bounded q_low;    // [rows, q_rank], or empty
  Bounded q;        // [rows, heads * head_dim], per head plain | rotated
  Bounded latent;   // [rows, kv_rank]
  Bounded rotated;  // [rows, rope_dim]
};

struct LatentReference::Head {
  int64_t index = 0;
  DoubleMatrix key;    // [nope_dim, kv_rank]
  DoubleMatrix value;  // [value_dim, kv_rank]
  Bounded plain;       // [rows, nope_dim], of the queries
  Bounded rotated;     // [rows, rope_dim], of the queries
  Bounded absorbed;    // [rows, kv_rank], the plain queries in the latents' space
  Bounded keys;        // [rows, head_dim], expanded
  Bounded values;      // [rows, value_dim], expanded
};

struct LatentReference::Sources {
  bool latent = false;   // stored, or going into a product
  bool rotated = false;  // stored
  bool q_low = false;
  bool query = false;   // plain, on the way to the latents' space
  bool output = false;  // in the latents' space, on the way back
};

StatusOr<LatentReference> LatentReference::Load(const ModelFolder& folder, int64_t layer) {
  LatentReference r;
  r.config_ = folder.config();
  if (!r.config_.latent || r.config_.attention_bias || r.config_.block_scales) {
    return absl::UnimplementedError(absl::StrCat(
        folder.dir(), ": the reference computes latent attention, without biases or FP8"));
  }
  r.inv_freq_ = RopeInverseFrequencies(r.config_);
  const auto matrix = [&](absl::string_view name) {
    return MatrixOf(
        folder.tensor(absl::StrCat("model.layers.", layer, ".self_attn.", name, ".weight")));
  };
  if (r.config_.latent->q_rank > 0) {
    r.q_a_ = matrix("q_a_proj");
    r.q_a_norm_ = matrix("q_a_layernorm");
    r.q_ = matrix("q_b_proj");
  } else {
    r.q_ = matrix("q_proj");
  }
  r.kv_a_ = matrix("kv_a_proj_with_mqa");
  r.kv_a_norm_ = matrix("kv_a_layernorm");
  r.kv_b_ = matrix("kv_b_proj");
  return r;
}

RotatedPairs LatentReference::PairsAt(int64_t first_col) const {
  const LatentAttention& l = *config_.latent;
  return {.first = first_col,
          .step = l.interleaved ? 2 : 1,
          .apart = l.interleaved ? 1 : l.rope_dim / 2,
          .amplitude = config_.rope_scaling.amplitude};
}

LatentReference::Rows LatentReference::Project(const kernels::F32& x) const {
  const LatentAttention& l = *config_.latent;
  Bounded input = Zeros(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    std::copy_n(x.row(r), x.cols, input.value.begin() + r * x.cols);
  }
  Rows rows;
  if (l.q_rank > 0) rows.q_low = RmsNorm(Product(input, q_a_), q_a_norm_, kNormEps);
  rows.q = Product(l.q_rank > 0 ? rows.q_low : input, q_);
  for (int64_t head = 0; head < config_.heads; ++head) {
    Rotate(inv_freq_, PairsAt(head * config_.head_dim + l.nope_dim), &rows.q);
  }
  const Bounded both = Product(input, kv_a_);
  rows.latent = RmsNorm(ColumnsOf(both, 0, l.kv_rank), kv_a_norm_, kNormEps);
  rows.rotated = ColumnsOf(both, l.kv_rank, l.rope_dim);
  Rotate(inv_freq_, PairsAt(0), &rows.rotated);
  return rows;
}

LatentReference::Head LatentReference::HeadOf(const Rows& rows, int64_t index) const {
  const LatentAttention& l = *config_.latent;
  const int64_t first = index * (l.nope_dim + l.value_dim);
  Head head;
  head.index = index;
  head.key = RowsOf(kv_b_, first, l.nope_dim);
  head.value = RowsOf(kv_b_, first + l.nope_dim, l.value_dim);
  head.plain = ColumnsOf(rows.q, index * config_.head_dim, l.nope_dim);
  head.rotated = ColumnsOf(rows.q, index * config_.head_dim + l.nope_dim, l.rope_dim);
  head.absorbed = Product(head.plain, Transposed(head.key));
  head.keys = SideBySide(Product(rows.latent, head.key), rows.rotated);
  head.values = Product(rows.latent, head.value);
  return head;
}

Bounded LatentReference::AttendHead(const Rows& rows, const Head& head, LatentForm form) const {
  const double scale = config_.attention_scale();
  const bool expanded = form == LatentForm::kExpanded;
  const Bounded q = SideBySide(expanded ? head.plain : head.absorbed, head.rotated);
  const Bounded k = expanded ? head.keys : SideBySide(rows.latent, rows.rotated);
  const Bounded& v = expanded ? head.values : rows.latent;
  Bounded out = Zeros(q.rows, v.cols);
  for (int64_t t = 0; t < q.rows; ++t) WeighValues(WeighKeys(q, k, scale, t), v, t, &out);
  return expanded ? out : Product(out, head.value);
}

// Of out[t][c], by the stored rows and by the output in the latents' space: the variance of the
// first-order error in units of (2^-8)^2. Row j counts through its score, by w_j (v_j - out), and
// through its value, by w_j.
double LatentReference::RowVariance(const Rows& rows, const Head& head, const Sources& sources,
                                    int64_t t, int64_t c, const std::vector<double>& weights,
                                    double out) const {
  const LatentAttention& l = *config_.latent;
  const double scale = config_.attention_scale();
  const double* to_value = head.value.row(c);
  double variance = 0;
  std::vector<double> latent_out(static_cast<size_t>(l.kv_rank));
  for (int64_t j = 0; j <= t; ++j) {
    const double weight = weights[static_cast<size_t>(j)];
    const double by_score = scale * weight * (head.values.values(j)[c] - out);
    const double* latent = rows.latent.values(j);
    for (int64_t m = 0; sources.latent && m < l.kv_rank; ++m) {
      variance +=
          Square((by_score * head.absorbed.values(t)[m] + weight * to_value[m]) * latent[m]);
    }
    for (int64_t i = 0; sources.rotated && i < l.rope_dim; ++i) {
      variance += Square(by_score * head.rotated.values(t)[i] * rows.rotated.values(j)[i]);
    }
    for (int64_t m = 0; sources.output && m < l.kv_rank; ++m) {
      latent_out[static_cast<size_t>(m)] += weight * latent[m];
    }
  }
  for (int64_t m = 0; sources.output && m < l.kv_rank; ++m) {
    variance += Square(to_value[m] * latent_out[static_cast<size_t>(m)]);
  }
  return variance;
}

// The same by what makes the query of row t; by_query [head_dim] are the derivatives by it.
double LatentReference::QueryVariance(const Rows& rows, const Head& head, const Sources& sources,
                                      int64_t t, const std::vector<double>& by_query) const {
  const LatentAttention& l = *config_.latent;
  double variance = 0;
  for (int64_t i = 0; sources.query && i < l.nope_dim; ++i) {
    variance += Square(by_query[static_cast<size_t>(i)] * head.plain.values(t)[i]);
  }
  if (!sources.q_low) return variance;
  // Back through the rotation, which is orthogonal but for its amplitude, and the projection.
  Bounded back = Zeros(t + 1, config_.head_dim);
  std::copy(by_query.begin(), by_query.end(), back.value.begin() + t * back.cols);
  std::vector<double> opposite = inv_freq_;
  for (double& f : opposite) f = -f;
  Rotate(opposite, PairsAt(l.nope_dim), &back);
  for (int64_t k = 0; k < l.q_rank; ++k) {
    double derivative = 0;
    for (int64_t i = 0; i < config_.head_dim; ++i) {
      derivative += back.values(t)[i] * q_.row(head.index * config_.head_dim + i)[k];
    }
    variance += Square(derivative * rows.q_low.values(t)[k]);
  }
  return variance;
}

void LatentReference::AddBf16(const Rows& rows, const Head& head, const Sources& sources,
                              Bounded* out) const {
  const double scale = config_.attention_scale();
  const Bounded q = SideBySide(head.plain, head.rotated);
  std::vector<double> by_query(static_cast<size_t>(config_.head_dim));
  for (int64_t t = 0; t < q.rows; ++t) {
    const std::vector<double> weights = WeighKeys(q, head.keys, scale, t).weight;
    for (int64_t c = 0; c < out->cols; ++c) {
      const double value = out->values(t)[c];
      double variance = RowVariance(rows, head, sources, t, c, weights, value);
      if (sources.query || sources.q_low) {
        std::fill(by_query.begin(), by_query.end(), 0.0);
        for (int64_t j = 0; j <= t; ++j) {
          const double by_score =
              scale * weights[static_cast<size_t>(j)] * (head.values.values(j)[c] - value);
          for (size_t i = 0; i < by_query.size(); ++i) {
            by_query[i] += by_score * head.keys.values(j)[i];
          }
        }
        variance += QueryVariance(rows, head, sources, t, by_query);
      }
      out->bound[static_cast<size_t>(t * out->cols + c)] +=
          kDeviations * kBf16Unit * std::sqrt(variance);
    }
  }
}

Bounded LatentReference::Attended(const kernels::F32& x, LatentForm form,
                                  const LatentRounding& rounding) const {
  const bool weights = rounding.weights == DType::kBF16;
  const bool cache = rounding.cache == DType::kBF16;
  const bool absorbed = form == LatentForm::kAbsorbed;
  const Sources sources{.latent = cache || (weights && !absorbed),
                        .rotated = cache,
                        .q_low = weights && config_.latent->q_rank > 0,
                        .query = weights && absorbed,
                        .output = weights && absorbed};
  const Rows rows = Project(x);
  Bounded attended;
  for (int64_t i = 0; i < config_.heads; ++i) {
    const Head head = HeadOf(rows, i);
    Bounded out = AttendHead(rows, head, form);
    if (weights || cache) AddBf16(rows, head, sources, &out);
    attended = i == 0 ? std::move(out) : SideBySide(attended, out);
  }
  return attended;
}

double LargestShareOfBound(const kernels::F32& found, const Bounded& want) {
  double largest = 0;
  for (int64_t r = 0; r < want.rows; ++r) {
    for (int64_t c = 0; c < want.cols; ++c) {
      const double distance = std::abs(static_cast<double>(found.row(r)[c]) - want.values(r)[c]);
      const double share = distance / want.bounds(r)[c];
      if (std::isnan(share)) return std::numeric_limits<double>::infinity();
      largest = std::max(largest, share);
    }
  }
  return largest;
}

}  // namespace reprise::worker
