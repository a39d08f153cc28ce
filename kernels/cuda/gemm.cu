// Weights are on the 64 rows of a product, rows of x on its columns: a batch of eight wastes nothing,
// and every batch has the same orientation, which is half of why its size changes no bit (the other
// half: one block has all of k).
//
// A producer warp keeps stages of 64 k full; one or two warpgroups, 64 weight rows each, multiply. With
// few rows of x the kernel streams weights: 10 KB stages, eight of them, two blocks a processor, 160 KB
// under way. With many, 128 x 256 tiles: 4 x 48 KB stages, 2 x 64 x 256 x 64 multiply-adds a stage for
// 48 KB read from shared memory, the ratio at which Hopper's tensor cores are the bound.
// The result goes through shared memory, so that rows of y are written 16 bytes a thread.
#include "kernels/cuda/gemm.h"

#include "kernels/cuda/device/copy.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/device/warp.h"

namespace reprise::cuda {
namespace {

constexpr int kDepth = 64;         // k of a stage
constexpr int kBoxRows = 64;       // weight rows of a copy
constexpr int kBoxBytes = 64 * 128;

struct KernelArgs {
  TensorMap weights;
  TensorMap x;
  GemmOutput y;
  GemmGroups groups;
  int32_t experts;
  int32_t m;
  int32_t n;
  int32_t stages_of_k;
};

template <int kWarpgroups_, int kTokens_, int kStages_>
struct GemmShape {
  static constexpr int kWarpgroups = kWarpgroups_;
  static constexpr int kTokens = kTokens_;
  static constexpr int kStages = kStages_;
  static constexpr int kRows = 64 * kWarpgroups;
  static constexpr int kWeightBytes = kRows * 128;
  static constexpr int kTokenBytes = kTokens * 128;
  static constexpr int kStageBytes = kWeightBytes + kTokenBytes;
  static constexpr int kConsumers = 128 * kWarpgroups;
  static constexpr int kThreads = kConsumers + 32;
  // The result on its way out, rows of x by weight rows: four more floats a row, for the banks.
  static constexpr int kOutStride = kRows + 4;
  static constexpr int kOutBytes = kTokens * kOutStride * 4;
  static constexpr int kBarriers =
      ((kStages * kStageBytes > kOutBytes ? kStages * kStageBytes : kOutBytes) + 7) / 8 * 8;
  static constexpr int kBytes = kBarriers + 2 * kStages * 8;
};

// Which rows of x a block has, and of whom.
struct TokenTile {
  int batch;  // of weights; of x and y: see x_batch
  int x_batch;
  int first;
  int end;  // beyond it the tile has others' rows
};

// Blocks of y count tiles of experts, one after the other; false: none left for this one.
REPRISE_DEVICE bool FindTile(const KernelArgs& args, int tokens, TokenTile* tile) {
  const auto index = static_cast<int>(BlockY());
  if (args.groups.first_row == nullptr) {
    *tile = {static_cast<int>(BlockZ()), static_cast<int>(BlockZ()), index * tokens, args.m};
    return true;
  }
  int before = 0;
  for (int e = 0; e < args.experts; ++e) {
    const int first = args.groups.first_row[e];
    const int end = args.groups.first_row[e + 1];
    const int tiles = (end - first + tokens - 1) / tokens;
    if (index < before + tiles) {
      *tile = {e, 0, first + (index - before) * tokens, end};
      return true;
    }
    before += tiles;
  }
  return false;
}

template <class Shape>
REPRISE_DEVICE Mbarrier* FullBarrier(int stage) {
  return reinterpret_cast<Mbarrier*>(Shared() + Shape::kBarriers) + stage;
}
template <class Shape>
REPRISE_DEVICE Mbarrier* EmptyBarrier(int stage) {
  return FullBarrier<Shape>(Shape::kStages + stage);
}

template <class Shape>
REPRISE_DEVICE void Produce(const KernelArgs& args, const TokenTile& tile) {
  for (int i = 0; i < args.stages_of_k; ++i) {
    const int stage = i % Shape::kStages;
    const int turn = i / Shape::kStages;
    if (turn > 0) Wait(EmptyBarrier<Shape>(stage), static_cast<uint32_t>(turn - 1) & 1);
    uint8_t* to = Shared() + stage * Shape::kStageBytes;
    Mbarrier* full = FullBarrier<Shape>(stage);
    ArriveExpecting(full, Shape::kStageBytes);
    REPRISE_UNROLL
    for (int w = 0; w < Shape::kWarpgroups; ++w) {
      LoadTile(to + w * kBoxBytes, args.weights, full, i * kDepth,
               static_cast<int>(BlockX()) * Shape::kRows + w * kBoxRows, tile.batch,
               Reuse::kNormal);
    }
    LoadTile(to + Shape::kWeightBytes, args.x, full, i * kDepth, tile.first, tile.x_batch,
             Reuse::kOften);
  }
}

template <class Shape>
REPRISE_DEVICE void Consume(const KernelArgs& args, float (&d)[Shape::kTokens / 2]) {
  const uint32_t warpgroup = ThreadX() / 128;
  for (int i = 0; i < args.stages_of_k; ++i) {
    const int stage = i % Shape::kStages;
    Wait(FullBarrier<Shape>(stage), static_cast<uint32_t>(i / Shape::kStages) & 1);
    const uint32_t at =
        Opaque(SharedAddress(Shared()) + static_cast<uint32_t>(stage * Shape::kStageBytes));
    const uint64_t weights = DescriptorOf({.address = at + warpgroup * kBoxBytes});
    const uint64_t x = DescriptorOf({.address = at + Shape::kWeightBytes});
    Pin(d);
    FenceMatrix();
    REPRISE_UNROLL
    for (int step = 0; step < kDepth / 16; ++step) {
      Multiply<Shape::kTokens, Major::kK, Major::kK>(
          d, Advance(weights, static_cast<uint32_t>(step) * 32),
          Advance(x, static_cast<uint32_t>(step) * 32), i + step > 0);
    }
    CommitMatrix();
    // The stage before is read when this one's products are all that is under way.
    WaitMatrix<1>();
    if (i > 0) Arrive(EmptyBarrier<Shape>((i - 1) % Shape::kStages));
  }
  WaitMatrix<0>();
  Pin(d);
}

template <class Shape>
REPRISE_DEVICE void Stage(const float (&d)[Shape::kTokens / 2]) {
  auto* out = reinterpret_cast<float*>(Shared());
  const uint32_t t = ThreadX() % 128;
  const uint32_t row = ThreadX() / 128 * 64 + 16 * (t / 32) + t % 32 / 4;
  const uint32_t col = 2 * (t % 4);
  REPRISE_UNROLL
  for (int i = 0; i < Shape::kTokens / 2; ++i) {
    const auto token = static_cast<uint32_t>(i / 4 * 8 + i % 2) + col;
    out[token * Shape::kOutStride + row + 8 * static_cast<uint32_t>(i / 2 % 2)] = d[i];
  }
}

// n is a multiple of 8, and so is what a block has of it.
template <class Shape>
REPRISE_DEVICE void WriteOut(const KernelArgs& args, const TokenTile& tile) {
  const auto* staged = reinterpret_cast<const float*>(Shared());
  const int first_n = static_cast<int>(BlockX()) * Shape::kRows;
  constexpr int kPieces = Shape::kRows / 8;  // of eight elements, a row
  const int rows = tile.end - tile.first < Shape::kTokens ? tile.end - tile.first : Shape::kTokens;
  for (int i = static_cast<int>(ThreadX()); i < rows * kPieces; i += Shape::kConsumers) {
    const int n = first_n + i % kPieces * 8;
    if (n >= args.n) continue;
    const int row = i / kPieces;
    const float* from = staged + row * Shape::kOutStride + i % kPieces * 8;
    const int64_t at = args.y.At(tile.x_batch, tile.first + row, n);
    float v[8];
    REPRISE_UNROLL
    for (int j = 0; j < 8; ++j) {
      v[j] = from[j];
      if (args.y.bias != nullptr) v[j] = v[j] + args.y.bias[n + j];
      if (args.y.residual != nullptr) v[j] = v[j] + args.y.residual[at + j];
    }
    if (args.y.f32 != nullptr) {
      REPRISE_UNROLL
      for (int j = 0; j < 8; j += 4) {
        Store16(args.y.f32 + at + j,
                {{BitsOf(v[j]), BitsOf(v[j + 1]), BitsOf(v[j + 2]), BitsOf(v[j + 3])}});
      }
    }
    if (args.y.bf16 != nullptr) {
      Store16(args.y.bf16 + at, {{PackBf16(v[0], v[1]), PackBf16(v[2], v[3]),
                                  PackBf16(v[4], v[5]), PackBf16(v[6], v[7])}});
    }
  }
}

template <class Shape>
REPRISE_KERNEL(Shape::kThreads, 1)
GemmKernel(REPRISE_PARAMETER KernelArgs args) {
  TokenTile tile;
  if (!FindTile(args, Shape::kTokens, &tile)) return;
  if (ThreadX() == 0) {
    for (int i = 0; i < Shape::kStages; ++i) {
      InitBarrier(FullBarrier<Shape>(i), 1);
      InitBarrier(EmptyBarrier<Shape>(i), Shape::kConsumers);
    }
    FenceInit();
  }
  SyncBlock();
  if (ThreadX() >= Shape::kConsumers) {
    if (ThreadX() == Shape::kConsumers) {
      PrefetchMap(args.weights);
      PrefetchMap(args.x);
      Produce<Shape>(args, tile);
    }
    return;
  }
  float d[Shape::kTokens / 2];
  Consume<Shape>(args, d);
  // All have read the stages: their memory takes the result.
  SyncNamed(1, Shape::kConsumers);
  Stage<Shape>(d);
  SyncNamed(1, Shape::kConsumers);
  WriteOut<Shape>(args, tile);
}

int MakeMap(const GemmMatrix& m, uint32_t box_rows, TensorMap* map) {
  TensorSpec spec;
  spec.base = m.data;
  spec.rank = 3;
  spec.dims[0] = static_cast<uint64_t>(m.cols);
  spec.dims[1] = static_cast<uint64_t>(m.rows);
  spec.dims[2] = static_cast<uint64_t>(m.batch);
  spec.stride_bytes[1] = static_cast<uint64_t>(m.row_stride) * 2;
  // A batch of one has no stride of its own, and the copy engine wants one.
  spec.stride_bytes[2] =
      static_cast<uint64_t>(m.batch > 1 ? m.batch_stride : m.row_stride * m.rows) * 2;
  spec.box[0] = kDepth;
  spec.box[1] = box_rows;
  spec.box[2] = 1;
  spec.swizzle_bytes = 128;
  return MakeTensorMap(spec, map);
}

template <class Shape>
int LaunchShaped(const GemmArgs& args, Stream stream) {
  KernelArgs k = {};
  k.weights = args.weights->map;
  if (const int e = MakeMap(args.x, Shape::kTokens, &k.x); e != 0) return e;
  k.y = args.y;
  k.groups = args.groups;
  k.experts = static_cast<int32_t>(args.weights->batch);
  k.m = static_cast<int32_t>(args.x.rows);
  k.n = static_cast<int32_t>(args.weights->n);
  k.stages_of_k = static_cast<int32_t>((args.weights->k + kDepth - 1) / kDepth);
  const bool grouped = args.groups.first_row != nullptr;
  int64_t token_tiles = (args.x.rows + Shape::kTokens - 1) / Shape::kTokens;
  // Every expert may begin a tile of its own.
  if (grouped) token_tiles += args.weights->batch;
  return Launch({.blocks = {static_cast<uint32_t>((args.weights->n + Shape::kRows - 1) /
                                                  Shape::kRows),
                            static_cast<uint32_t>(token_tiles),
                            grouped ? 1 : static_cast<uint32_t>(args.x.batch)},
                 .threads = {Shape::kThreads, 1, 1},
                 .shared_bytes = Shape::kBytes},
                stream, GemmKernel<Shape>, k);
}

}  // namespace

int MakeGemmWeights(const GemmMatrix& weights, GemmWeights* made) {
  if (weights.rows % 8 != 0 || weights.cols % 8 != 0) return kErrorInvalidValue;
  made->matrix = weights;
  made->batch = weights.batch;
  made->n = weights.rows;
  made->k = weights.cols;
  return MakeMap(weights, kBoxRows, &made->map);
}

int Gemm(const GemmArgs& args, Stream stream) {
  if (!GemmFits(args)) return kErrorInvalidValue;
  if (args.x.rows == 0) return 0;
  // Rows that share a tile: of experts, what each has if they share evenly.
  int64_t rows = args.x.rows;
  if (args.groups.first_row != nullptr) rows = (rows + args.weights->batch - 1) / args.weights->batch;
  if (rows <= 8) return LaunchShaped<GemmShape<1, 8, 10>>(args, stream);
  if (rows <= 16) return LaunchShaped<GemmShape<1, 16, 9>>(args, stream);
  if (rows <= 32) return LaunchShaped<GemmShape<1, 32, 8>>(args, stream);
  if (rows <= 64) return LaunchShaped<GemmShape<2, 64, 8>>(args, stream);
  if (rows <= 128) return LaunchShaped<GemmShape<2, 128, 6>>(args, stream);
  return LaunchShaped<GemmShape<2, 256, 4>>(args, stream);
}

}  // namespace reprise::cuda
