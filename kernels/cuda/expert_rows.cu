// Ordering is three passes over the ids, which are a few hundred kilobytes at most: count by part
// of 1,024 ids and expert, turn counts into places, place. A thread is an expert and reads the
// part's ids from shared memory, all lanes the same word, so that an expert's rows come out in
// order by themselves. One part, what a step of generated tokens is, takes a single launch.
//
// The sum reads per_row rows of experts for each row it writes, by 16 bytes a thread: bound by
// memory.
#include "kernels/cuda/device/barrier.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/expert_rows.h"
#include "kernels/cuda/rows_area.h"

namespace reprise::cuda {
namespace {

constexpr int kPart = 1024;  // ids

// ids of a part in shared memory, -1 behind the end; then the sums of all experts.
struct PartMemory {
  int32_t* ids;
  int32_t* sums;
};
REPRISE_DEVICE PartMemory Memory() {
  auto* shared = reinterpret_cast<int32_t*>(Shared());
  return {shared, shared + kPart};
}

REPRISE_DEVICE int64_t IdsOf(const ExpertRowsArgs& args) { return args.rows * args.per_row; }

REPRISE_DEVICE void LoadPart(const ExpertRowsArgs& args, int64_t part, int32_t* ids) {
  SyncBlock();
  for (uint32_t i = ThreadX(); i < kPart; i += BlockThreads()) {
    const int64_t at = part * kPart + i;
    ids[i] = at < IdsOf(args) ? args.ids[at] - args.first : -1;
  }
  SyncBlock();
}

// fn(i) for each of the part's ids that is `expert`, in order.
template <class F>
REPRISE_DEVICE void ForExpert(const int32_t* ids, int expert, F fn) {
  for (int i = 0; i < kPart; i += 4) {
    const Words four = Load16(ids + i);
    REPRISE_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (static_cast<int>(four.w[j]) == expert) fn(i + j);
    }
  }
}

// How many of a part's ids are this thread's expert, into scratch [parts, experts].
REPRISE_DEVICE void Count(const ExpertRowsArgs& args, int64_t part) {
  const int expert = static_cast<int>(ThreadX());
  LoadPart(args, part, Memory().ids);
  int32_t count = 0;
  ForExpert(Memory().ids, expert, [&](int) { ++count; });
  if (expert < args.experts) {
    static_cast<int32_t*>(args.scratch)[part * args.experts + expert] = count;
  }
}

// The sum of the values of all threads before this one, and of all.
REPRISE_DEVICE int32_t SumBefore(int32_t value, int32_t* sums, int32_t* all) {
  const uint32_t self = ThreadX();
  SyncBlock();
  sums[self] = value;
  SyncBlock();
  for (uint32_t step = 1; step < BlockThreads(); step *= 2) {
    const int32_t before = self >= step ? sums[self - step] : 0;
    SyncBlock();
    sums[self] += before;
    SyncBlock();
  }
  *all = sums[BlockThreads() - 1];
  return sums[self] - value;
}

// Counts become places: where each part's ids of an expert begin in the lists.
REPRISE_DEVICE void Begin(const ExpertRowsArgs& args, int64_t parts) {
  const int expert = static_cast<int>(ThreadX());
  const bool active = expert < args.experts;
  int32_t* counts = static_cast<int32_t*>(args.scratch) + expert;
  int32_t total = 0;
  for (int64_t part = 0; active && part < parts; ++part) total += counts[part * args.experts];
  const int32_t padded = (total + args.tile - 1) / args.tile * args.tile;
  int32_t all = 0;
  int32_t begin = SumBefore(padded, Memory().sums, &all);
  if (!active) return;
  args.counts[expert] = total;
  args.begins[expert] = begin;
  if (expert == 0) args.begins[args.experts] = all;
  for (int64_t part = 0; part < parts; ++part) {
    const int32_t count = counts[part * args.experts];
    counts[part * args.experts] = begin;
    begin += count;
  }
}

REPRISE_DEVICE void PlaceRows(const ExpertRowsArgs& args, int64_t part) {
  const int expert = static_cast<int>(ThreadX());
  LoadPart(args, part, Memory().ids);
  if (expert >= args.experts) return;
  int32_t place = static_cast<const int32_t*>(args.scratch)[part * args.experts + expert];
  ForExpert(Memory().ids, expert, [&](int i) {
    const int64_t at = part * kPart + i;
    args.row_of[place] = static_cast<int32_t>(at / args.per_row);
    args.place_of[at] = place++;
  });
}

REPRISE_KERNEL(kListedExpertsMax, 1) ListOnePart(ExpertRowsArgs args) {
  Count(args, 0);
  Begin(args, 1);
  PlaceRows(args, 0);
}
REPRISE_KERNEL(kListedExpertsMax, 1) CountParts(ExpertRowsArgs args) { Count(args, BlockX()); }
REPRISE_KERNEL(kListedExpertsMax, 1) BeginLists(ExpertRowsArgs args, int64_t parts) {
  Begin(args, parts);
}
REPRISE_KERNEL(kListedExpertsMax, 1) PlaceParts(ExpertRowsArgs args) { PlaceRows(args, BlockX()); }

REPRISE_KERNEL(kAreaThreads, 1) SumKernel(SumExpertsArgs args, Area area) {
  ForArea<8>(area, [&](int64_t row, int64_t col, int64_t n) {
    Eight sum = {};
#pragma unroll 4
    for (int j = 0; j < args.per_row; ++j) {
      const int64_t place = args.place_of[row * args.per_row + j];
      if (place < 0) continue;
      const float weight = args.weights[row * args.per_row + j];
      const Eight x = LoadSome(args.x, place, col, n);
      REPRISE_UNROLL
      for (int i = 0; i < 8; ++i) sum.v[i] = Fma(weight, x.v[i], sum.v[i]);
    }
    if (args.base.data != nullptr) {
      const Eight base = LoadSome(args.base, row, col, n);
      REPRISE_UNROLL
      for (int i = 0; i < 8; ++i) sum.v[i] = sum.v[i] + base.v[i];
    }
    StoreSome(sum, args.y, row, col, n);
  });
}

int64_t PartsOf(const ExpertRowsArgs& args) {
  const int64_t parts = (args.rows * args.per_row + kPart - 1) / kPart;
  return parts > 1 ? parts : 1;
}

}  // namespace

int64_t ExpertRowsMax(const ExpertRowsArgs& args) {
  const int64_t ids = args.rows * args.per_row;
  const int64_t lists = args.experts < ids ? args.experts : ids;
  return ids + lists * (args.tile - 1);
}

size_t ExpertRowsScratchBytes(const ExpertRowsArgs& args) {
  return static_cast<size_t>(PartsOf(args) * args.experts) * sizeof(int32_t);
}

int ListExpertRows(const ExpertRowsArgs& args, Stream stream) {
  if (args.experts < 1 || args.experts > kListedExpertsMax || args.tile < 1 ||
      ExpertRowsMax(args) > INT32_MAX) {
    return kErrorInvalidValue;
  }
  const size_t listed = static_cast<size_t>(ExpertRowsMax(args)) * sizeof(int32_t);
  const size_t ids = static_cast<size_t>(args.rows * args.per_row) * sizeof(int32_t);
  if (const int e = listed == 0 ? 0 : Fill(args.row_of, 0xFF, listed, stream); e != 0) return e;
  if (const int e = ids == 0 ? 0 : Fill(args.place_of, 0xFF, ids, stream); e != 0) return e;
  const int64_t parts = PartsOf(args);
  const auto threads = static_cast<uint32_t>((args.experts + 31) / 32 * 32);
  const LaunchShape one = {.blocks = {1, 1, 1},
                           .threads = {threads, 1, 1},
                           .shared_bytes = (kPart + threads) * sizeof(int32_t)};
  if (parts == 1) return Launch(one, stream, ListOnePart, args);
  LaunchShape all = one;
  all.blocks[0] = static_cast<uint32_t>(parts);
  if (const int e = Launch(all, stream, CountParts, args); e != 0) return e;
  if (const int e = Launch(one, stream, BeginLists, args, parts); e != 0) return e;
  return Launch(all, stream, PlaceParts, args);
}

int SumExperts(const SumExpertsArgs& args, Stream stream) {
  return StartArea<8>(SumKernel, args, args.rows, args.cols, stream);
}

}  // namespace reprise::cuda
