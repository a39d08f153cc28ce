// Mixtures of experts: which experts a row goes to, and the sum of what they give (RouteArgs,
// AddScaledArgs).
#ifndef REPRISE_KERNELS_CPU_EXPERTS_INL_H_
#define REPRISE_KERNELS_CPU_EXPERTS_INL_H_

#include "kernels/cpu/rows_inl.h"
#include "kernels/cpu/sampling_inl.h"

namespace reprise::kernels::REPRISE_KERNEL_ISA {

// What decides, before `b`: the higher value, a number before NaN, the lower index among equals.
static inline bool Before(float a, float b) { return a > b || (b != b && a == a); }

// Index of the first in that order among those not taken; -1 when all are.
static int64_t Best(const float* values, const bool* taken, int64_t n) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; ++i) {
    if (!taken[i] && (best < 0 || Before(values[i], values[best]))) best = i;
  }
  return best;
}

static void GateScores(Gating gating, const float* logits, int64_t n, float* scores) {
  if (gating == Gating::kSigmoid) {
    for (int64_t i = 0; i < n; ++i) scores[i] = 1.0f / (1.0f + Exp(-logits[i]));
    return;
  }
  const SoftmaxStats stats = RowSoftmaxStats(logits, n);
  for (int64_t i = 0; i < n; ++i) scores[i] = Exp(logits[i] - stats.max) / stats.sum;
}

// Marks the experts of groups that are not kept as taken.
static void TakeOtherGroups(const RouteArgs& args, const float* choice, int64_t experts,
                            bool* taken) {
  const int64_t size = experts / args.groups;
  float group_scores[kExpertsMax];
  bool kept[kExpertsMax] = {};
  for (int64_t g = 0; g < args.groups; ++g) {
    bool none[kExpertsMax] = {};
    const float* values = choice + g * size;
    const int64_t first = Best(values, none, size);
    group_scores[g] = values[first];
    if (args.gating == Gating::kSoftmax || size == 1) continue;
    none[first] = true;
    group_scores[g] = values[first] + values[Best(values, none, size)];
  }
  for (int64_t i = 0; i < args.groups_kept; ++i) {
    const int64_t g = Best(group_scores, kept, args.groups);
    kept[g] = true;
  }
  for (int64_t i = 0; i < experts; ++i) taken[i] = !kept[i / size];
}

static void RouteRow(const RouteArgs& args, int64_t row) {
  const int64_t experts = args.logits.cols;
  float scores[kExpertsMax];
  float choice[kExpertsMax];
  bool taken[kExpertsMax] = {};
  bool chosen[kExpertsMax] = {};
  GateScores(args.gating, args.logits.row(row), experts, scores);
  for (int64_t i = 0; i < experts; ++i) {
    choice[i] = args.bias == nullptr ? scores[i] : scores[i] + args.bias[i];
  }
  if (args.groups_kept < args.groups) TakeOtherGroups(args, choice, experts, taken);
  for (int64_t i = 0; i < args.per_row; ++i) {
    const int64_t expert = Best(choice, taken, experts);
    taken[expert] = chosen[expert] = true;
  }
  int32_t* ids = args.ids + row * args.per_row;
  float* weights = args.weights + row * args.per_row;
  float sum = 0;
  int64_t n = 0;
  for (int64_t i = 0; i < experts; ++i) {
    if (!chosen[i]) continue;
    ids[n] = static_cast<int32_t>(i);
    weights[n++] = scores[i];
    sum = sum + scores[i];
  }
  for (int64_t i = 0; i < n; ++i) {
    if (args.normalize) weights[i] = weights[i] / (sum + 1e-20f);
    weights[i] = weights[i] * args.scale;
  }
}

static void Route(const Exec& exec, const RouteArgs& args) {
  DenormalsOff denormals_off;
  For(exec, args.logits.rows, args.logits.rows * args.logits.cols * args.per_row,
      [&](int64_t row) { RouteRow(args, row); });
}

static void AddScaled(const Exec& exec, const AddScaledArgs& args) {
  DenormalsOff denormals_off;
  For(exec, args.x.rows, args.x.rows * args.x.cols, [&](int64_t r) {
    const V weight = V::Set1(args.weights[r]);
    const float* x = args.x.row(r);
    float* y = args.y.row(args.rows[r]);
    Chunks(args.x.cols, [&](int64_t i, int64_t n) {
      StoreChunk(Fma(weight, LoadChunk(x + i, n), LoadChunk(y + i, n)), y + i, n);
    });
  });
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_EXPERTS_INL_H_
