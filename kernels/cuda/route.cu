// A warp takes a row; expert k belongs to lane k mod 32, so the canonical 16-lane sum of softmax is
// lanes 0 to 15 adding their own terms and those of the lanes sixteen further, in turn. Choosing is
// a tournament of the lanes' best: a round costs five exchanges, and only the lane that won looks
// through its experts again. Logits and results are a few hundred bytes a row: the kernel is bound
// by the latency of per_row rounds, and thousands of rows hide that of each other.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/route.h"
#include "kernels/portable_math.h"

namespace reprise::cuda {
namespace {

constexpr int kRowsABlock = 4;
constexpr uint32_t kThreads = 32 * kRowsABlock;

// Shared memory of a row, in floats: scores, choices, group scores, the chosen weights.
struct RowMemory {
  float* scores;
  float* choice;
  float* groups;
  float* chosen;
};
int FloatsOf(const RouteArgs& args) { return 2 * args.experts + args.groups + args.per_row; }

// What decides: the higher value, a number before NaN; among equals the lower index.
REPRISE_DEVICE bool Before(float a, float b) { return a > b || (b != b && a == a); }

struct Best {
  float value;
  int index;  // -1: none
};
REPRISE_DEVICE bool Beats(const Best& a, const Best& b) {
  if (a.index < 0 || b.index < 0) return b.index < 0 && a.index >= 0;
  return Before(a.value, b.value) || (!Before(b.value, a.value) && a.index < b.index);
}

// Of this lane's values that are not taken (bit j: value 32 j + lane).
REPRISE_DEVICE Best BestOfLane(const float* values, int n, uint32_t taken) {
  Best best = {0, -1};
  for (int k = static_cast<int>(Lane()), j = 0; k < n; k += 32, ++j) {
    const Best next = {values[k], k};
    if ((taken >> j & 1) == 0 && Beats(next, best)) best = next;
  }
  return best;
}
REPRISE_DEVICE Best BestOfWarp(Best best) {
  for (uint32_t step = 16; step >= 1; step /= 2) {
    const Best other = {ShuffleXor(best.value, step),
                        static_cast<int>(ShuffleXor(static_cast<uint32_t>(best.index), step))};
    if (Beats(other, best)) best = other;
  }
  return best;
}

// Takes the `count` first values in order; returns those of this lane, as bits.
REPRISE_DEVICE uint32_t Take(const float* values, int n, uint32_t taken, int count) {
  uint32_t mine = 0;
  Best best = BestOfLane(values, n, taken);
  for (int i = 0; i < count; ++i) {
    const Best winner = BestOfWarp(best);
    if (winner.index < 0 || winner.index % 32 != static_cast<int>(Lane())) continue;
    mine |= 1U << (winner.index / 32);
    best = BestOfLane(values, n, taken | mine);
  }
  return mine;
}

struct Softmax {
  float max;
  float sum;
};
// NaN counts as -inf.
REPRISE_DEVICE Softmax SoftmaxOf(const float* logits, int n) {
  const int lane = static_cast<int>(Lane());
  float max = -Infinity();
  for (int k = lane; k < n; k += 32) max = Max(max, logits[k]);
  max = MaxOf(max, 32);
  if (max == -Infinity()) return {max, 0};
  float sum = 0;
  for (int first = 0; first < n; first += 32) {
    const int k = first + lane;
    const float x = k < n ? Max(logits[k], -Infinity()) : -Infinity();
    const float term = kernels::PortableExp(x - max);
    const float next = Shuffle(term, Lane() + 16);
    sum = sum + term;
    sum = sum + next;
  }
  return {max, Shuffle(SumOf(sum, 16), 0)};
}

REPRISE_DEVICE void Score(const RouteArgs& args, const float* logits, const RowMemory& row) {
  const Softmax softmax = args.sigmoid ? Softmax{} : SoftmaxOf(logits, args.experts);
  for (int k = static_cast<int>(Lane()); k < args.experts; k += 32) {
    const float x = logits[k];
    const float score = args.sigmoid ? Divide(1.0F, 1.0F + kernels::PortableExp(-x))
                                     : Divide(kernels::PortableExp(x - softmax.max), softmax.sum);
    row.scores[k] = score;
    row.choice[k] = args.bias == nullptr ? score : score + args.bias[k];
  }
  SyncWarp();
}

// What a group is worth: its best, for sigmoid the sum of its two best.
REPRISE_DEVICE float GroupScore(const float* values, int size, bool sigmoid) {
  Best first = {0, -1};
  Best second = {0, -1};
  for (int i = 0; i < size; ++i) {
    const Best next = {values[i], i};
    if (Beats(next, first)) {
      second = first;
      first = next;
    } else if (Beats(next, second)) {
      second = next;
    }
  }
  return sigmoid && size > 1 ? first.value + second.value : first.value;
}

// This lane's experts of groups that are not kept.
REPRISE_DEVICE uint32_t OtherGroups(const RouteArgs& args, const RowMemory& row) {
  if (args.groups_kept >= args.groups) return 0;
  const int lane = static_cast<int>(Lane());
  const int size = args.experts / args.groups;
  for (int g = lane; g < args.groups; g += 32) {
    row.groups[g] = GroupScore(row.choice + g * size, size, args.sigmoid);
  }
  SyncWarp();
  const uint32_t kept = Take(row.groups, args.groups, 0, args.groups_kept);
  uint32_t others = 0;
  for (int first = 0, j = 0; first < args.experts; first += 32, ++j) {
    const int k = first + lane;
    const int group = k < args.experts ? k / size : 0;
    const uint32_t kept_there = Shuffle(kept, static_cast<uint32_t>(group % 32));
    if ((kept_there >> (group / 32) & 1) == 0) others |= 1U << j;
  }
  return others;
}

// The chosen experts in order of id, with their weights.
REPRISE_DEVICE void Store(const RouteArgs& args, const RowMemory& row, uint32_t mine, int32_t* ids,
                          float* weights) {
  const int lane = static_cast<int>(Lane());
  int before = 0;
  for (int first = 0, j = 0; first < args.experts; first += 32, ++j) {
    const bool chosen = (mine >> j & 1) != 0;
    const uint32_t all = Ballot(chosen);
    if (chosen) {
      const int at = before + static_cast<int>(PopCount(all & ((1U << lane) - 1)));
      ids[at] = first + lane;
      row.chosen[at] = row.scores[first + lane];
    }
    before += static_cast<int>(PopCount(all));
  }
  SyncWarp();
  float sum = 0;
  if (args.normalize) {
    for (int i = 0; i < args.per_row; ++i) sum = sum + row.chosen[i];
  }
  for (int i = lane; i < args.per_row; i += 32) {
    float weight = row.chosen[i];
    if (args.normalize) weight = Divide(weight, sum + 1e-20F);
    weights[i] = weight * args.scale;
  }
}

REPRISE_KERNEL(kThreads, 1) RouteKernel(RouteArgs args, int floats) {
  const int64_t row = static_cast<int64_t>(BlockX()) * kRowsABlock + Warp();
  if (row >= args.rows) return;
  float* memory = reinterpret_cast<float*>(Shared()) + Warp() * floats;
  const RowMemory m = {memory, memory + args.experts, memory + 2 * args.experts,
                       memory + 2 * args.experts + args.groups};
  Score(args, args.logits + row * args.logits_stride, m);
  const uint32_t mine = Take(m.choice, args.experts, OtherGroups(args, m), args.per_row);
  Store(args, m, mine, args.ids + row * args.per_row, args.weights + row * args.per_row);
}

bool Valid(const RouteArgs& args) {
  return args.experts >= 1 && args.experts <= kRouteExpertsMax && args.groups >= 1 &&
         args.experts % args.groups == 0 && args.groups_kept >= 1 &&
         args.groups_kept <= args.groups && args.per_row >= 0 &&
         args.per_row <= args.experts / args.groups * args.groups_kept;
}

}  // namespace

int Route(const RouteArgs& args, Stream stream) {
  if (!Valid(args)) return kErrorInvalidValue;
  if (args.rows == 0 || args.per_row == 0) return 0;
  const int floats = FloatsOf(args);
  const LaunchShape shape = {
      .blocks = {static_cast<uint32_t>((args.rows + kRowsABlock - 1) / kRowsABlock), 1, 1},
      .threads = {kThreads, 1, 1},
      .shared_bytes = static_cast<size_t>(floats) * kRowsABlock * sizeof(float)};
  return Launch(shape, stream, RouteKernel, args, floats);
}

}  // namespace reprise::cuda
