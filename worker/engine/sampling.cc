// Selection never divides all logits: the order comes from the adjusted logits, and the temperature
// is applied to what is selected and to the blocks whose mass is summed. So the raw logits survive
// for the reported logprobs, apart from the few adjusted ones, which are remembered.
#include "worker/engine/sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "kernels/philox.h"
#include "worker/engine/sampling_ops.h"
#include "worker/engine/sort_logits.h"

namespace reprise::worker {
namespace {

using kernels::Candidate;
using kernels::CpuOps;
using kernels::SoftmaxStats;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Below it a difference of 0.001 between two logits weighs e^-100: the draw could not differ from
// greedy, while the quotients would leave the range of f32.
constexpr float kTemperatureMin = 1e-5f;

// Ids whose mass is summed as one; fixed, because the order of the sum is part of the result.
constexpr int64_t kMassBlock = 512;

// Candidates looked at in turn when top-p or min-p decides how many there are; beyond, all are
// sorted.
constexpr int64_t kTries[] = {64, 512};

// The logits, adjusted in place for one draw, with the raw values of what was changed.
class Adjusted {
 public:
  Adjusted(const CpuOps& ops, std::span<float> logits, const SampleInput& input) : logits_(logits) {
    Penalize(ops, input);
    for (const auto& [id, bias] : input.params->logit_bias) {
      if (!Valid(id)) continue;
      Remember(id);
      logits_[static_cast<size_t>(id)] += bias;
    }
    if (static_cast<int64_t>(input.index) < input.params->min_tokens) {
      Bar(input.params->stop_ids);
      Bar(input.params->eos_ids);
    }
  }

  // The logit of `id` before any adjustment.
  float raw(int32_t id) const {
    for (const auto& [changed, value] : raw_) {
      if (changed == id) return value;  // the first entry is the oldest
    }
    return logits_[static_cast<size_t>(id)];
  }

 private:
  bool Valid(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < logits_.size(); }
  void Remember(int32_t id) { raw_.emplace_back(id, logits_[static_cast<size_t>(id)]); }

  void Bar(const std::vector<int32_t>& ids) {
    for (const int32_t id : ids) {
      if (!Valid(id)) continue;
      Remember(id);
      logits_[static_cast<size_t>(id)] = -kInfinity;
    }
  }

  void Penalize(const CpuOps& ops, const SampleInput& input) {
    const SamplingParams& p = *input.params;
    const bool repetition = p.repetition_penalty != 1;
    if (!repetition && p.presence_penalty == 0 && p.frequency_penalty == 0) return;
    absl::flat_hash_map<int32_t, kernels::TokenCount> counts;
    if (repetition) {
      for (const int32_t id : input.prompt) {
        if (Valid(id)) ++counts[id].prompt;
      }
    }
    for (const int32_t id : input.generated) {
      if (Valid(id)) ++counts[id].output;
    }
    // Each token is penalized on its own, so the map's order does not show in the result.
    std::vector<kernels::TokenCount> list;
    list.reserve(counts.size());
    for (auto& [id, count] : counts) {
      count.id = id;
      list.push_back(count);
      Remember(id);
    }
    ops.apply_penalties(logits_.data(), list.data(), static_cast<int64_t>(list.size()),
                        {p.repetition_penalty, p.presence_penalty, p.frequency_penalty});
  }

  std::span<float> logits_;
  std::vector<std::pair<int32_t, float>> raw_;
};

// One draw at temperature > 0 from adjusted logits that hold a finite value and no +inf.
class Draw {
 public:
  Draw(const CpuOps& ops, std::span<const float> logits, const SampleInput& input)
      : ops_(ops),
        logits_(logits.data()),
        vocab_(static_cast<int64_t>(logits.size())),
        params_(*input.params),
        uniform_(kernels::UniformAt(params_.seed, input.branch, input.index)) {}

  int32_t Run() {
    if (params_.top_k > 0 && params_.top_k < vocab_) {
      const int64_t n = Select(params_.top_k);
      return Pick(Kept(n, cumulative_[static_cast<size_t>(n - 1)]).count);
    }
    SumMasses();
    if (params_.top_p >= 1 && params_.min_p <= 0) return PickFromAll();
    for (const int64_t k : kTries) {
      if (k >= vocab_) break;
      const Nucleus kept = Kept(Select(k), total_);
      if (kept.closed) return Pick(kept.count);
    }
    SortLogits({logits_, static_cast<size_t>(vocab_)}, &candidates_);
    return Pick(Kept(Weigh(static_cast<int64_t>(candidates_.size())), total_).count);
  }

 private:
  struct Nucleus {
    int64_t count;
    bool closed;  // more candidates would not change the count
  };

  // The first k candidates, weighed; fewer when fewer are left. Returns how many.
  int64_t Select(int64_t k) {
    candidates_.resize(static_cast<size_t>(k));
    int64_t n = ops_.top_k(logits_, vocab_, k, candidates_.data());
    while (n > 1 && candidates_[static_cast<size_t>(n - 1)].logit == -kInfinity) --n;
    return Weigh(n);
  }

  // Tempers the first n candidates and sums their masses relative to the first.
  int64_t Weigh(int64_t n) {
    cumulative_.resize(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      candidates_[static_cast<size_t>(i)].logit /= params_.temperature;
    }
    ops_.softmax_sorted(candidates_.data(), n, cumulative_.data());
    return n;
  }

  // Smallest prefix whose mass reaches top_p of `total`, cut where min_p cuts it; at least one.
  Nucleus Kept(int64_t n, double total) const {
    const double wanted = static_cast<double>(params_.top_p) * total;
    const double least = params_.min_p;
    for (int64_t i = 0; i < n; ++i) {
      const double sum = cumulative_[static_cast<size_t>(i)];
      if (i > 0 && sum - cumulative_[static_cast<size_t>(i - 1)] < least) return {i, true};
      if (params_.top_p < 1 && sum >= wanted) return {i + 1, true};
    }
    return {n, false};
  }

  // Inverse of the distribution function over the first `n` candidates.
  int32_t Pick(int64_t n) const {
    const auto begin = cumulative_.begin();
    const double target = uniform_ * cumulative_[static_cast<size_t>(n - 1)];
    const auto at = std::upper_bound(begin, begin + n, target);
    return candidates_[static_cast<size_t>(std::min<int64_t>(at - begin, n - 1))].id;
  }

  // Tempered logits of one block, NaN left in.
  int64_t LoadBlock(int64_t block, float* out) const {
    const int64_t first = block * kMassBlock;
    const int64_t n = std::min(kMassBlock, vocab_ - first);
    std::copy(logits_ + first, logits_ + first + n, out);
    ops_.apply_temperature(out, n, params_.temperature);
    return n;
  }

  // The mass of each block relative to the largest logit, and the sum of all.
  void SumMasses() {
    const int64_t blocks = (vocab_ + kMassBlock - 1) / kMassBlock;
    std::array<float, kMassBlock> block;
    std::vector<double> sums(static_cast<size_t>(blocks));
    candidates_.assign(1, {-kInfinity, 0});
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t n = LoadBlock(b, block.data());
      const SoftmaxStats stats = ops_.softmax_stats(block.data(), n);
      sums[static_cast<size_t>(b)] = stats.sum;
      candidates_.push_back({stats.max, static_cast<int32_t>(b)});
      candidates_[0].logit = std::max(candidates_[0].logit, stats.max);
    }
    std::vector<double> scales(candidates_.size());
    ops_.softmax_sorted(candidates_.data(), static_cast<int64_t>(candidates_.size()),
                        scales.data());
    masses_.assign(static_cast<size_t>(blocks), 0);
    total_ = 0;
    for (size_t b = 0; b < masses_.size(); ++b) {
      masses_[b] = sums[b] * (scales[b + 1] - scales[b]);
      total_ += masses_[b];
    }
  }

  // Nothing is cut off, so no sort is needed: blocks in order of id, and in the drawn block its
  // most probable token, then the others in order of id.
  int32_t PickFromAll() {
    double before = 0;
    const double target = uniform_ * total_;
    size_t block = 0;
    size_t last = 0;  // with any mass, should rounding lead past the end
    for (; block < masses_.size(); ++block) {
      if (masses_[block] > 0) last = block;
      if (before + masses_[block] > target) break;
      before += masses_[block];
    }
    if (block == masses_.size()) block = last;

    std::array<float, kMassBlock> tempered;
    const int64_t n = LoadBlock(static_cast<int64_t>(block), tempered.data());
    const auto first = static_cast<int32_t>(static_cast<int64_t>(block) * kMassBlock);
    const int64_t best = ops_.argmax(tempered.data(), n);
    candidates_.assign(1,
                       {tempered[static_cast<size_t>(best)], first + static_cast<int32_t>(best)});
    for (int64_t i = 0; i < n; ++i) {
      const float logit = tempered[static_cast<size_t>(i)];
      if (i != best && logit > -kInfinity) {
        candidates_.push_back({logit, first + static_cast<int32_t>(i)});
      }
    }
    cumulative_.resize(candidates_.size());
    const double inside = ops_.softmax_sorted(
        candidates_.data(), static_cast<int64_t>(candidates_.size()), cumulative_.data());
    const double wanted = (target - before) / masses_[block] * inside;
    const auto at = std::upper_bound(cumulative_.begin(), cumulative_.end(), wanted);
    return candidates_[std::min(static_cast<size_t>(at - cumulative_.begin()),
                                candidates_.size() - 1)]
        .id;
  }

  const CpuOps& ops_;
  const float* const logits_;
  const int64_t vocab_;
  const SamplingParams& params_;
  const double uniform_;
  std::vector<Candidate> candidates_;
  std::vector<double> cumulative_;
  std::vector<double> masses_;  // per block
  double total_ = 0;
};

// +inf would turn every probability into NaN; a model that gives one is broken at that id alone.
SoftmaxStats RawStats(const CpuOps& ops, std::span<float> logits) {
  const auto n = static_cast<int64_t>(logits.size());
  const SoftmaxStats stats = ops.softmax_stats(logits.data(), n);
  if (stats.max != kInfinity) return stats;
  std::replace(logits.begin(), logits.end(), kInfinity, -kInfinity);
  return ops.softmax_stats(logits.data(), n);
}

int32_t Choose(const CpuOps& ops, std::span<const float> logits, const SampleInput& input) {
  const int64_t best = ops.argmax(logits.data(), static_cast<int64_t>(logits.size()));
  if (best < 0) return 0;
  const float temperature = input.params->temperature;
  if (temperature < kTemperatureMin) return static_cast<int32_t>(best);
  // -inf: nothing is left to choose from. +inf: the quotient left the range of f32.
  if (std::abs(logits[static_cast<size_t>(best)] / temperature) == kInfinity) {
    return static_cast<int32_t>(best);
  }
  return Draw(ops, logits, input).Run();
}

}  // namespace

SampledToken SampleWith(const CpuOps& ops, std::span<float> logits, const SampleInput& input) {
  SampledToken token;
  const SoftmaxStats stats = RawStats(ops, logits);
  const auto logprob = [&stats](float logit) {
    return logit > -kInfinity ? logit - stats.lse : -kInfinity;  // NaN and -inf: probability zero
  };
  const auto vocab = static_cast<int64_t>(logits.size());
  if (const int64_t wanted = std::min<int64_t>(input.params->top_logprobs, vocab); wanted > 0) {
    std::vector<Candidate> top(static_cast<size_t>(wanted));
    top.resize(static_cast<size_t>(ops.top_k(logits.data(), vocab, wanted, top.data())));
    for (const Candidate& c : top) token.top.emplace_back(c.id, logprob(c.logit));
  }
  const Adjusted adjusted(ops, logits, input);
  token.id = Choose(ops, logits, input);
  token.logprob = logprob(adjusted.raw(token.id));
  return token;
}

SampledToken SampleFromLogits(std::span<float> logits, const SampleInput& input) {
  return SampleWith(kernels::Select(kernels::BestIsa()), logits, input);
}

}  // namespace reprise::worker
