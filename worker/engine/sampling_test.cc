#include "worker/engine/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "common/random.h"
#include "kernels/philox.h"
#include "worker/engine/sampling_ops.h"

namespace reprise::worker {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Sum of twelve uniforms: close enough to normal, free of libm.
std::vector<float> RandomLogits(SplitMix64& random, size_t n, double spread) {
  std::vector<float> logits(n);
  for (float& x : logits) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += random.Uniform();
    x = static_cast<float>(sum * spread);
  }
  return logits;
}

// The documented definition in plain double arithmetic, on all tokens at once.
struct Reference {
  std::vector<double> logits;                    // adjusted
  std::vector<std::pair<double, int32_t>> kept;  // (probability, id), most probable first

  Reference(const std::vector<float>& raw, const SampleInput& in) {
    const SamplingParams& p = *in.params;
    logits.assign(raw.begin(), raw.end());
    std::map<int32_t, int> generated;
    for (const int32_t id : in.generated) ++generated[id];
    std::set<int32_t> seen(in.prompt.begin(), in.prompt.end());
    seen.insert(in.generated.begin(), in.generated.end());
    for (const int32_t id : seen) {
      double& x = logits[static_cast<size_t>(id)];
      x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
    }
    for (const auto& [id, count] : generated) {
      logits[static_cast<size_t>(id)] -= p.presence_penalty + p.frequency_penalty * count;
    }
    for (const auto& [id, bias] : p.logit_bias) logits[static_cast<size_t>(id)] += bias;
    if (static_cast<int64_t>(in.index) < p.min_tokens) {
      for (const int32_t id : p.stop_ids) logits[static_cast<size_t>(id)] = -HUGE_VAL;
      for (const int32_t id : p.eos_ids) logits[static_cast<size_t>(id)] = -HUGE_VAL;
    }
    Cut(p);
  }

  void Cut(const SamplingParams& p) {
    for (size_t i = 0; i < logits.size(); ++i) {
      if (logits[i] > -HUGE_VAL) kept.emplace_back(logits[i], static_cast<int32_t>(i));
    }
    std::sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    if (p.temperature == 0) kept.resize(1);
    if (p.top_k > 0 && kept.size() > static_cast<size_t>(p.top_k)) {
      kept.resize(static_cast<size_t>(p.top_k));
    }
    const double t = p.temperature == 0 ? 1.0 : static_cast<double>(p.temperature);
    const double max = kept[0].first;
    double total = 0;
    for (auto& [x, id] : kept) total += x = std::exp((x - max) / t);
    size_t n = 0;
    double sum = 0;
    while (n < kept.size()) {
      if (n > 0 && kept[n].first < static_cast<double>(p.min_p)) break;
      sum += kept[n++].first;
      if (p.top_p < 1 && sum >= static_cast<double>(p.top_p) * total) break;
    }
    kept.resize(n);
    for (auto& [x, id] : kept) x /= sum;
  }

  // The token a uniform u falls on, or any of its neighbours when u is within `slack` of an edge.
  std::set<int32_t> At(double u, double slack) const {
    std::set<int32_t> ids;
    double before = 0;
    for (const auto& [probability, id] : kept) {
      if (u >= before - slack && u < before + probability + slack) ids.insert(id);
      before += probability;
    }
    return ids;
  }
};

// f32 exponentials within 2 ulp, relative 2.4e-7 each, on exponents rounded at 2^-24 of values up
// to about 40: 2.4e-6 each; sums of them differ by no more in relation.
constexpr double kSlack = 4e-6;

SampledToken Sample(std::vector<float> logits, const SampleInput& in) {
  return SampleFromLogits(logits, in);
}

TEST(Sampling, AgreesWithThePlainReference) {
  SplitMix64 random(11);
  int cut = 0;
  for (int round = 0; round < 400; ++round) {
    const size_t vocab = 2 + random.Below(round % 4 == 0 ? 5000 : 300);
    const std::vector<float> logits = RandomLogits(random, vocab, 0.5 + 3 * random.Uniform());
    const auto token = [&] { return static_cast<int32_t>(random.Below(vocab)); };
    SamplingParams p;
    p.seed = random.Next();
    p.temperature = random.Chance(0.2) ? 0 : static_cast<float>(0.3 + 1.5 * random.Uniform());
    if (random.Chance(0.5)) p.top_k = static_cast<int32_t>(1 + random.Below(100));
    if (random.Chance(0.7)) p.top_p = static_cast<float>(0.05 + 0.94 * random.Uniform());
    if (random.Chance(0.3)) p.min_p = static_cast<float>(0.2 * random.Uniform());
    if (random.Chance(0.5)) p.repetition_penalty = 1.25f;
    if (random.Chance(0.5)) p.presence_penalty = 0.5f;
    if (random.Chance(0.5)) p.frequency_penalty = 0.25f;
    if (random.Chance(0.5)) p.logit_bias = {{token(), 4.0f}, {token(), -4.0f}};
    p.eos_ids = {token()};
    p.stop_ids = {token()};
    p.min_tokens = 3;
    std::vector<int32_t> prompt(random.Below(20)), generated(random.Below(6));
    for (int32_t& id : prompt) id = token();
    for (int32_t& id : generated) id = token();
    const auto index = static_cast<uint32_t>(generated.size());
    const SampleInput in{&p, 1, index, prompt, generated};
    const Reference reference(logits, in);
    if (reference.kept.size() < vocab) ++cut;
    const SampledToken got = Sample(logits, in);
    SCOPED_TRACE(testing::Message()
                 << "round " << round << " vocab " << vocab << " T " << p.temperature << " k "
                 << p.top_k << " p " << p.top_p << " min_p " << p.min_p);
    if (p.temperature == 0) {
      EXPECT_EQ(got.id, reference.kept[0].second);
    } else if ((p.top_k > 0 && static_cast<size_t>(p.top_k) < vocab) || p.top_p < 1 ||
               p.min_p > 0) {
      EXPECT_THAT(reference.At(kernels::UniformAt(p.seed, 1, index), kSlack),
                  testing::Contains(got.id));
    } else {  // nothing is cut: the order of the draw is not by probability
      EXPECT_GT(reference.logits[static_cast<size_t>(got.id)], -HUGE_VAL);
    }
    double sum = 0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x));
    const double logprob = static_cast<double>(logits[static_cast<size_t>(got.id)]) - std::log(sum);
    EXPECT_NEAR(got.logprob, logprob, 2e-6 * (1 + std::abs(logprob)));
  }
  EXPECT_GT(cut, 200);
}

// Chi-square of `counts` against `probability` (of the same length), over cells expecting >= 5.
struct ChiSquare {
  double value = 0;
  int cells = 0;
  // Above the mean by six standard deviations: never by chance with fixed seeds.
  double limit() const { return cells + 6 * std::sqrt(2.0 * cells); }
};

ChiSquare ChiSquareOf(const std::map<int32_t, int>& counts, const Reference& reference, int draws) {
  ChiSquare result;
  double rest_expected = 0, rest_seen = draws;
  for (const auto& [probability, id] : reference.kept) {
    const double expected = probability * draws;
    if (expected < 5) {
      rest_expected += expected;
      continue;
    }
    const auto it = counts.find(id);
    const double seen = it == counts.end() ? 0 : it->second;
    rest_seen -= seen;
    result.value += (seen - expected) * (seen - expected) / expected;
    ++result.cells;
  }
  if (rest_expected >= 5) {
    result.value += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
    ++result.cells;
  }
  return result;
}

TEST(Sampling, WideNucleiAgreeWithThePlainReference) {
  SplitMix64 random(13);
  int sorted = 0;
  for (int round = 0; round < 60; ++round) {
    std::vector<float> logits = RandomLogits(random, 4000, 0.4);
    // Ties, zeros of both signs and barred tokens among them.
    for (float& x : logits) x = std::floor(x * 64) / 64;
    for (size_t i = 0; i < logits.size(); i += 7) logits[i] = i % 2 == 0 ? 0.0f : -0.0f;
    for (size_t i = 3; i < logits.size(); i += 50) logits[i] = -kInf;
    SamplingParams p;
    p.seed = random.Next();
    p.top_p = round % 3 == 0 ? 1 : static_cast<float>(0.3 + 0.69 * random.Uniform());
    p.min_p = round % 3 == 0 ? 0.02f : 0;
    const Reference reference(logits, {&p, 0, 0, {}, {}});
    sorted += reference.kept.size() > 512 ? 1 : 0;
    EXPECT_THAT(reference.At(kernels::UniformAt(p.seed, 0, 0), kSlack),
                testing::Contains(Sample(logits, {&p, 0, 0, {}, {}}).id))
        << "round " << round;
  }
  EXPECT_GT(sorted, 40);
}

TEST(Sampling, DrawsFollowTheDistribution) {
  SplitMix64 random(5);
  const std::vector<float> logits = RandomLogits(random, 1500, 2);  // three blocks of mass
  for (const int kind : {0, 1, 2, 3}) {
    SamplingParams p;
    p.seed = 77;
    p.temperature = 0.9f;
    if (kind == 1) p.top_k = 30;
    if (kind == 2) p.top_p = 0.8f;
    if (kind == 3) p.min_p = 0.05f;
    std::map<int32_t, int> counts;
    constexpr int kDraws = 20'000;
    for (uint32_t i = 0; i < kDraws; ++i) {
      ++counts[Sample(logits, {&p, i % 3, i / 3, {}, {}}).id];
    }
    const Reference reference(logits, {&p, 0, 0, {}, {}});
    const ChiSquare chi = ChiSquareOf(counts, reference, kDraws);
    EXPECT_GT(chi.cells, 10) << kind;
    EXPECT_LT(chi.value, chi.limit()) << "kind " << kind << ", " << chi.cells << " cells";
    for (const auto& [id, count] : counts) {
      EXPECT_TRUE(std::any_of(reference.kept.begin(), reference.kept.end(),
                              [id = id](const auto& k) { return k.second == id; }))
          << "id " << id << " is outside the nucleus";
    }
  }
}

TEST(Sampling, IsAFunctionOfSeedBranchAndIndex) {
  SplitMix64 random(9);
  const std::vector<float> logits = RandomLogits(random, 700, 0.3);
  SamplingParams p;
  p.seed = 1;
  std::set<int32_t> ids;
  for (uint32_t branch = 0; branch < 4; ++branch) {
    for (uint32_t index = 0; index < 8; ++index) {
      const SampleInput in{&p, branch, index, {}, {}};
      ids.insert(Sample(logits, in).id);
      EXPECT_EQ(Sample(logits, in).id, Sample(logits, in).id);
    }
  }
  EXPECT_GT(ids.size(), 25u) << "branches and indexes must draw independently";
  const int32_t before = Sample(logits, {&p, 0, 0, {}, {}}).id;
  p.seed = 2;
  EXPECT_NE(Sample(logits, {&p, 0, 0, {}, {}}).id, before);
}

TEST(Sampling, BreaksTiesByLowestId) {
  SamplingParams p;
  p.temperature = 0;
  EXPECT_EQ(Sample({1, 3, 2, 3, 3}, {&p, 0, 0, {}, {}}).id, 1);
  p.temperature = 1;
  p.top_k = 1;
  EXPECT_EQ(Sample({1, 3, 2, 3, 3}, {&p, 0, 0, {}, {}}).id, 1);
  p.top_k = 2;
  for (uint32_t i = 0; i < 50; ++i) {
    EXPECT_THAT(Sample({1, 3, 2, 3, 3}, {&p, 0, i, {}, {}}).id, testing::AnyOf(1, 3));
  }
}

TEST(Sampling, NeverChoosesWhatIsNotFinite) {
  std::vector<float> logits(1200, 0.5f);
  logits[0] = kNan;
  logits[5] = kInf;
  logits[700] = -kInf;
  for (const int kind : {0, 1, 2, 3}) {
    SamplingParams p;
    p.temperature = kind == 0 ? 0 : 1;
    if (kind == 2) p.top_k = 1199;
    if (kind == 3) p.top_p = 0.999f;
    p.top_logprobs = 2;
    for (uint32_t i = 0; i < 300; ++i) {
      const SampledToken token = Sample(logits, {&p, 0, i, {}, {}});
      ASSERT_THAT(token.id, testing::AllOf(testing::Ne(0), testing::Ne(5), testing::Ne(700)));
      ASSERT_NEAR(token.logprob, -std::log(1197.0), 1e-5);
      ASSERT_EQ(token.top[0].first, 1);
    }
  }
}

TEST(Sampling, TakesTheLowestIdWhenNothingIsLeft) {
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams p;
    p.temperature = temperature;
    EXPECT_EQ(Sample({-kInf, -kInf}, {&p, 0, 0, {}, {}}).id, 0);
    EXPECT_EQ(Sample({kNan, kNan}, {&p, 0, 0, {}, {}}).id, 0);
    EXPECT_EQ(Sample({kInf, kInf}, {&p, 0, 0, {}, {}}).id, 0);
    EXPECT_EQ(Sample({-kInf, -kInf}, {&p, 0, 0, {}, {}}).logprob, -kInf);
    p.min_tokens = 1;
    p.eos_ids = {0, 1};
    EXPECT_EQ(Sample({1, 2}, {&p, 0, 0, {}, {}}).id, 0);
  }
}

TEST(Sampling, ReportsRawLogprobs) {
  SamplingParams p;
  p.temperature = 0.1f;
  p.top_k = 1;
  p.logit_bias = {{2, 50.0f}, {99, 1.0f}, {-1, 1.0f}};  // foreign ids change nothing
  p.top_logprobs = 2;
  const SampledToken token = Sample({1, 2, 0}, {&p, 0, 0, {}, {}});
  const double lse = std::log(std::exp(1.0) + std::exp(2.0) + 1.0);
  EXPECT_EQ(token.id, 2);
  EXPECT_NEAR(token.logprob, -lse, 1e-6);
  ASSERT_EQ(token.top.size(), 2u);
  EXPECT_EQ(token.top[0].first, 1);
  EXPECT_NEAR(token.top[0].second, 2 - lse, 1e-6);
  EXPECT_EQ(token.top[1].first, 0);
}

TEST(Sampling, BarsEndIdsOnlyBelowMinTokens) {
  SamplingParams p;
  p.temperature = 0;
  p.min_tokens = 2;
  p.stop_ids = {1};
  p.eos_ids = {2};
  const std::vector<float> logits = {0, 5, 4, 3};
  EXPECT_EQ(Sample(logits, {&p, 0, 1, {}, {}}).id, 3);
  EXPECT_EQ(Sample(logits, {&p, 0, 2, {}, {}}).id, 1);
}

TEST(Sampling, SurvivesTinyTemperatures) {
  for (const float temperature : {1e-3f, 1e-5f, 1e-6f, 1e-38f}) {
    for (const float top_p : {1.0f, 0.9f}) {
      SamplingParams p;
      p.temperature = temperature;
      p.top_p = top_p;
      EXPECT_EQ(Sample({1, 40, 39, -7}, {&p, 0, 0, {}, {}}).id, 1);
      EXPECT_EQ(Sample({1, 3e38f, 39, -7}, {&p, 0, 0, {}, {}}).id, 1);
    }
  }
}

TEST(Sampling, GivesTheSameBitsOnEveryInstructionSet) {
  SplitMix64 random(3);
  int compared = 0;
  for (int round = 0; round < 100; ++round) {
    const std::vector<float> logits = RandomLogits(random, 1 + random.Below(3000), 2);
    SamplingParams p;
    p.seed = random.Next();
    p.temperature = round % 5 == 0 ? 0 : 0.8f;
    p.top_p = round % 2 == 0 ? 1.0f : 0.95f;
    p.repetition_penalty = 1.1f;
    p.top_logprobs = 5;
    const std::vector<int32_t> prompt = {0};
    const SampleInput in{&p, 0, 0, prompt, {}};
    std::vector<float> scratch = logits;
    const SampledToken want = SampleWith(kernels::Select(kernels::Isa::kScalar), scratch, in);
    for (const kernels::Isa isa : {kernels::Isa::kAvx2, kernels::Isa::kAvx512}) {
      if (!kernels::Supported(isa)) continue;
      scratch = logits;
      const SampledToken got = SampleWith(kernels::Select(isa), scratch, in);
      EXPECT_EQ(got.id, want.id);
      EXPECT_EQ(std::bit_cast<uint32_t>(got.logprob), std::bit_cast<uint32_t>(want.logprob));
      EXPECT_EQ(got.top, want.top);
      ++compared;
    }
  }
  if (kernels::BestIsa() != kernels::Isa::kScalar) {
    EXPECT_GT(compared, 0);
  }
}

}  // namespace
}  // namespace reprise::worker
