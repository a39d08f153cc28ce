// After FlashMLA (deepseek-ai, "A Deep-Dive Into Our New Kernel", 2025): a block has 64 query
// heads, whose result of 64 x 512 in f32 fills the registers of two warpgroups, 256 columns each;
// so the two cannot take turns with results of their own. Instead each scores every other tile of
// 64 keys, and shows its weights to the other in shared memory:
//
//   first    scores 0 | softmax 0 | weights 0 x values 0           | weights 1 x values 1
//   second   scores 1 | ........... weights 0 x values 0, softmax 1 | weights 1 x values 1
//
// A fourth of the threads only copies. 128 heads are two blocks that read the same keys, the second
// from the cache. The order is the step form's, tile after tile: the greatest score so far goes
// from one warpgroup to the other with the weights.
#include "kernels/cuda/decode_result.h"
#include "kernels/cuda/decode_wide.h"
#include "kernels/cuda/decode_wide_copier.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/softmax_rows.h"

namespace reprise::cuda {
namespace {

using namespace wide;

constexpr uint32_t kBoth = 128 * kHalves;
// Named barriers.
constexpr uint32_t kAll = 1;      // both halves
constexpr uint32_t kShown = 2;    // + half: its weights are there
constexpr uint32_t kOwnHalf = 4;  // + half
// Of a block: results, and each thread's two log-sum-exps, so that it reads what it wrote itself.
constexpr int kNodeFloats = kRows * kLatent + 2 * kBoth;

using Scores = float[kPageRows / 2];
using Sums = float[kHalfLatent / 2];
using Weights = uint32_t[kPageRows / 16][4];

// Nothing follows a unit's last leaf: its node is what its parent would be, and is joined with
// nodes kept as long as they are left children. It begins at leaf `first`, what is kept at
// `kept_first`.
REPRISE_DEVICE int JoinsAtEnd(int32_t first, int32_t kept_first) {
  int joins = 0;
  while (first > kept_first) {
    int level = 0;  // of the node that ends where this one begins
    while ((first >> level & 1) == 0 && first - (2 << level) >= kept_first) ++level;
    if ((first >> level & 1) == 0) break;
    first -= 1 << level;
    ++joins;
  }
  return joins;
}

template <uint32_t kHalf>
struct Computer {
  const DecodeArgs& args;
  const uint32_t first_head;
  const uint32_t blocks;  // of a worker
  const float scale2;
  uint32_t used[kStages] = {};  // tiles that are over

  REPRISE_DEVICE uint32_t thread() const { return Opaque(ThreadX() % 128); }
  REPRISE_DEVICE int32_t row() const {  // the other one is 8 below
    return static_cast<int32_t>(16 * (thread() / 32) + Lane() / 4);
  }
  REPRISE_DEVICE int32_t column() const { return static_cast<int32_t>(Lane() % 4 * 2); }
  static REPRISE_DEVICE float* Shown(uint32_t at, uint32_t i) {
    return reinterpret_cast<float*>(Shared() + at) + i * kRows;
  }
  REPRISE_DEVICE uint32_t parity(uint32_t stage) const { return used[stage] & 1; }
  static REPRISE_DEVICE void Free(uint32_t stage, uint32_t part) {
    if (Lane() == 0) Arrive(Empty(stage, part));
  }

  // ---- queries ----

  // Heads that are not there are zero.
  REPRISE_DEVICE void LoadQueries(int32_t unit) const {
    constexpr uint32_t kPieces = kKeyDim / 8;  // of 16 bytes, a head
    const uint16_t* q = QueryOf(args, unit);
    for (uint32_t i = kHalf * 128 + thread(); i < kRows * kPieces; i += kBoth) {
      const uint32_t piece = i % kPieces;
      const uint32_t head = first_head + i / kPieces;
      Words words = {};
      if (head < static_cast<uint32_t>(args.q_heads))
        words = Load16(q + head * kKeyDim + piece * 8);
      Store16(Shared() + piece / 8 * kChunkBytes + Swizzle(i / kPieces * 128 + piece % 8 * 16, 128),
              words);
    }
    FenceAsync();
    SyncNamed(kAll, kBoth);
  }

  // ---- products ----

  // Of this half's tile with all heads; waits for them.
  REPRISE_DEVICE void Score(Scores& scores) {
    const uint64_t q = DescriptorOf({.address = SharedAddress(Shared())});
    const uint64_t k = DescriptorOf({.address = SharedAddress(Tile(kHalf))});
    REPRISE_UNROLL
    for (uint32_t i = 0; i < kChunks; ++i) {
      const uint32_t chunk = (i + kRotatedChunk) % kChunks;  // as they come
      Wait(Full(kHalf, chunk), parity(kHalf));
      FenceMatrix();
      REPRISE_UNROLL
      for (uint32_t step = 0; step < 4; ++step) {
        const uint32_t at = chunk * kChunkBytes + step * 32;
        Multiply<kPageRows, Major::kK, Major::kK>(scores, Advance(q, at), Advance(k, at),
                                                  i + step > 0);
      }
    }
    CommitMatrix();
    WaitMatrix<0>();
    Pin(scores);
    Free(kHalf, kThird);
  }
  REPRISE_DEVICE uint64_t Values(uint32_t stage) const {
    return DescriptorOf({.address = SharedAddress(Tile(stage)) + kHalf * kHalfChunks * kChunkBytes,
                         .wide_bytes = kChunkBytes});
  }
  // sums += weights x values; under way. The weights are this half's own, in registers,
  REPRISE_DEVICE void BeginOwn(Weights& weights, Sums& sums) const {
    const uint64_t v = Values(kHalf);
    Pin(weights);
    Pin(sums);
    FenceMatrix();
    REPRISE_UNROLL
    for (uint32_t step = 0; step < kPageRows / 16; ++step) {
      Multiply<kHalfLatent, Major::kMn>(sums, weights[step], Advance(v, step * 2048), true);
    }
    CommitMatrix();
  }
  // or the other's, of its tile, of which this half has waited for nothing yet.
  REPRISE_DEVICE void BeginOther(Sums& sums) const {
    constexpr uint32_t kStage = 1 - kHalf;
    const uint64_t v = Values(kStage);
    const uint64_t weights = DescriptorOf({.address = SharedAddress(Shared() + kWeightsAt)});
    REPRISE_UNROLL
    for (uint32_t i = 0; i < kHalfChunks; ++i) {
      Wait(Full(kStage, kHalf * kHalfChunks + i), parity(kStage));
    }
    Pin(sums);
    FenceMatrix();
    REPRISE_UNROLL
    for (uint32_t step = 0; step < kPageRows / 16; ++step) {
      Multiply<kHalfLatent, Major::kK, Major::kMn>(sums, Advance(weights, step * 32),
                                                   Advance(v, step * 2048), true);
    }
    CommitMatrix();
  }
  REPRISE_DEVICE void EndSums(uint32_t stage, Sums& sums) {
    WaitMatrix<0>();
    Pin(sums);
    Free(stage, kHalf);
    ++used[stage];
  }

  // ---- what the halves show each other ----

  REPRISE_DEVICE void Show(const Weights& weights, const SoftmaxRows& rows,
                           const float (&keep)[2]) const {
    SyncNamed(kOwnHalf + kHalf, 128);  // nobody of this half reads the other's weights any more
    REPRISE_UNROLL
    for (int step = 0; step < kPageRows / 16; ++step) {
      REPRISE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const auto at = static_cast<uint32_t>((row() + 8 * (i % 2)) * 128 +
                                              (16 * step + 8 * (i / 2) + column()) * 2);
        *reinterpret_cast<uint32_t*>(Shared() + kWeightsAt + Swizzle(at, 128)) = weights[step][i];
      }
    }
    if (Lane() % 4 == 0) {
      REPRISE_UNROLL
      for (int r = 0; r < 2; ++r) {
        Shown(kKeepAt, kHalf)[row() + 8 * r] = keep[r];
        Shown(kTopAt, kHalf)[row() + 8 * r] = rows.top[r];
      }
    }
    FenceAsync();
    ArriveNamed(kShown + kHalf, kBoth);
  }
  // The other half's tile comes before what follows; `keep` is of what came before it.
  REPRISE_DEVICE void See(SoftmaxRows* rows, float (&keep)[2]) const {
    SyncNamed(kShown + 1 - kHalf, kBoth);
    REPRISE_UNROLL
    for (int r = 0; r < 2; ++r) {
      keep[r] = Shown(kKeepAt, 1 - kHalf)[row() + 8 * r];
      rows->top[r] = Shown(kTopAt, 1 - kHalf)[row() + 8 * r];
      rows->sum[r] = rows->sum[r] * keep[r];
    }
  }

  // ---- two tiles, one leaf ----

  REPRISE_DEVICE void Soften(int32_t keys, Scores& scores, SoftmaxRows* rows, float (&keep)[2],
                             Weights& weights) const {
    if (keys < kPageRows) Hide({keys - 1, keys - 1}, column(), scores);
    AddBlock(scale2, scores, rows, keep);
    PackWeights(scores, weights);
  }

  // Tiles `tile`, which is even, and the next one if it is before `end`.
  REPRISE_DEVICE void Pair(int32_t tile, int32_t end, int32_t keys, SoftmaxRows* rows, Sums& sums) {
    const bool two = tile + 1 < end;
    Scores scores;
    Weights weights;
    float keep[2];
    if constexpr (kHalf == 0) {
      Score(scores);
      Soften(keys - tile * kPageRows, scores, rows, keep, weights);
      Show(weights, *rows, keep);
      Scale(keep, sums);
      BeginOwn(weights, sums);
      EndSums(0, sums);
      if (!two) return;
      See(rows, keep);
      Scale(keep, sums);
      BeginOther(sums);
      EndSums(1, sums);
    } else {
      if (two) Score(scores);
      See(rows, keep);
      Scale(keep, sums);
      BeginOther(sums);
      if (two) Soften(keys - (tile + 1) * kPageRows, scores, rows, keep, weights);
      EndSums(0, sums);
      if (!two) return;
      Show(weights, *rows, keep);
      Scale(keep, sums);
      BeginOwn(weights, sums);
      EndSums(1, sums);
    }
  }

  REPRISE_DEVICE void Leaf(int32_t leaf, const Tiles& tiles, Sums& sums, float (&lse2)[2]) {
    SoftmaxRows rows;
    Clear(&rows);
    REPRISE_UNROLL
    for (float& x : sums) x = 0;
    const int32_t first = leaf * kTilesPerLeaf;
    const int32_t end = first + kTilesPerLeaf < tiles.end ? first + kTilesPerLeaf : tiles.end;
    for (int32_t tile = first; tile < end; tile += 2) Pair(tile, end, tiles.keys, &rows, sums);
    // Each half has summed its own tiles. The place is another for the next leaf, or it would have
    // to be waited for again.
    const uint32_t at = static_cast<uint32_t>(leaf) % 2 * kHalves;
    float sum[2];
    REPRISE_UNROLL
    for (int r = 0; r < 2; ++r) {
      sum[r] = SumOf(rows.sum[r], 4);
      if (Lane() % 4 == 0) Shown(kSumAt, at + kHalf)[row() + 8 * r] = sum[r];
    }
    SyncNamed(kAll, kBoth);
    float inverse[2];
    REPRISE_UNROLL
    for (int r = 0; r < 2; ++r) {
      sum[r] = Shown(kSumAt, at)[row() + 8 * r] + Shown(kSumAt, at + 1)[row() + 8 * r];
    }
    Finish(scale2, rows.top, sum, lse2, inverse);
    Scale(inverse, sums);
  }

  // ---- nodes: a thread's own part of each, four elements at a time ----

  REPRISE_DEVICE float* Node(const DecodeRun& run, int i) const {
    return args.plan.node_out +
           (static_cast<int64_t>(run.slot + i) * blocks + first_head / kRows) * kNodeFloats;
  }
  REPRISE_DEVICE float* KeptLse(const DecodeRun& run, int i) const {
    return Node(run, i) + kRows * kLatent + (kHalf * 128 + thread()) * 2;
  }
  REPRISE_DEVICE void Keep(const DecodeRun& run, int i, const Sums& sums,
                           const float (&lse2)[2]) const {
    float* to = Node(run, i) + (kHalf * 128 + thread()) * 4;
    REPRISE_UNROLL
    for (int e = 0; e < kHalfLatent / 2; e += 4) {
      if (e % 32 == 0) to = Opaque(to);
      Store16(to + e * kBoth,
              {{BitsOf(sums[e]), BitsOf(sums[e + 1]), BitsOf(sums[e + 2]), BitsOf(sums[e + 3])}});
    }
    float* kept = KeptLse(run, i);
    kept[0] = lse2[0];
    kept[1] = lse2[1];
  }
  REPRISE_DEVICE void Join(const DecodeRun& run, int i, Sums& sums, float (&lse2)[2]) const {
    const float* kept = KeptLse(run, i);
    MergeWeights w[2];
    REPRISE_UNROLL
    for (int r = 0; r < 2; ++r) {
      w[r] = WeightsOf(kept[r], lse2[r]);
      lse2[r] = w[r].lse2;
    }
    const float* from = Node(run, i) + (kHalf * 128 + thread()) * 4;
    REPRISE_UNROLL
    for (int e = 0; e < kHalfLatent / 2; e += 4) {
      if (e % 64 == 0) {  // or all of the node is in registers at once
        from = Opaque(from);
        CompilerFence();
      }
      const Words left = Load16(from + e * kBoth);
      REPRISE_UNROLL
      for (int k = 0; k < 4; ++k) {
        sums[e + k] = Merged(w[k / 2], FloatOf(left.w[k]), sums[e + k]);
      }
    }
  }

  // ---- a run ----

  REPRISE_DEVICE void Write(const DecodeRun& run, const Sums& sums, const float (&lse2)[2]) const {
    REPRISE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const auto head = static_cast<int32_t>(first_head) + row() + 8 * r;
      const bool ours = head < args.q_heads;
      const int64_t at = int64_t{head} * kLatent + kHalf * kHalfLatent;
      if (args.parts == nullptr) {
        StoreRow(sums, r, ours,
                 reinterpret_cast<Bf16*>(args.out) + run.unit * args.out_row_stride + at);
      } else {
        StoreRow(sums, r, ours, args.parts[run.unit].out + at);
      }
      if (kHalf == 0 && ours && Lane() % 4 == 0) StoreLse(args, run.unit, head, lse2[r]);
    }
  }

  REPRISE_DEVICE void Run(const DecodeRun& run) {
    const Tiles tiles = TilesOf(args, run);
    Sums sums = {};
    float lse2[2] = {-Infinity(), -Infinity()};
    if (run.leaves > 0) LoadQueries(run.unit);
    int kept = 0;
    for (int32_t leaf = run.first_leaf; leaf < run.end_leaf; ++leaf) {
      Leaf(leaf, tiles, sums, lse2);
      int joins = JoinsAfter(leaf, run.first_leaf);
      const bool last = leaf + 1 == run.end_leaf;
      if (last && run.end_leaf == run.leaves) {
        joins += JoinsAtEnd(leaf >> joins << joins, run.first_leaf);
      }
      for (int join = 0; join < joins; ++join) Join(run, --kept, sums, lse2);
      if (last) break;
      Keep(run, kept++, sums, lse2);
    }
    if (run.whole != 0) {
      Write(run, sums, lse2);
    } else {
      Keep(run, kept, sums, lse2);
    }
  }
};

template <uint32_t kHalf>
REPRISE_DEVICE void Compute(const DecodeArgs& args, uint32_t blocks, int first, int end) {
  Computer<kHalf> computer{args, BlockX() % blocks * kRows, blocks, args.scale * kLog2E};
  for (int run = first; run < end; ++run) computer.Run(args.plan.runs[run]);
}

REPRISE_KERNEL(kThreads, 1)
DecodeWideKernel(REPRISE_PARAMETER DecodeArgs args, uint32_t blocks) {
  const uint32_t worker = BlockX() / blocks;
  const int first = args.plan.run_begin[worker];
  const int end = args.plan.run_begin[worker + 1];
  if (ThreadX() == 0) {
    PrefetchMap(args.maps.first);
    PrefetchMap(args.maps.second);
    InitBarriers();
  }
  SyncBlock();
  const uint32_t group = Warp() / 4;
  if (group == 0) {
    GiveRegisters<40>();
    if (Warp() != 0) return;
    Copier copier{args};
    for (int run = first; run < end; ++run) copier.Run(args.plan.runs[run]);
  } else if (group == 1) {
    TakeRegisters<232>();
    Compute<0>(args, blocks, first, end);
  } else {
    TakeRegisters<232>();
    Compute<1>(args, blocks, first, end);
  }
}

// ---- the tree's upper part, of units that several workers shared ----

constexpr uint32_t kJoinWarps = 4;
constexpr int kJoinRows = 4;  // that 32 floats of a node belong to

// A block has 32 floats of every node of a unit.
REPRISE_KERNEL(32 * kJoinWarps, 1)
JoinWideKernel(REPRISE_PARAMETER DecodeArgs args, uint32_t blocks) {
  if (args.plan.joins_there != nullptr && static_cast<int>(BlockY()) >= *args.plan.joins_there) {
    return;
  }
  const DecodeJoin join = args.plan.joins[BlockY()];
  const uint32_t part = BlockX() % blocks;
  const uint32_t f = BlockX() / blocks * 32 + Lane();
  const uint32_t thread = f / 4 % kBoth;
  const uint32_t local = Lane() / 16 * 2 + f / 2 % 2;  // of the four rows
  const uint32_t first_thread = thread / 8 * 8;
  const uint32_t row = 16 * (thread % 128 / 32) + thread % 32 / 4 + 8 * (f / 2 % 2);
  const uint32_t column = thread / 128 * kHalfLatent + f / (4 * kBoth) * 8 + thread % 4 * 2 + f % 2;
  auto* values = reinterpret_cast<float*>(Shared());  // [nodes][32]
  float* lse2 = values + args.plan.nodes_max * 32;    // [nodes][kJoinRows]
  const uint32_t warp = Warp();
  for (auto i = static_cast<int32_t>(warp); i < join.nodes; i += kJoinWarps) {
    const int64_t slot = args.plan.nodes[join.first_node + i];
    const float* node = args.plan.node_out + (slot * blocks + part) * kNodeFloats;
    values[i * 32 + static_cast<int32_t>(Lane())] = node[f];
    if (Lane() < kJoinRows) {
      lse2[i * kJoinRows + static_cast<int32_t>(Lane())] =
          node[kRows * kLatent + (first_thread + Lane() / 2 * 4) * 2 + Lane() % 2];
    }
  }
  for (int32_t round = join.first_round; round < join.first_round + join.rounds; ++round) {
    SyncBlock();
    const int32_t end = args.plan.round_begin[round + 1];
    for (int32_t m = args.plan.round_begin[round] + static_cast<int32_t>(warp); m < end;
         m += kJoinWarps) {
      const DecodeMerge merge = args.plan.merges[m];
      float* left = lse2 + merge.left * kJoinRows + local;
      const MergeWeights w =
          WeightsOf(*left, lse2[merge.right * kJoinRows + static_cast<int32_t>(local)]);
      const auto lane = static_cast<int32_t>(Lane());
      values[merge.left * 32 + lane] =
          Merged(w, values[merge.left * 32 + lane], values[merge.right * 32 + lane]);
      SyncWarp();  // lanes of the same row have read
      *left = w.lse2;
    }
  }
  SyncBlock();
  const auto head = static_cast<int32_t>(part * kRows + row);
  if (warp > 0 || head >= args.q_heads) return;
  StoreValue(args, join.unit, int64_t{head} * kLatent + column, values[Lane()]);
  if (column == 0) StoreLse(args, join.unit, head, lse2[local]);
}

uint32_t BlocksOf(const DecodeArgs& args) {
  return static_cast<uint32_t>((args.q_heads + kRows - 1) / kRows);
}

}  // namespace

bool DecodeWideServes(const DecodeArgs& args) {
  return args.latent && args.first_dim == kLatent && args.second_dim == kRotated &&
         args.kv_heads == 1 && args.q_heads > 0 && args.q_heads <= kDecodeWideMax;
}

int DecodeWideWorkers(const DecodeArgs& args, int processors) {
  const int workers = processors / static_cast<int>(BlocksOf(args));
  return workers > 0 ? workers : 1;
}

size_t DecodeWideNodeFloats(const DecodeArgs& args) { return BlocksOf(args) * size_t{kNodeFloats}; }

int DecodeWide(const DecodeArgs& args, Stream stream) {
  if (!DecodeWideServes(args)) return kErrorInvalidValue;
  const uint32_t blocks = BlocksOf(args);
  const int e = Launch({.blocks = {static_cast<uint32_t>(args.plan.workers) * blocks, 1, 1},
                        .threads = {kThreads, 1, 1},
                        .shared_bytes = kBytes},
                       stream, DecodeWideKernel, args, blocks);
  if (e != 0 || args.plan.join_count == 0) return e;
  return Launch(
      {.blocks = {kRows * kLatent / 32 * blocks, static_cast<uint32_t>(args.plan.join_count), 1},
       .threads = {32 * kJoinWarps, 1, 1},
       .shared_bytes = static_cast<size_t>(args.plan.nodes_max) * (32 + kJoinRows) * 4},
      stream, JoinWideKernel, args, blocks);
}

}  // namespace reprise::cuda
