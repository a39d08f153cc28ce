// Every architectural variant against a forward pass written plainly in double precision, one token
// at a time over full rows, from the same folder.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "worker/model/model_folder.h"
#include "worker/model/offline.h"
#include "worker/model/test_models.h"

namespace reprise::worker {
namespace {

using Vec = std::vector<double>;

double FromBf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float f;
  std::memcpy(&f, &wide, 4);
  return f;
}

double FromF16(uint16_t bits) {
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  const int exponent = bits >> 10 & 31;
  const double fraction = (bits & 1023) / 1024.0;
  return sign *
         (exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1 + fraction, exponent - 15));
}

// Nearest bf16, ties to even, for values far from its limits.
double RoundToBf16(double value) {
  const auto f = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  bits += 0x7FFF + (bits >> 16 & 1);
  return FromBf16(static_cast<uint16_t>(bits >> 16));
}

Vec Values(const TensorView& tensor) {
  Vec values(tensor.elements());
  for (size_t i = 0; i < values.size(); ++i) {
    if (tensor.type == TensorType::kF32) {
      float f;
      std::memcpy(&f, tensor.bytes.data() + 4 * i, 4);
      values[i] = f;
      continue;
    }
    uint16_t half;
    std::memcpy(&half, tensor.bytes.data() + 2 * i, 2);
    values[i] = tensor.type == TensorType::kBF16 ? FromBf16(half) : FromF16(half);
  }
  return values;
}

// `bf16` rounds what a bf16 model rounds: inputs of products, and KV rows.
class Reference {
 public:
  Reference(const std::string& dir, bool bf16) : folder_(*ModelFolder::Open(dir)), bf16_(bf16) {
    for (const auto& [name, tensor] : folder_.tensors()) weights_[name] = Values(tensor);
    keys_.resize(static_cast<size_t>(folder_.config().layers));
    values_.resize(keys_.size());
  }

  // Logits after the next token.
  Vec Next(int32_t token) {
    const ModelConfig& c = folder_.config();
    const Vec& embedding = weights_.at("model.embed_tokens.weight");
    Vec x(embedding.begin() + token * c.hidden, embedding.begin() + (token + 1) * c.hidden);
    for (int64_t layer = 0; layer < c.layers; ++layer) {
      const std::string p = absl::StrCat("model.layers.", layer, ".");
      const Vec h = Norm(x, p + "input_layernorm.weight");
      Vec q = Linear(h, p + "self_attn.q_proj");
      Vec k = Linear(h, p + "self_attn.k_proj");
      Rotate(&q);
      Rotate(&k);
      Store(k, &keys_[static_cast<size_t>(layer)]);
      Store(Linear(h, p + "self_attn.v_proj"), &values_[static_cast<size_t>(layer)]);
      Add(Linear(Attend(q, static_cast<size_t>(layer)), p + "self_attn.o_proj"), &x);
      const Vec m = Norm(x, p + "post_attention_layernorm.weight");
      Vec gate = Linear(m, p + "mlp.gate_proj");
      const Vec up = Linear(m, p + "mlp.up_proj");
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      Add(Linear(gate, p + "mlp.down_proj"), &x);
    }
    ++position_;
    return Linear(Norm(x, "model.norm.weight"),
                  c.tied_embeddings ? "model.embed_tokens" : "lm_head");
  }

 private:
  static void Add(const Vec& y, Vec* x) {
    for (size_t i = 0; i < y.size(); ++i) (*x)[i] += y[i];
  }
  double Rounded(double value) const { return bf16_ ? RoundToBf16(value) : value; }
  void Store(const Vec& row, std::vector<Vec>* rows) const {
    rows->push_back(row);
    for (double& value : rows->back()) value = Rounded(value);
  }

  Vec Norm(const Vec& x, const std::string& name) const {
    double sum = 0;
    for (const double value : x) sum += value * value;
    const double scale =
        1 / std::sqrt(sum / static_cast<double>(x.size()) + folder_.config().rms_eps);
    Vec y = weights_.at(name);
    for (size_t i = 0; i < y.size(); ++i) y[i] *= x[i] * scale;
    return y;
  }

  Vec Linear(const Vec& x, const std::string& name) const {
    const Vec& w = weights_.at(name + ".weight");
    Vec y(w.size() / x.size());
    for (size_t n = 0; n < y.size(); ++n) {
      for (size_t k = 0; k < x.size(); ++k) y[n] += Rounded(x[k]) * w[n * x.size() + k];
    }
    if (const auto bias = weights_.find(name + ".bias"); bias != weights_.end()) {
      Add(bias->second, &y);
    }
    return y;
  }

  double InverseFrequency(int64_t i) const {
    const ModelConfig& c = folder_.config();
    const double f =
        std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim));
    const RopeScaling& s = c.rope_scaling;
    if (s.kind == RopeKind::kLinear) return f / s.factor;
    if (s.kind == RopeKind::kDefault) return f;
    const double turns = static_cast<double>(s.original_context) * f / (2 * M_PI);
    const double blend = std::clamp(
        (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor), 0.0, 1.0);
    return f / s.factor * (1 - blend) + f * blend;
  }

  void Rotate(Vec* x) const {
    const auto dim = static_cast<size_t>(folder_.config().head_dim);
    for (size_t head = 0; head < x->size(); head += dim) {
      for (size_t i = 0; i < dim / 2; ++i) {
        const double angle =
            static_cast<double>(position_) * InverseFrequency(static_cast<int64_t>(i));
        double& a = (*x)[head + i];
        double& b = (*x)[head + i + dim / 2];
        const double rotated = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = rotated;
      }
    }
  }

  Vec Attend(const Vec& q, size_t layer) const {
    const ModelConfig& c = folder_.config();
    const auto dim = static_cast<size_t>(c.head_dim);
    const auto group = static_cast<size_t>(c.heads / c.kv_heads);
    Vec out(q.size());
    for (size_t head = 0; head < static_cast<size_t>(c.heads); ++head) {
      const size_t kv = head / group * dim;
      Vec weight;
      double sum = 0;
      for (const Vec& key : keys_[layer]) {
        double score = 0;
        for (size_t i = 0; i < dim; ++i) score += q[head * dim + i] * key[kv + i];
        weight.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
        sum += weight.back();
      }
      for (size_t j = 0; j < weight.size(); ++j) {
        for (size_t i = 0; i < dim; ++i) {
          out[head * dim + i] += weight[j] / sum * values_[layer][j][kv + i];
        }
      }
    }
    return out;
  }

  const ModelFolder folder_;
  const bool bf16_;
  std::map<std::string, Vec> weights_;
  std::vector<std::vector<Vec>> keys_, values_;
  int64_t position_ = 0;
};

// Differences of logits in units of the largest logit: of the worst and of the best token.
struct Errors {
  double worst = 1e9;
  double best = 1e9;
};

Errors Compare(const ModelExecutorOptions& options, bool bf16) {
  auto model = OfflineModel::Open(options);
  EXPECT_TRUE(model.ok()) << model.status();
  if (!model.ok()) return {};
  const std::vector<int32_t> tokens = RandomTokens(80, (*model)->vocab(), 3);
  const auto logits = (*model)->ForwardAll(tokens, 33);
  EXPECT_TRUE(logits.ok()) << logits.status();
  Reference reference(options.model_dir, bf16);
  Errors errors{0, 1e9};
  double largest = 0;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const Vec want = reference.Next(tokens[t]);
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      worst = std::max(worst, std::abs((*logits)[t * want.size() + i] - want[i]));
      largest = std::max(largest, std::abs(want[i]));
    }
    errors.worst = std::max(errors.worst, worst);
    errors.best = std::min(errors.best, worst);
  }
  EXPECT_GT(largest, 1) << "a model without signal proves nothing";
  return {errors.worst / largest, errors.best / largest};
}

// Rounding model: a product of K <= 320 terms rounds at most 24 times in f32 (20 in a lane, 4 in
// the tree), each by 2^-24 = 6e-8 of a partial sum, which is at most about 3 times the result's
// scale; roundings being independent, their sum grows as the square root: 3 * sqrt(24) * 6e-8 =
// 9e-7. Two layers chain 12 such steps: sqrt(12) * 9e-7 = 3e-6; the largest of 40,960 logits lies
// within 5 standard deviations: 1.5e-5. A wrong frequency, scale or head shows as more than 1e-2.
constexpr double kF32Bound = 1.5e-5;

// With bf16 both sides round at the same places. Where an f32 error of 1e-6 carries a value over a
// rounding edge (one value in 4,000) the two part by a bf16 step, 2^-8, which moves further values
// over edges: from there on they differ like two independent roundings, 2^-9 / sqrt(3) = 1.1e-3 a
// value; 12 chained steps: sqrt(12) * 1.1e-3 = 4e-3 of a standard deviation of the logits, the
// largest of 40,960 below 5 times that, in units of the largest logit (4 deviations): 5e-3. Twice
// that is the bound.
constexpr double kBf16Bound = 1e-2;
// A token of about 900 roundings meets no edge with probability 0.8 while none of its predecessors
// has: some early token agrees as an f32 model would, if and only if every rounding is where the
// reference has it.
constexpr double kBf16BestBound = kF32Bound;

TEST(LlamaReference, F32VariantsAgree) {
  for (const std::string preset :
       {"tiny", "tiny-mha", "tiny-mqa", "tiny-gqa", "tiny-bias", "tiny-llama3"}) {
    const std::string dir = TestModel(preset, {.seed = 4, .dtype = "f32"});
    EXPECT_LT(Compare({.model_dir = dir}, false).worst, kF32Bound) << preset;
  }
}

TEST(LlamaReference, LinearScalingAndAnyThetaAgree) {
  ModelConfig config = *PresetConfig("tiny-gqa");
  config.rope_scaling = {RopeKind::kLinear, 4, 1, 4, 8192};
  config.rope_theta = 1234.5;
  const std::string dir = TestModel(config, {.seed = 5, .dtype = "f32"});
  EXPECT_LT(Compare({.model_dir = dir}, false).worst, kF32Bound);
}

TEST(LlamaReference, F16ModelsAreComputedInF32) {
  const std::string dir = TestModel("tiny-bias", {.seed = 6, .dtype = "f16"});
  EXPECT_LT(Compare({.model_dir = dir, .kv_dtype = "f32"}, false).worst, kF32Bound);
}

TEST(LlamaReference, Bf16VariantsAgree) {
  for (const std::string preset : {"tiny", "tiny-mqa", "tiny-bias", "tiny-llama3"}) {
    const std::string dir = TestModel(preset, {.seed = 7});
    const Errors errors = Compare({.model_dir = dir}, true);
    EXPECT_LT(errors.worst, kBf16Bound) << preset;
    EXPECT_LT(errors.best, kBf16BestBound) << preset;
    EXPECT_GT(Compare({.model_dir = dir}, false).best, 10 * kBf16BestBound)
        << "the bound must tell a missing rounding";
  }
}

}  // namespace
}  // namespace reprise::worker
