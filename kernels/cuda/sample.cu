// One block samples a row. A row of 128 Ki logits is 512 KB and stays in the second-level cache, so
// passes over it cost what one SM can draw from there, by estimate some 10 us each:
//
//   greedy           one for the best, and one for the log-probability
//   top-k            one or two more: the bound, the candidates
//   top-p, min-p     one more for the mass of all
//   anything else    the mass of all, and 512 logits
//
// What bounds a row is not these but the log-probability, whose canonical sum is 16 chains of vocab
// / 16 additions: one warp adds while the others compute the terms of the next tile. A row that
// wants no log-probability says so and is spared it. Rows share nothing: a batch up to the number
// of SMs takes the time of one row.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_candidates.h"
#include "kernels/cuda/sample_mass.h"
#include "kernels/philox.h"

namespace reprise::cuda {
namespace sampling {
namespace {

// The CPU sampler's: below it, greedy.
constexpr float kTemperatureMin = 1e-5F;

REPRISE_DEVICE bool Infinite(float x) { return x == Infinity() || x == -Infinity(); }

// A model that gives +inf is broken at that id alone: it becomes -inf. Returns the best.
REPRISE_DEVICE uint64_t MendInfinities(Memory& m, float* logits, int vocab) {
  for (int i = static_cast<int>(ThreadX()); i < vocab; i += kThreads) {
    if (logits[i] == Infinity()) logits[i] = -Infinity();
  }
  SyncBlock();
  return FirstOf(m, logits, vocab);
}

// exp(x - max) of the ids of a tile, zero behind the row's end: by all warps but the first.
REPRISE_DEVICE void ComputeTerms(const float* logits, int vocab, int tile, float max,
                                 float* terms) {
  for (int at = (static_cast<int>(ThreadX()) - 32) * 4; at < kTile; at += (kThreads - 32) * 4) {
    const int id = tile * kTile + at;
    const int left = vocab - id;
    const Four x = left > 0 ? LoadSomeOfFour(logits + id, left < 4 ? left : 4) : Four{};
    Four term;
    REPRISE_UNROLL
    for (int i = 0; i < 4; ++i) {
      // NaN counts as -inf.
      term.v[i] = i < left ? kernels::PortableExp(Max(x.v[i], -Infinity()) - max) : 0;
    }
    StoreFour(term, terms + at);
  }
}

// max + log of the canonical sum of exp(x - max).
REPRISE_DEVICE float LogSumExpOf(Memory& m, const float* logits, int vocab, float max) {
  if (max == -Infinity()) return max;
  const int tiles = (vocab + kTile - 1) / kTile;
  const bool adds = Warp() == 0;
  float sum = 0;
  SyncBlock();
  for (int tile = 0; tile <= tiles; ++tile) {
    if (!adds && tile < tiles) ComputeTerms(logits, vocab, tile, max, m.terms[tile % 2]);
    if (adds && tile > 0) {
      const float* terms = m.terms[(tile - 1) % 2] + Lane() % 16;
#pragma unroll 16
      for (int i = 0; i < kTile; i += 16) sum = sum + terms[i];
    }
    SyncBlock();
  }
  if (adds) {
    sum = SumOf(sum, 16);
    if (Lane() == 0) m.real = kernels::LogSumExp(max, sum);
  }
  SyncBlock();
  return m.real;
}

// NaN and -inf have probability zero.
REPRISE_DEVICE float LogProbability(float logit, float lse) {
  return logit > -Infinity() ? logit - lse : -Infinity();
}

REPRISE_DEVICE void StoreTop(Memory& m, const SampleArgs& args, const float* logits, int wanted,
                             float lse, SampledTop* top) {
  int stored = 0;
  uint64_t after = kBeforeAll;
  while (stored < wanted) {
    const int left = wanted - stored;
    const int count = NextChunk(m, logits, args.vocab, after, kNone,
                                left < static_cast<int>(kThreads) ? left : kThreads);
    if (count == 0) break;
    for (int i = static_cast<int>(ThreadX()); i < count && i < left; i += kThreads) {
      const uint64_t order = m.candidates.order[i];
      top[stored + i] = {IdOf(order), LogProbability(logits[IdOf(order)], lse)};
    }
    after = m.candidates.order[count - 1];
    stored += count;
    SyncBlock();
  }
  for (int i = stored + static_cast<int>(ThreadX()); i < wanted; i += kThreads) {
    top[i] = {-1, -Infinity()};
  }
}

REPRISE_DEVICE void Edit(const SampleRow& row, TokenEdit* edit, float* logits, int vocab) {
  if (edit->id < 0 || edit->id >= vocab) return;
  float x = logits[edit->id];
  edit->raw = x;
  if (edit->prompt > 0 || edit->output > 0) {
    x = x > 0 ? Divide(x, row.repetition) : x * row.repetition;
  }
  if (edit->output > 0) {
    x = x - (row.presence + row.frequency * static_cast<float>(edit->output));
  }
  if (edit->bias != 0) x = x + edit->bias;
  logits[edit->id] = edit->barred != 0 ? -Infinity() : x;
}

// A token for logits that hold a finite value and no +inf.
REPRISE_DEVICE int Draw(Memory& m, const float* logits, int vocab, const SampleRow& row) {
  const double uniform = kernels::UniformAt(row.seed, row.branch, row.index);
  Walk walk = {logits, vocab, row.temperature, vocab};
  if (row.top_k > 0 && row.top_k < vocab) {
    walk.limit = row.top_k;
    const Prefix all = AllOf(m, walk);
    walk.limit = all.count;
    return PickFrom(m, walk, KeptOf(m, walk, row, all.mass), uniform);
  }
  const double total = SumMasses(m, logits, vocab, row.temperature);
  if (row.top_p >= 1 && row.min_p <= 0) {
    return PickFromAll(m, logits, vocab, row.temperature, uniform);
  }
  return PickFrom(m, walk, KeptOf(m, walk, row, total), uniform);
}

REPRISE_DEVICE int Choose(Memory& m, const float* logits, int vocab, uint64_t best,
                          const SampleRow& row) {
  if (best == kNone) return 0;
  if (row.temperature < kTemperatureMin) return IdOf(best);
  // -inf: nothing is left to choose from. +inf: the quotient left the range of f32.
  if (Infinite(Divide(LogitOf(best), row.temperature))) return IdOf(best);
  return Draw(m, logits, vocab, row);
}

// The logit of `id` before any edit.
REPRISE_DEVICE float RawOf(Memory& m, const float* logits, const TokenEdit* edits, int count,
                           int id) {
  SyncBlock();
  if (ThreadX() == 0) m.real = logits[id];
  SyncBlock();
  for (int i = static_cast<int>(ThreadX()); i < count; i += kThreads) {
    if (edits[i].id == id) m.real = edits[i].raw;
  }
  SyncBlock();
  return m.real;
}

REPRISE_KERNEL(kThreads, 1) SampleKernel(SampleArgs args) {
  const SampleRow row = args.params[BlockX()];
  if (row.on_host != 0) return;
  Memory& m = *reinterpret_cast<Memory*>(Shared());
  float* logits = args.logits + static_cast<int64_t>(BlockX()) * args.stride;
  uint64_t best = FirstOf(m, logits, args.vocab);
  if (best != kNone && LogitOf(best) == Infinity()) best = MendInfinities(m, logits, args.vocab);
  const bool wants_lse = row.logprob != 0 || row.top > 0;
  const float max = best == kNone ? -Infinity() : LogitOf(best);
  const float lse = wants_lse ? LogSumExpOf(m, logits, args.vocab, max) : 0;
  if (row.top > 0) {
    StoreTop(m, args, logits, row.top, lse,
             args.top + static_cast<int64_t>(BlockX()) * args.top_stride);
  }
  TokenEdit* edits = args.edits + row.first_edit;
  if (row.edits > 0) {
    SyncBlock();
    for (int i = static_cast<int>(ThreadX()); i < row.edits; i += kThreads) {
      Edit(row, edits + i, logits, args.vocab);
    }
    SyncBlock();
    best = FirstOf(m, logits, args.vocab);
  }
  const int id = Choose(m, logits, args.vocab, best, row);
  const float raw = RawOf(m, logits, edits, row.edits, id);
  if (ThreadX() != 0) return;
  args.tokens[BlockX()] = {id, row.logprob != 0 ? LogProbability(raw, lse) : FloatOf(0x7FFFFFFF)};
}

}  // namespace
}  // namespace sampling

int Sample(const SampleArgs& args, Stream stream) {
  if (args.vocab < 1 || args.vocab > kSampleVocabMax) return kErrorInvalidValue;
  if (args.rows == 0) return 0;
  const LaunchShape shape = {.blocks = {static_cast<uint32_t>(args.rows), 1, 1},
                             .threads = {sampling::kThreads, 1, 1},
                             .shared_bytes = sizeof(sampling::Memory)};
  return Launch(shape, stream, sampling::SampleKernel, args);
}

}  // namespace reprise::cuda
