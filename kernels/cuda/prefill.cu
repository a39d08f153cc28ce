// A block of 128 query rows of one head against 128 keys at a time, as FlashAttention-3 does it
// (Shah et al. 2024): one warp only copies, two warpgroups of 64 rows each compute, so that
//   - the copy engine brings keys and values, double-buffered, without a thread waiting for memory;
//   - the product of the next block's scores runs while this block's softmax does;
//   - in turns (ping-pong) one half multiplies while the other half is at its softmax.
// Scores never leave registers: as the accumulator of the first product lies, so lies operand a of
// the second. Blocks are grouped by leaves; between leaves the pipeline drains, one block in 32.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/prefill_copier.h"
#include "kernels/cuda/softmax_rows.h"

namespace reprise::cuda {
namespace {

using namespace prefill;

// ---- a warpgroup that computes ----

template <class L, int kKeyDim, int kValueDim, bool kPingPong>
struct Computer {
  const Parameters& p;
  const uint32_t half;
  const float scale2;
  Ring keys = {};
  Ring values = {};

  REPRISE_DEVICE uint32_t thread() const { return ThreadX() % 128; }
  // Of the tile; the other one is 8 below.
  REPRISE_DEVICE int32_t row() const {
    return static_cast<int32_t>(64 * half + 16 * (thread() / 32) + Lane() / 4);
  }
  REPRISE_DEVICE int32_t column() const { return static_cast<int32_t>(Lane() % 4 * 2); }

  static REPRISE_DEVICE void Free(Mbarrier* empty) {
    if (Lane() == 0) Arrive(empty);
  }

  // scores = q k^T of the block in the ring's next stage; under way.
  REPRISE_DEVICE void BeginScores(float (&scores)[kPromptBlock / 2]) {
    Wait(L::KeysFull(keys.stage()), keys.parity());
    const uint64_t q = DescriptorOf({.address = SharedAddress(L::Queries()) + half * 64 * 128});
    const uint64_t k = DescriptorOf({.address = SharedAddress(L::Keys(keys.stage()))});
    FenceMatrix();
    REPRISE_UNROLL
    for (uint32_t step = 0; step < kKeyDim / 16; ++step) {
      const uint32_t at = step / 4 * kColumnBytes + step % 4 * 32;
      Multiply<kPromptBlock, Major::kK, Major::kK>(scores, Advance(q, at), Advance(k, at),
                                                   step > 0);
    }
    CommitMatrix();
  }
  REPRISE_DEVICE void FreeKeys() {
    Free(L::KeysEmpty(keys.stage()));
    ++keys.count;
  }
  // sums += weights v; under way.
  REPRISE_DEVICE void BeginSums(uint32_t (&weights)[kStepsOfBlock][4],
                                float (&sums)[kValueDim / 2]) {
    Wait(L::ValuesFull(values.stage()), values.parity());
    const uint64_t v = DescriptorOf(
        {.address = SharedAddress(L::Values(values.stage())), .wide_bytes = kColumnBytes});
    Pin(weights);
    Pin(sums);
    FenceMatrix();
    REPRISE_UNROLL
    for (uint32_t step = 0; step < kStepsOfBlock; ++step) {
      Multiply<kValueDim, Major::kMn>(sums, weights[step], Advance(v, step * 2048), true);
    }
    CommitMatrix();
  }
  REPRISE_DEVICE void FreeValues() {
    Free(L::ValuesEmpty(values.stage()));
    ++values.count;
  }

  REPRISE_DEVICE void AwaitTurn() const {
    if constexpr (kPingPong) SyncNamed(kTurn + half, 128 * kHalves);
  }
  REPRISE_DEVICE void GiveTurn() const {
    if constexpr (kPingPong) ArriveNamed(kTurn + 1 - half, 128 * kHalves);
  }

  // Hides what rows of this half must not see of the block.
  REPRISE_DEVICE void Mask(const Work& work, int32_t block,
                           float (&scores)[kPromptBlock / 2]) const {
    const int32_t first = block * kPromptBlock;
    const int32_t there = work.run.key_rows - first - 1;
    // Of row 0 of the tile, without regard to what is there.
    const int32_t seen = work.run.causal == 0 ? kPromptBlock
                                              : work.run.first_position + work.first_row -
                                                    work.run.key_position - first;
    const int32_t lowest = work.run.causal == 0 ? seen : seen + static_cast<int32_t>(64 * half);
    if (there >= kPromptBlock - 1 && lowest >= kPromptBlock - 1) return;
    int32_t last[2];
    REPRISE_UNROLL
    for (int32_t r = 0; r < 2; ++r) {
      const int32_t own = work.run.causal == 0 ? seen : seen + row() + 8 * r;
      last[r] = own < there ? own : there;
    }
    Hide(last, column(), scores);
  }

  // The weighted sum and log-sum-exp of blocks [block, end), at least one.
  REPRISE_DEVICE void Leaf(const Work& work, int32_t block, int32_t end,
                           float (&sums)[kValueDim / 2], float (&lse2)[2]) {
    SoftmaxRows rows;
    Clear(&rows);
    float keep[2];
    uint32_t weights[kStepsOfBlock][4];
    REPRISE_UNROLL
    for (int i = 0; i < kValueDim / 2; ++i) sums[i] = 0;
    {
      float scores[kPromptBlock / 2];
      AwaitTurn();
      BeginScores(scores);
      GiveTurn();
      WaitMatrix<0>();
      Pin(scores);
      FreeKeys();
      Mask(work, block, scores);
      AddBlock(scale2, scores, &rows, keep);
      PackWeights(scores, weights);
    }
    for (++block; block < end; ++block) {
      float scores[kPromptBlock / 2];
      AwaitTurn();
      BeginScores(scores);
      BeginSums(weights, sums);
      GiveTurn();
      WaitMatrix<1>();
      Pin(scores);
      FreeKeys();
      Mask(work, block, scores);
      AddBlock(scale2, scores, &rows, keep);
      WaitMatrix<0>();
      Pin(sums);
      FreeValues();
      Scale(keep, sums);
      PackWeights(scores, weights);
    }
    BeginSums(weights, sums);
    WaitMatrix<0>();
    Pin(sums);
    FreeValues();
    const float sum[2] = {SumOf(rows.sum[0], 4), SumOf(rows.sum[1], 4)};
    Finish(scale2, rows.top, sum, lse2, keep);
    Scale(keep, sums);
  }

  // ---- nodes kept until their right sibling is there: each thread's own values, in scratch ----

  REPRISE_DEVICE float* Node(int level) const {
    return static_cast<float*>(p.args.scratch) +
           (static_cast<int64_t>(BlockX()) * p.levels + level) * L::kNodeFloats + half * 128 +
           thread();
  }
  REPRISE_DEVICE void Keep(int level, const float (&sums)[kValueDim / 2],
                           const float (&lse2)[2]) const {
    float* node = Node(level);
    REPRISE_UNROLL
    for (int i = 0; i < kValueDim / 2; ++i) node[i * 128 * kHalves] = sums[i];
    node[kValueDim / 2 * 128 * kHalves] = lse2[0];
    node[(kValueDim / 2 + 1) * 128 * kHalves] = lse2[1];
  }
  REPRISE_DEVICE void Join(int level, float (&sums)[kValueDim / 2], float (&lse2)[2]) const {
    const float* node = Node(level);
    MergeWeights w[2];
    REPRISE_UNROLL
    for (int r = 0; r < 2; ++r) {
      w[r] = WeightsOf(node[(kValueDim / 2 + r) * 128 * kHalves], lse2[r]);
      lse2[r] = w[r].lse2;
    }
    REPRISE_UNROLL
    for (int i = 0; i < kValueDim / 2; ++i) {
      sums[i] = Merged(w[i / 2 % 2], node[i * 128 * kHalves], sums[i]);
    }
  }

  REPRISE_DEVICE void Write(const Work& work, const float (&sums)[kValueDim / 2],
                            const float (&lse2)[2]) const {
    REPRISE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int32_t in_tile = row() + 8 * r;
      const bool ours = in_tile < RowsOfTile(work.run, work.first_row);
      const int64_t q_row = int64_t{work.run.first_row} + work.first_row + in_tile;
      const int64_t at = q_row * p.args.out_stride + int64_t{work.head} * kValueDim;
      if (p.args.out_bf16) {
        StoreRow(sums, r, ours, static_cast<Bf16*>(p.args.out) + at);
      } else {
        StoreRow(sums, r, ours, static_cast<float*>(p.args.out) + at);
      }
      if (!ours || Lane() % 4 != 0) continue;
      const int64_t place = q_row * p.args.q_heads + work.head;
      if (p.args.lse != nullptr) p.args.lse[place] = lse2[r] * kLn2;
      if (p.args.lse2 != nullptr) p.args.lse2[place] = lse2[r];
    }
  }

  REPRISE_DEVICE void Run() {
    if (half == 1) GiveTurn();  // the first half begins
    Work work;
    uint32_t query_parity = 0;
    for (int64_t i = 0; Take(p.args, i, &work); ++i) {
      float sums[kValueDim / 2] = {};
      float lse2[2] = {-Infinity(), -Infinity()};
      if (work.blocks > 0) {
        Wait(L::QueriesFull(), query_parity);
        query_parity ^= 1;
        Leaves(work, sums, lse2);
        Free(L::QueriesEmpty());
      }
      Write(work, sums, lse2);
    }
  }
  REPRISE_DEVICE void Leaves(const Work& work, float (&sums)[kValueDim / 2], float (&lse2)[2]) {
    const int32_t first_leaf = work.run.key_position / kPromptLeaf;
    int kept = 0;
    for (int32_t block = 0; block < work.blocks;) {
      const int32_t leaf = (work.run.key_position + block * kPromptBlock) / kPromptLeaf;
      int32_t end = ((leaf + 1) * kPromptLeaf - work.run.key_position) / kPromptBlock;
      if (end > work.blocks) end = work.blocks;
      Leaf(work, block, end, sums, lse2);
      block = end;
      const bool last = end == work.blocks;
      const int joins = last ? kept : JoinsOfLeaf(leaf, first_leaf);
      for (int join = 0; join < joins; ++join) Join(--kept, sums, lse2);
      if (!last) Keep(kept++, sums, lse2);
    }
  }
};

template <int kKeyDim, int kValueDim, bool kPingPong>
REPRISE_KERNEL(kThreads, 1)
PrefillKernel(REPRISE_PARAMETER Parameters p) {
  using L = Layout<kKeyDim, kValueDim>;
  if (ThreadX() == 0) {
    InitBarrier(L::QueriesFull(), 1);
    InitBarrier(L::QueriesEmpty(), kWarpsComputing);
    InitBarrier(L::Raw(), 1);
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      InitBarrier(L::KeysFull(stage), 1);
      InitBarrier(L::KeysEmpty(stage), kWarpsComputing);
      InitBarrier(L::ValuesFull(stage), 1);
      InitBarrier(L::ValuesEmpty(stage), kWarpsComputing);
    }
    FenceInit();
  }
  SyncBlock();
  if (Warp() / 4 == 0) {
    GiveRegisters<24>();
    if (Warp() == 0) Copier<L, kKeyDim, kValueDim>{p}.Run();
  } else {
    TakeRegisters<240>();
    Computer<L, kKeyDim, kValueDim, kPingPong>{p, Warp() / 4 - 1, p.args.scale * kLog2E}.Run();
  }
}

// ---- host ----

int MakeQueryMap(const PrefillArgs& args, TensorMap* map) {
  TensorSpec spec;
  spec.base = args.q;
  spec.rank = 2;
  spec.dims[0] = static_cast<uint64_t>(args.q_heads) * static_cast<uint64_t>(args.pool.first_dim);
  spec.dims[1] = static_cast<uint64_t>(args.q_rows);
  spec.stride_bytes[1] = static_cast<uint64_t>(args.q_stride) * 2;
  spec.box[0] = 64;
  spec.box[1] = kTileRows;
  spec.swizzle_bytes = 128;
  return MakeTensorMap(spec, map);
}

template <int kKeyDim, int kValueDim>
int LaunchAs(const Parameters& p, Stream stream) {
  const int64_t works = p.args.tile_count * p.args.q_heads;
  const int64_t blocks = works < p.args.processors ? works : p.args.processors;
  const LaunchShape shape = {.blocks = {static_cast<uint32_t>(blocks), 1, 1},
                             .threads = {kThreads, 1, 1},
                             .shared_bytes = Layout<kKeyDim, kValueDim>::kBytes};
  return p.args.ping_pong ? Launch(shape, stream, PrefillKernel<kKeyDim, kValueDim, true>, p)
                          : Launch(shape, stream, PrefillKernel<kKeyDim, kValueDim, false>, p);
}

bool Valid(const PrefillArgs& args, int levels) {
  return args.pool.kv_heads > 0 && args.q_heads > 0 && args.q_heads % args.pool.kv_heads == 0 &&
         args.q_stride % 8 == 0 && args.out_stride % 8 == 0 && args.scale > 0 &&
         args.processors > 0 &&
         args.scratch_bytes >= levels * PrefillNodeBytes(args.pool.second_dim) * args.processors;
}

}  // namespace

int Prefill(const PrefillArgs& args, Stream stream) {
  if (args.tile_count == 0) return 0;
  Parameters p = {.args = args, .levels = KeptNodesMax(args.leaves_max)};
  if (!Valid(args, p.levels)) return kErrorInvalidValue;
  if (const int e = MakeQueryMap(args, &p.queries); e != 0) return e;
  if (const int e = MakeKvMaps(args.pool, &p.kv); e != 0) return e;
  const int dims = args.pool.first_dim * 1000 + args.pool.second_dim;
  if (dims == 64064) return LaunchAs<64, 64>(p, stream);
  if (dims == 128128) return LaunchAs<128, 128>(p, stream);
  if (dims == 192128) return LaunchAs<192, 128>(p, stream);
  return kErrorInvalidValue;
}

}  // namespace reprise::cuda
