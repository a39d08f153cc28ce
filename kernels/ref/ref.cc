#include "kernels/ref/ref.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace reprise::kernels::ref {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

Vec Linear(const Vec& x, const Vec& w, Shape shape) {
  Vec y(static_cast<size_t>(shape.m * shape.n));
  for (int64_t i = 0; i < shape.m; ++i) {
    for (int64_t j = 0; j < shape.n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < shape.k; ++k) sum += x[i * shape.k + k] * w[j * shape.k + k];
      y[i * shape.n + j] = sum;
    }
  }
  return y;
}

Vec RmsNorm(const Vec& x, const Vec& weight, double eps) {
  const size_t cols = weight.size();
  Vec y(x.size());
  for (size_t row = 0; row < x.size(); row += cols) {
    double sum = 0;
    for (size_t i = 0; i < cols; ++i) sum += x[row + i] * x[row + i];
    const double rms = std::sqrt(sum / static_cast<double>(cols) + eps);
    for (size_t i = 0; i < cols; ++i) y[row + i] = x[row + i] / rms * weight[i];
  }
  return y;
}

Vec Rope(const Vec& x, const std::vector<int64_t>& positions, const Vec& inv_freq, int64_t heads,
         int64_t head_dim) {
  Vec y = x;
  const auto half = static_cast<int64_t>(inv_freq.size());
  for (size_t r = 0; r < positions.size(); ++r) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t at = (static_cast<int64_t>(r) * heads + h) * head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(positions[r]) * inv_freq[i];
        const double a = x[at + i];
        const double b = x[at + i + half];
        y[at + i] = a * std::cos(angle) - b * std::sin(angle);
        y[at + i + half] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
  }
  return y;
}

Vec Swiglu(const Vec& gate, const Vec& up) {
  Vec y(gate.size());
  for (size_t i = 0; i < y.size(); ++i) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  return y;
}

AttentionResult Attention(const Vec& q, const Vec& k, const Vec& v, const AttentionShape& s) {
  const int64_t dim = s.key_dim;
  const int64_t keys = static_cast<int64_t>(k.size()) / (s.kv_heads * dim);
  AttentionResult result{Vec(static_cast<size_t>(s.rows * s.q_heads * s.value_dim), 0.0),
                         Vec(static_cast<size_t>(s.rows * s.q_heads))};
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t h = 0; h < s.q_heads; ++h) {
      const int64_t kv_head = h / (s.q_heads / s.kv_heads);
      const double* query = q.data() + (r * s.q_heads + h) * dim;
      double* out = result.out.data() + (r * s.q_heads + h) * s.value_dim;
      int64_t visible = keys;
      if (s.causal)
        visible = std::clamp<int64_t>(s.first_position + r + 1 - s.key_position, 0, keys);
      Vec scores(static_cast<size_t>(visible));
      for (int64_t j = 0; j < visible; ++j) {
        const double* key = k.data() + (j * s.kv_heads + kv_head) * dim;
        double dot = 0;
        for (int64_t i = 0; i < dim; ++i) dot += query[i] * key[i];
        scores[j] = dot * s.scale;
      }
      const double lse = LogSumExp(scores);
      for (int64_t j = 0; j < visible; ++j) {
        const double* value = v.data() + (j * s.kv_heads + kv_head) * s.value_dim;
        for (int64_t i = 0; i < s.value_dim; ++i) out[i] += std::exp(scores[j] - lse) * value[i];
      }
      result.lse[r * s.q_heads + h] = lse;
    }
  }
  return result;
}

AttentionResult Merge(const AttentionResult& left, const AttentionResult& right,
                      int64_t value_dim) {
  AttentionResult result = left;
  for (size_t i = 0; i < left.lse.size(); ++i) {
    const double lse = LogSumExp({left.lse[i], right.lse[i]});
    result.lse[i] = lse;
    const double wl = lse == -kInfinity ? 0 : std::exp(left.lse[i] - lse);
    const double wr = lse == -kInfinity ? 0 : std::exp(right.lse[i] - lse);
    for (size_t j = i * value_dim; j < (i + 1) * value_dim; ++j) {
      result.out[j] = wl * left.out[j] + wr * right.out[j];
    }
  }
  return result;
}

double LogSumExp(const Vec& x) {
  double max = -kInfinity;
  for (double v : x) max = std::max(max, v);
  if (max == -kInfinity) return -kInfinity;
  double sum = 0;
  for (double v : x) sum += std::exp(v - max);
  return max + std::log(sum);
}

namespace {

// The `count` first by (value descending, index ascending).
std::vector<int64_t> Largest(const Vec& values, int64_t count) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return values[a] > values[b]; });
  order.resize(static_cast<size_t>(count));
  return order;
}

}  // namespace

std::map<int64_t, double> Route(const Vec& logits, const Routing& routing) {
  const double lse = LogSumExp(logits);
  Vec score;
  for (const double x : logits) {
    score.push_back(routing.sigmoid ? 1 / (1 + std::exp(-x)) : std::exp(x - lse));
  }
  Vec choice = score;
  for (size_t i = 0; i < routing.bias.size(); ++i) choice[i] += routing.bias[i];
  const auto size = static_cast<int64_t>(logits.size()) / routing.groups;
  Vec group_scores;
  for (int64_t g = 0; g < routing.groups; ++g) {
    const Vec group(choice.begin() + g * size, choice.begin() + (g + 1) * size);
    double total = 0;
    for (const int64_t i : Largest(group, routing.sigmoid ? std::min<int64_t>(2, size) : 1)) {
      total += group[i];
    }
    group_scores.push_back(total);
  }
  Vec allowed(choice.size(), -kInfinity);
  for (const int64_t g : Largest(group_scores, routing.groups_kept)) {
    std::copy_n(choice.begin() + g * size, size, allowed.begin() + g * size);
  }
  std::map<int64_t, double> weights;
  double sum = 0;
  for (const int64_t i : Largest(allowed, routing.per_row)) sum += weights[i] = score[i];
  for (auto& [expert, weight] : weights) {
    weight = weight / (routing.normalize ? sum : 1) * routing.scale;
  }
  return weights;
}

}  // namespace reprise::kernels::ref
