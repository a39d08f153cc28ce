// A worker is a block of one warpgroup that does everything itself, one tile of 64 keys after the
// other: copies of the next tile are under way while it computes this one, in another block of the
// same processor when there is room for one tile only (latents: two blocks a processor). No thread
// waits for another block; the tree over leaves makes the bits the same for every division of the
// work.
//
// Bytes: each key once. Per latent tile 73,728 bytes; at 4.3 TB/s a processor has 2.2 us for two of
// them, some 4,000 cycles each, and needs about 1,100 of the tensor cores (68 products of 64 x 16 x
// 16, bound by reading the 2 KB operand) and as much again for softmax and barriers.
//
// Shared units have the same tiles with 32 columns, those of several rows. They go through the same
// launch as rows' own units, in a kernel that has both forms: workers get runs of either, so there
// is one end at which some wait for the last, not two (a leaf of 131 KB takes a worker 8 us, and a
// step of 64 rows takes some 150). 32 columns for all would be simpler, but a row's own leaf would
// then have four times the exponentials (2,048 instead of 512 a tile, 128 cycles of a processor's
// and not 32) and its nodes four times the bytes: at dims of 128 16 KB instead of 4, some 30 MB of
// traffic in that step, which reads 500. So nodes have two layouts, and the second kernel reads
// both. Without shared units nothing of this is launched.
//
// Latents have no such form: 32 columns of them leave room for one block a processor, not two, and
// registers spill. More than 16 heads fill the columns by themselves.
#include "kernels/cuda/decode.h"
#include "kernels/cuda/decode_fp8.h"
#include "kernels/cuda/decode_nodes.h"
#include "kernels/cuda/decode_tile.h"
#include "kernels/cuda/decode_wide.h"
#include "kernels/cuda/device/copy.h"
#include "kernels/cuda/device/launch.h"

namespace reprise::cuda {
namespace {

constexpr uint32_t kThreads = kNodeThreads;

// Tiles on their way through a worker's stages.
struct TileStream {
  TileCursor ahead;  // what thread 0 loads next
  uint32_t loaded;   // tiles
  uint32_t used;
};

template <class Shape>
struct Worker : DecodeNodes<Shape> {
  using Base = DecodeNodes<Shape>;
  using Base::args, Base::Column, Base::kColumns, Base::kN, Base::place, Base::shared;
  using Node = typename Base::Node;

  TileStream& tiles;

  REPRISE_DEVICE Mbarrier* Full(uint32_t stage) const {
    return reinterpret_cast<Mbarrier*>(shared + Shape::kBarriers) + stage;
  }
  REPRISE_DEVICE uint8_t* Tile(uint32_t stage) const {
    return shared + stage * static_cast<uint32_t>(Shape::kTileBytes);
  }
  REPRISE_DEVICE float* Stats() const { return reinterpret_cast<float*>(shared + Shape::kStats); }

  // ---- copies; thread 0 ----

  REPRISE_DEVICE void LoadNext() {
    if (tiles.ahead.ended()) return;
    const DecodeRun& run = args.plan.runs[tiles.ahead.run];
    const int row = run.unit / args.kv_heads;
    const int head = run.unit % args.kv_heads;
    // Other shared units, of further rows, read the same soon.
    const Reuse reuse = Shape::kBeside && run.rows > 0 ? Reuse::kNormal : Reuse::kOnce;
    const int32_t page = args.page_table[row * args.page_table_stride + tiles.ahead.tile];
    const uint32_t stage = tiles.loaded % Shape::kStages;
    uint8_t* tile = Tile(stage);
    ArriveExpecting(Full(stage), Shape::kTileBytes);
    REPRISE_UNROLL
    for (int c = 0; c < Shape::kChunks; ++c) {
      const bool second = c >= Shape::kFirstChunks;
      LoadTile(tile + c * Shape::kChunkBytes, second ? args.maps.second : args.maps.first,
               Full(stage), 64 * (second ? c - Shape::kFirstChunks : c), head * kPageRows, page,
               reuse);
    }
    ++tiles.loaded;
    tiles.ahead.Next(args);
  }

  // Columns are the group's heads, of a shared unit row after row; those beyond are zero.
  REPRISE_DEVICE void LoadQuery(const DecodeRun& run) const {
    const int group = args.q_heads / args.kv_heads;
    const int columns = Shape::kShared ? run.rows * group : group;
    const int64_t first = static_cast<int64_t>(run.unit % args.kv_heads) * group * Shape::kKeyDim;
    const uint16_t* q = QueryOf(args, run.unit / args.kv_heads) + first;
    constexpr int kPieces = Shape::kKeyDim / 8;  // of 16 bytes, a head
    for (int i = static_cast<int>(ThreadX()); i < kN * kPieces; i += kThreads) {
      const int column = i / kPieces;
      const int piece = i % kPieces;
      Words words = {};
      if (column < columns) {
        int head = column;
        if (Shape::kShared) {
          q = QueryOf(args, args.plan.rows[run.first_row + column / group]) + first;
          head = column % group;
        }
        words = Load16(q + head * Shape::kKeyDim + piece * 8);
      }
      const auto at = static_cast<uint32_t>(column * 128 + piece % 8 * 16);
      Store16(shared + Shape::kQuery + piece / 8 * Shape::kQueryChunkBytes + Swizzle(at, 128),
              words);
    }
  }

  // ---- one leaf ----

  REPRISE_DEVICE void Scores(uint32_t tile, float (&s)[kN / 2]) const {
    const uint64_t keys = DescriptorOf({.address = Opaque(tile)});
    const uint64_t query = DescriptorOf({.address = Opaque(SharedAddress(shared) + Shape::kQuery)});
    FenceMatrix();
    REPRISE_UNROLL
    for (int c = 0; c < Shape::kKeyChunks; ++c) {
      REPRISE_UNROLL
      for (int step = 0; step < 4; ++step) {
        Multiply<kN, Major::kK, Major::kK>(s, Advance(keys, c * Shape::kChunkBytes + step * 32),
                                           Advance(query, c * Shape::kQueryChunkBytes + step * 32),
                                           c + step > 0);
      }
    }
    CommitMatrix();
    WaitMatrix<0>();
    Pin(s);
  }

  // What lies behind the last key may be NaN, and zero times NaN is.
  REPRISE_DEVICE void ClearValues(uint32_t stage, int keys) const {
    const int rows = kPageRows - keys;
    for (int i = static_cast<int>(ThreadX()); i < rows * 8 * Shape::kValueChunks; i += kThreads) {
      const int row = keys + i % rows;
      const int piece = i / rows;
      const auto at = static_cast<uint32_t>(row * 128 + piece % 8 * 16);
      Store16(Tile(stage) + (Shape::kFirstValue + piece / 8) * Shape::kChunkBytes + at, Words{});
    }
  }

  // Of `keys` of the tile, at most 64. top and sum are in base 2 and unreduced over the rows.
  REPRISE_DEVICE void AddTile(int keys, bool first, Node& node, float (&top)[kColumns],
                              float (&sum)[kColumns]) {
    const uint32_t stage = tiles.used % Shape::kStages;
    const uint32_t tile = SharedAddress(Tile(stage));
    Wait(Full(stage), tiles.used / Shape::kStages & 1);
    ++tiles.used;
    float s[kN / 2];
    Scores(tile, s);
    const float scale2 = args.scale * kLog2E;
    REPRISE_UNROLL
    for (int i = 0; i < kN / 2; ++i) {
      if (place.row + 8 * (i / 2 % 2) >= keys) s[i] = -Infinity();
    }
    const uint32_t warp = ThreadX() / 32;
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) {
      float m = Max(s[u / 2 * 4 + u % 2], s[u / 2 * 4 + u % 2 + 2]);
      m = Max(m, ShuffleXor(m, 16));
      m = Max(m, ShuffleXor(m, 8));
      m = Max(m, ShuffleXor(m, 4));
      if (Lane() < 4) Stats()[warp * kN + static_cast<uint32_t>(Column(u))] = m;
    }
    SyncBlock();  // the four warps' maxima; scores are computed, products before are over
    if (keys < kPageRows) ClearValues(stage, keys);
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) {
      const float* m = Stats() + Column(u);
      const float here = Max(Max(m[0], m[kN]), Max(m[2 * kN], m[3 * kN])) * scale2;
      const float now = Max(top[u], here);
      const float base = now == -Infinity() ? 0 : now;
      const float shrink = Exp2(top[u] - base);
      top[u] = now;
      sum[u] = sum[u] * shrink;
      if (!first) this->ScaleColumn(u, shrink, node);
      REPRISE_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float p = Exp2(Fma(s[u / 2 * 4 + u % 2 + 2 * half], scale2, -base));
        sum[u] = sum[u] + p;
        const auto at = static_cast<uint32_t>(Column(u) * 128 + (place.row + 8 * half) * 2);
        *reinterpret_cast<Bf16*>(shared + Shape::kProbabilities + Swizzle(at, 128)) = ToBf16(p);
      }
    }
    FenceAsync();
    SyncBlock();  // all probabilities are there
    this->AddValues(tile + Shape::kFirstValue * Shape::kChunkBytes,
                    SharedAddress(shared) + Shape::kProbabilities, first, node);
    SyncBlock();  // nobody reads the tile any more
    if (ThreadX() == 0) LoadNext();
  }

  // The leaf's result: normalised, with its log-sum-exp.
  REPRISE_DEVICE void Finish(Node& node, const float (&top)[kColumns], float (&sum)[kColumns]) {
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) {
      sum[u] = sum[u] + ShuffleXor(sum[u], 16);
      sum[u] = sum[u] + ShuffleXor(sum[u], 8);
      sum[u] = sum[u] + ShuffleXor(sum[u], 4);
      if (Lane() < 4) Stats()[ThreadX() / 32 * kN + static_cast<uint32_t>(Column(u))] = sum[u];
    }
    SyncBlock();
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) {
      const float* l = Stats() + Column(u);
      const float all = (l[0] + l[kN]) + (l[2 * kN] + l[3 * kN]);
      const float inverse = Divide(1, all);
      node.lse2[u] = top[u] + Log2(all);
      this->ScaleColumn(u, inverse, node);
    }
    SyncBlock();  // the sums are read
  }

  // ---- a run ----

  REPRISE_DEVICE void Leaf(int first_tile, int keys, Node& node) {
    float top[kColumns];
    float sum[kColumns];
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) {
      top[u] = -Infinity();
      sum[u] = 0;
    }
    for (int tile = first_tile; tile < first_tile + kTilesPerLeaf; ++tile) {
      const int left = keys - tile * kPageRows;
      if (left <= 0) break;
      AddTile(left < kPageRows ? left : kPageRows, tile == first_tile, node, top, sum);
    }
    Finish(node, top, sum);
  }

  REPRISE_DEVICE void Run(const DecodeRun& run) {
    const int keys = args.keys[run.unit / args.kv_heads];
    const auto load_query = [&] {
      LoadQuery(run);
      FenceAsync();
      SyncBlock();
    };
    const auto leaf_of = [&](int leaf, Node& node) { Leaf(leaf * kTilesPerLeaf, keys, node); };
    this->Tree(run, load_query, leaf_of, [] { SyncBlock(); });
  }
};

// The first tiles of runs [first, end) are asked for.
template <class Shape>
REPRISE_DEVICE void Begin(Worker<Shape>& worker, int first, int end) {
  if (ThreadX() == 0) {
    const DecodeArgs& args = worker.args;
    PrefetchMap(args.maps.first);
    PrefetchMap(args.maps.second);
    for (uint32_t i = 0; i < Shape::kStages; ++i) InitBarrier(worker.Full(i), 1);
    FenceInit();
    worker.tiles.ahead = {first, end, 0, 0};
    worker.tiles.ahead.Enter(args);
    for (int i = 0; i < Shape::kStages; ++i) worker.LoadNext();
  }
  SyncBlock();
}

template <class Shape>
REPRISE_KERNEL(kThreads, 1)
DecodeKernel(REPRISE_PARAMETER DecodeArgs args) {
  TileStream tiles{};
  Worker<Shape> worker{{args, Shared(), FragmentPlace::Of(ThreadX())}, tiles};
  const int first = args.plan.run_begin[BlockX()];
  const int end = args.plan.run_begin[BlockX() + 1];
  Begin(worker, first, end);
  for (int run = first; run < end; ++run) worker.Run(args.plan.runs[run]);
}

// Runs of both forms; tiles are the same for both.
template <class OwnShape, class SharedShape>
REPRISE_KERNEL(kThreads, 1)
DecodeSharedKernel(REPRISE_PARAMETER DecodeArgs args) {
  TileStream tiles{};
  const FragmentPlace place = FragmentPlace::Of(ThreadX());
  Worker<OwnShape> own{{args, Shared(), place}, tiles};
  Worker<SharedShape> shared{{args, Shared(), place}, tiles};
  const int first = args.plan.run_begin[BlockX()];
  const int end = args.plan.run_begin[BlockX() + 1];
  Begin(own, first, end);
  for (int i = first; i < end; ++i) {
    const DecodeRun& run = args.plan.runs[i];
    if (run.rows > 0) {
      shared.Run(run);
    } else {
      own.Run(run);
    }
  }
}

// ---- the tree's upper part, of units that several workers shared ----

constexpr uint32_t kJoinLanes = 32;
constexpr uint32_t kJoinWarps = 4;

// A float of a node: whose it is.
template <int kN>
struct NodePlace {
  REPRISE_DEVICE static NodePlace Of(uint32_t f) {
    const uint32_t thread = f / 4 % kThreads;
    const uint32_t piece = f / (4 * kThreads);
    const FragmentPlace place = FragmentPlace::Of(thread);
    const uint32_t columns = piece % (kN / 8) * 8;
    return {thread, piece / (kN / 8), f / 2 % 2, columns + static_cast<uint32_t>(place.col) + f % 2,
            place.row};
  }
  uint32_t thread;
  uint32_t chunk;
  uint32_t half;
  uint32_t col;
  int row;
  REPRISE_DEVICE int dim() const { return static_cast<int>(chunk * 64 + 8 * half) + row; }
  // The same value of a shared unit's node, where the row's columns begin at `first`.
  REPRISE_DEVICE uint32_t InShared(uint32_t first) const {
    const uint32_t c = first + col;
    const uint32_t piece = chunk * (kDecodeGroupMax / 8) + c / 8;
    return (piece * kThreads + thread / 4 * 4 + c % 8 / 2) * 4 + 2 * half + c % 2;
  }
};

// A block has 32 floats of every node of a unit, which are of eight query heads.
template <class Shape, bool kShared>
REPRISE_KERNEL(kJoinLanes* kJoinWarps, 1)
JoinKernel(REPRISE_PARAMETER DecodeArgs args) {
  constexpr int kN = Shape::kN;
  if (args.plan.joins_there != nullptr && static_cast<int>(BlockY()) >= *args.plan.joins_there) {
    return;
  }
  const DecodeJoin join = args.plan.joins[BlockY()];
  auto* values = reinterpret_cast<float*>(Shared());  // [nodes][32]
  float* lse2 = values + args.plan.nodes_max * 32;    // [nodes][kN]
  const uint32_t lane = Lane();
  const uint32_t warp = ThreadX() / 32;
  const uint32_t f = BlockX() * kJoinLanes + lane;  // of a node's floats
  const auto place = NodePlace<kN>::Of(f);
  const uint32_t col = place.col;
  const int group = args.q_heads / args.kv_heads;
  for (int i = static_cast<int>(warp); i < join.nodes; i += kJoinWarps) {
    const int64_t slot = args.plan.nodes[join.first_node + i];
    const float* node = args.plan.node_out + slot * Shape::kNodeFloats;
    const float* node_lse2 = args.plan.node_lse2 + slot * kDecodeGroupMax;
    uint32_t from = f;
    uint32_t columns = kN;
    if (kShared && i < join.shared) {
      // Behind this row's columns are another's, or none.
      columns = static_cast<uint32_t>(group);
      const uint32_t first = static_cast<uint32_t>(join.place) * columns;
      from = place.InShared(first);
      node_lse2 += first;
    }
    values[i * 32 + static_cast<int>(lane)] = col < columns ? node[from] : 0;
    if (lane < kN) {
      lse2[i * kN + static_cast<int>(lane)] = lane < columns ? node_lse2[lane] : -Infinity();
    }
  }
  for (int round = join.first_round; round < join.first_round + join.rounds; ++round) {
    SyncBlock();
    const int end = args.plan.round_begin[round + 1];
    for (int m = args.plan.round_begin[round] + static_cast<int>(warp); m < end; m += kJoinWarps) {
      const DecodeMerge merge = args.plan.merges[m];
      float* left = lse2 + merge.left * kN + col;
      const MergeWeights w = WeightsOf(*left, lse2[merge.right * kN + static_cast<int>(col)]);
      float& value = values[merge.left * 32 + static_cast<int>(lane)];
      value = Merged(w, value, values[merge.right * 32 + static_cast<int>(lane)]);
      SyncWarp();  // lanes of the same head have read
      *left = w.lse2;
    }
  }
  SyncBlock();
  if (warp > 0 || static_cast<int>(col) >= group) return;
  const int64_t row = join.unit / args.kv_heads;
  const int head = join.unit % args.kv_heads * group + static_cast<int>(col);
  const int dim = place.dim();
  StoreValue(args, row, static_cast<int64_t>(head) * Shape::kValueDim + dim, values[lane]);
  if (dim == 0) StoreLse(args, row, head, lse2[col]);
}

template <class Shape, bool kShared = false>
int LaunchJoins(const DecodeArgs& args, Stream stream) {
  if (args.plan.join_count == 0) return 0;
  return Launch(
      {.blocks = {Shape::kNodeFloats / kJoinLanes, static_cast<uint32_t>(args.plan.join_count), 1},
       .threads = {kJoinLanes * kJoinWarps, 1, 1},
       .shared_bytes = static_cast<size_t>(args.plan.nodes_max) * (32 + Shape::kN) * 4},
      stream, JoinKernel<Shape, kShared>, args);
}

template <class Shape>
int LaunchDecode(const DecodeArgs& args, Stream stream) {
  const int e = Launch({.blocks = {static_cast<uint32_t>(args.plan.workers), 1, 1},
                        .threads = {kThreads, 1, 1},
                        .shared_bytes = Shape::kBytes},
                       stream, DecodeKernel<Shape>, args);
  return e != 0 ? e : LaunchJoins<Shape>(args, stream);
}

template <class OwnShape, class SharedShape>
int LaunchShared(const DecodeArgs& args, Stream stream) {
  const int e = Launch({.blocks = {static_cast<uint32_t>(args.plan.workers), 1, 1},
                        .threads = {kThreads, 1, 1},
                        .shared_bytes = SharedShape::kBytes},
                       stream, DecodeSharedKernel<OwnShape, SharedShape>, args);
  return e != 0 ? e : LaunchJoins<OwnShape, true>(args, stream);
}

template <class Shape>
int LaunchFp8(const DecodeArgs& args, Stream stream) {
  const int e = Launch({.blocks = {static_cast<uint32_t>(args.plan.workers), 1, 1},
                        .threads = {2 * kThreads, 1, 1},
                        .shared_bytes = Shape::kBytes},
                       stream, Fp8DecodeKernel<Shape>, args);
  return e != 0 ? e : LaunchJoins<Shape>(args, stream);
}

// A kernel's shape is chosen by dims and heads; bits do not depend on the stages.
struct Chosen {
  int (*launch)(const DecodeArgs&, Stream) = nullptr;
  int blocks_per_processor = 0;
  size_t node_floats = 0;
  // Of plans with shared units, whose nodes have so many floats.
  int (*launch_shared)(const DecodeArgs&, Stream) = nullptr;
  size_t shared_node_floats = 0;
};

constexpr int kSharedPerProcessor = 233472;
constexpr int kSharedReserved = 1024;  // by the system, a block

template <class Shape>
constexpr int kBlocksPerProcessor = kSharedPerProcessor / (Shape::kBytes + kSharedReserved);

template <class Shape>
Chosen Choose() {
  return {LaunchDecode<Shape>, kBlocksPerProcessor<Shape>, Shape::kNodeFloats};
}
// With as many stages as leave room for as many blocks when there are shared units.
template <int kN, int kDim, int kStages, int kSharedStages>
Chosen ChooseHeads() {
  using Shape = DecodeShape<kN, kDim, kDim, false, kStages>;
  Chosen chosen = Choose<Shape>();
  if constexpr (kN <= kDecodeGroupMax / 2) {
    using Own = DecodeShape<kN, kDim, kDim, false, kSharedStages>;
    using Shared = DecodeShape<kDecodeGroupMax, kDim, kDim, false, kSharedStages>;
    static_assert(kBlocksPerProcessor<Shared> >= kBlocksPerProcessor<Shape>);
    chosen.launch_shared = LaunchShared<OwnBeside<Own, Shared>, SharedBeside<Own, Shared>>;
    chosen.shared_node_floats = Shared::kNodeFloats;
  }
  return chosen;
}
template <class Shape>
Chosen ChooseFp8() {
  return {LaunchFp8<Shape>, 1, Shape::kNodeFloats};
}

template <int kN>
Chosen ChooseDims(const DecodeArgs& a) {
  if (a.latent) {
    if (a.first_dim != 512 || a.second_dim != 64) return {};
    return a.fp8 ? ChooseFp8<Fp8Shape<kN>>() : Choose<DecodeShape<kN, 512, 64, true, 1>>();
  }
  if (a.first_dim == 128 && a.second_dim == 128) return ChooseHeads<kN, 128, 3, 3>();
  if (a.first_dim == 64 && a.second_dim == 64) return ChooseHeads<kN, 64, 4, 3>();
  return {};
}

Chosen ChooseShape(const DecodeArgs& a) {
  if (a.kv_heads < 1 || a.q_heads % a.kv_heads != 0) return {};
  if (a.fp8 && (!a.latent || a.kv_heads != 1)) return {};
  const int group = a.q_heads / a.kv_heads;
  if (group <= 8) return ChooseDims<8>(a);
  if (group <= 16) return ChooseDims<16>(a);
  if (group <= kDecodeGroupMax) return ChooseDims<32>(a);
  return {};
}

bool IsWide(const DecodeArgs& args) {
  return !args.fp8 && args.q_heads > kDecodeGroupMax && DecodeWideServes(args);
}

}  // namespace

bool DecodeServes(const DecodeArgs& args) {
  return IsWide(args) || ChooseShape(args).launch != nullptr;
}

int DecodeWorkers(const DecodeArgs& args, int processors) {
  if (IsWide(args)) return DecodeWideWorkers(args, processors);
  return processors * ChooseShape(args).blocks_per_processor;
}

size_t DecodeNodeFloats(const DecodeArgs& args) {
  return IsWide(args) ? DecodeWideNodeFloats(args) : ChooseShape(args).node_floats;
}

DecodeSharing DecodeSharingOf(const DecodeArgs& args) {
  const Chosen chosen = IsWide(args) ? Chosen{} : ChooseShape(args);
  if (chosen.launch_shared == nullptr) return {};
  return {kDecodeGroupMax / (args.q_heads / args.kv_heads),
          static_cast<int>(chosen.shared_node_floats / chosen.node_floats)};
}

int Decode(const DecodeArgs& args, Stream stream) {
  const bool shared = args.plan.shared;
  if (!shared && IsWide(args)) return DecodeWide(args, stream);
  const Chosen chosen = IsWide(args) ? Chosen{} : ChooseShape(args);
  const auto launch = shared ? chosen.launch_shared : chosen.launch;
  return launch == nullptr ? kErrorInvalidValue : launch(args, stream);
}

}  // namespace reprise::cuda
