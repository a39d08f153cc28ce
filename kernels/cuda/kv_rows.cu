// Four threads share a head of a row: thread t has elements 4t to 4t + 3 of every sixteen, so the
// lanes 4t to 4t + 3 of the canonical 16-lane sum of squares, and the loads of the four are 64
// bytes side by side (f32). The second pass over the head comes from the first-level cache. A step
// of any model reads its projection once and writes half of that: the kernel is bound by memory in
// prompts, and by one launch's latency for a handful of rows, where the heads of one row already
// give it a few hundred threads.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/elements.h"
#include "kernels/cuda/kv_rows.h"

namespace reprise::cuda {
namespace {

constexpr uint32_t kThreads = 256;
constexpr int kSharing = 4;  // threads of a head
constexpr uint32_t kHeadsABlock = kThreads / kSharing;

// 1 / sqrt(mean of squares + eps) in the canonical order. The head's four threads must come; the
// others of their warp may be elsewhere.
template <class T>
REPRISE_DEVICE float NormScale(const T* x, int dim, float eps, int t) {
  const uint32_t sharing = 0xFU << (Lane() / kSharing * kSharing);
  float lanes[4] = {0, 0, 0, 0};
#pragma unroll 4
  for (int c = 4 * t; c < dim; c += 16) {
    const Four v = LoadSomeOfFour(x + c, dim - c < 4 ? dim - c : 4);
    REPRISE_UNROLL
    for (int i = 0; i < 4; ++i) lanes[i] = Fma(v.v[i], v.v[i], lanes[i]);
  }
  REPRISE_UNROLL
  for (int i = 0; i < 4; ++i) lanes[i] = lanes[i] + ShuffleXor(lanes[i], 2, sharing);
  REPRISE_UNROLL
  for (int i = 0; i < 4; ++i) lanes[i] = lanes[i] + ShuffleXor(lanes[i], 1, sharing);
  const float sum = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
  return Divide(1.0F, Sqrt(Divide(sum, static_cast<float>(dim)) + eps));
}

// What happens to a head on its way, but for its place.
struct HeadWork {
  int dim;
  int half;  // 0: not rotated
  const float* norm;
  float scale;
  const float* cos;
  const float* sin;
};

// n elements from column c on, normed.
template <class T>
REPRISE_DEVICE Four Normed(const T* x, const HeadWork& work, int c, int n) {
  Four v = LoadSomeOfFour(x + c, n);
  if (work.norm == nullptr) return v;
  const Four weight = LoadSomeOfFour(work.norm + c, n);
  REPRISE_UNROLL
  for (int i = 0; i < 4; ++i) v.v[i] = v.v[i] * work.scale * weight.v[i];
  return v;
}

// A thread's share of a head, kWidth columns at a time: 4, or 1 where halves are not aligned.
template <int kWidth, class T>
REPRISE_DEVICE void StoreHead(const T* x, const HeadWork& work, int t, Bf16* out) {
#pragma unroll 2
  for (int c = kWidth * t; c < work.half; c += kWidth * kSharing) {
    const Four a = Normed(x, work, c, kWidth);
    const Four b = Normed(x, work, c + work.half, kWidth);
    const Four cos = LoadSomeOfFour(work.cos + c, kWidth);
    const Four sin = LoadSomeOfFour(work.sin + c, kWidth);
    Four to_a;
    Four to_b;
    REPRISE_UNROLL
    for (int i = 0; i < 4; ++i) {
      to_a.v[i] = a.v[i] * cos.v[i] - b.v[i] * sin.v[i];
      to_b.v[i] = b.v[i] * cos.v[i] + a.v[i] * sin.v[i];
    }
    StoreSomeOfFour(to_a, out + c, kWidth);
    StoreSomeOfFour(to_b, out + c + work.half, kWidth);
  }
#pragma unroll 2
  for (int c = 2 * work.half + kWidth * t; c < work.dim; c += kWidth * kSharing) {
    const int n = work.dim - c < kWidth ? work.dim - c : kWidth;
    StoreSomeOfFour(Normed(x, work, c, n), out + c, n);
  }
}

// A thread's share of a latent in fp8: four codes of every sixteen, by tiles of one scale.
template <class T>
REPRISE_DEVICE void StoreCodes(const T* x, const HeadWork& work, int t, uint8_t* out) {
  constexpr int kGroups = kernels::kFp8Tile / 16;
  const uint32_t sharing = 0xFU << (Lane() / kSharing * kSharing);
  for (int tile = 0; tile < kernels::kFp8Tiles; ++tile) {
    const int first = tile * kernels::kFp8Tile + 4 * t;
    Four v[kGroups];
    float top = 0;
    REPRISE_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      v[g] = Normed(x, work, first + 16 * g, 4);
      REPRISE_UNROLL
      for (int i = 0; i < 4; ++i) top = Max(top, FloatOf(BitsOf(v[g].v[i]) & 0x7FFFFFFFU));
    }
    top = Max(top, ShuffleXor(top, 2, sharing));
    top = Max(top, ShuffleXor(top, 1, sharing));
    const float scale = kernels::Fp8Scale(top);
    REPRISE_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      uint32_t codes = 0;
      REPRISE_UNROLL
      for (int i = 0; i < 4; ++i) {
        codes |= static_cast<uint32_t>(kernels::Fp8Code(v[g].v[i], scale)) << (8 * i);
      }
      *reinterpret_cast<uint32_t*>(out + first + 16 * g) = codes;
    }
    if (t == 0) *reinterpret_cast<float*>(out + kernels::kFp8ScalesAt + 4 * tile) = scale;
  }
}

// Where a head goes: bf16, or the codes and scales of a latent.
struct HeadPlace {
  void* at;
  bool codes;
};

template <class T>
REPRISE_DEVICE void TakeHeadOf(const StoreRowsArgs& args, const HeadRows& heads, int64_t row,
                               int head, int t, const HeadPlace& out) {
  const T* x =
      static_cast<const T*>(heads.x.data) + row * heads.x.stride + head * heads.head_stride;
  const int64_t angle = args.angles == nullptr ? row : args.angles[row];
  HeadWork work = {heads.dim, heads.rotate ? args.half : 0, heads.norm,
                   0,         args.cos + angle * args.half, args.sin + angle * args.half};
  if (work.norm != nullptr) work.scale = NormScale(x, work.dim, args.eps, t);
  if (out.codes) return StoreCodes(x, work, t, static_cast<uint8_t*>(out.at));
  if (work.half % 4 == 0) return StoreHead<4>(x, work, t, static_cast<Bf16*>(out.at));
  StoreHead<1>(x, work, t, static_cast<Bf16*>(out.at));
}

REPRISE_DEVICE uint8_t* Segment(const KvPool& pool, const KvSlot& slot) {
  return static_cast<uint8_t*>(pool.layer_base) +
         static_cast<int64_t>(slot.page) * pool.page_stride_bytes;
}
REPRISE_DEVICE uint8_t* Fp8Row(const KvPool& pool, const KvSlot& slot) {
  return Segment(pool, slot) + int64_t{kernels::kFp8RowBytes} * slot.row;
}
// The part's row of head 0 in the pool; heads are kPageRows rows apart.
REPRISE_DEVICE Bf16* PoolRow(const KvPool& pool, bool second, const KvSlot& slot) {
  uint8_t* segment = Segment(pool, slot);
  if (second) segment += int64_t{2} * pool.kv_heads * kPageRows * pool.first_dim;
  return reinterpret_cast<Bf16*>(segment) +
         static_cast<int64_t>(slot.row) * (second ? pool.second_dim : pool.first_dim);
}

// Which head of which rows a thread works on: rows have `heads_a_row` heads, all parts together.
struct Place {
  int64_t row;
  int head;
  int t;
  bool inside;
};
REPRISE_DEVICE Place PlaceOf(int64_t rows, int heads_a_row) {
  const int64_t unit = static_cast<int64_t>(BlockX()) * kHeadsABlock + ThreadX() / kSharing;
  const int64_t row = unit / heads_a_row;
  return {row, static_cast<int>(unit - row * heads_a_row), static_cast<int>(ThreadX() % kSharing),
          row < rows};
}
LaunchShape ShapeOf(int64_t units) {
  return {.blocks = {static_cast<uint32_t>((units + kHeadsABlock - 1) / kHeadsABlock), 1, 1},
          .threads = {kThreads, 1, 1}};
}

int HeadsARow(const StoreRowsArgs& args) {
  return args.queries[0].heads.heads + args.queries[1].heads.heads + args.first.heads +
         args.second.heads;
}

REPRISE_DEVICE void TakeHead(const StoreRowsArgs& args, const HeadRows& heads, const Place& at,
                             int head, const HeadPlace& out) {
  if (heads.x.bf16) return TakeHeadOf<Bf16>(args, heads, at.row, head, at.t, out);
  TakeHeadOf<float>(args, heads, at.row, head, at.t, out);
}

REPRISE_KERNEL(kThreads, 1) StoreRowsKernel(StoreRowsArgs args, int heads_a_row) {
  const Place at = PlaceOf(args.rows, heads_a_row);
  if (!at.inside) return;
  int head = at.head;
  REPRISE_UNROLL
  for (int q = 0; q < 2; ++q) {
    const QueryRows& query = args.queries[q];
    if (head < query.heads.heads) {
      auto* out = static_cast<Bf16*>(query.out) + at.row * query.out_stride;
      return TakeHead(args, query.heads, at, head, {out + head * query.out_head_stride, false});
    }
    head -= query.heads.heads;
  }
  const KvSlot slot = args.slots[at.row];
  if (slot.page < 0) return;
  const bool second = head >= args.first.heads;
  if (second) head -= args.first.heads;
  const HeadRows& heads = second ? args.second : args.first;
  if (args.pool.fp8) {
    uint8_t* row = Fp8Row(args.pool, slot) + (second ? kernels::kFp8RotatedAt : 0);
    return TakeHead(args, heads, at, head, {row, !second});
  }
  TakeHead(args, heads, at, head,
           {PoolRow(args.pool, second, slot) + head * kPageRows * heads.dim, false});
}

// Eight values of a latent from column c on, as they are read everywhere.
REPRISE_DEVICE Eight Widened(const uint8_t* row, int c) {
  const TwoWords codes = *reinterpret_cast<const TwoWords*>(row + c);
  const float scale =
      reinterpret_cast<const float*>(row + kernels::kFp8ScalesAt)[c / kernels::kFp8Tile];
  Eight x;
  REPRISE_UNROLL
  for (int i = 0; i < 8; ++i) {
    const auto code = static_cast<uint8_t>(codes.w[i / 4] >> (i % 4 * 8));
    x.v[i] = ToFloat(ToBf16(kernels::Fp8Value(code, scale)));
  }
  return x;
}

REPRISE_DEVICE Eight PoolEight(const KvPool& pool, bool second, const KvSlot& slot, int head, int c,
                               int n) {
  if (!pool.fp8) {
    const int dim = second ? pool.second_dim : pool.first_dim;
    return LoadSome(PoolRow(pool, second, slot) + head * kPageRows * dim + c, n);
  }
  const uint8_t* row = Fp8Row(pool, slot);
  if (!second) return Widened(row, c);
  return LoadEight(reinterpret_cast<const Bf16*>(row + kernels::kFp8RotatedAt) + c);
}

REPRISE_KERNEL(kThreads, 1) ReadRowsKernel(ReadRowsArgs args, int heads_a_row) {
  const Place at = PlaceOf(args.rows, heads_a_row);
  if (!at.inside) return;
  const KvSlot slot = args.slots[at.row];
  const bool second = at.head >= args.pool.kv_heads;
  const int head = second ? at.head - args.pool.kv_heads : at.head;
  const int dim = second ? args.pool.second_dim : args.pool.first_dim;
  const Rows out = second ? args.second : args.first;
  if (slot.page < 0 || out.data == nullptr) return;
  for (int c = 8 * at.t; c < dim; c += 8 * kSharing) {
    const int n = dim - c < 8 ? dim - c : 8;
    StoreSome(PoolEight(args.pool, second, slot, head, c, n), out, at.row, head * dim + c, n);
  }
}

constexpr int kFp8Pieces = kernels::kFp8RowBytes / 16;

REPRISE_KERNEL(kThreads, 1) ReadFp8Kernel(ReadFp8Args args) {
  const int64_t i = static_cast<int64_t>(BlockX()) * kThreads + ThreadX();
  const int64_t row = i / kFp8Pieces;
  if (row >= args.rows || args.slots[row].page < 0) return;
  const int64_t piece = i - row * kFp8Pieces;
  Store16(args.out + 16 * i, Load16(Fp8Row(args.pool, args.slots[row]) + 16 * piece));
}

// Whether heads are as the pool's part has them.
bool Fits(const HeadRows& heads, const KvPool& pool, int dim) {
  return heads.heads == 0 || (heads.heads == pool.kv_heads && heads.dim == dim);
}

}  // namespace

int StoreRows(const StoreRowsArgs& args, Stream stream) {
  if (!Fits(args.first, args.pool, args.pool.first_dim) ||
      !Fits(args.second, args.pool, args.pool.second_dim) ||
      (args.pool.fp8 && (!args.pool.FitsFp8() || args.first.rotate))) {
    return kErrorInvalidValue;
  }
  const int heads_a_row = HeadsARow(args);
  const int64_t units = args.rows * heads_a_row;
  return units == 0 ? 0 : Launch(ShapeOf(units), stream, StoreRowsKernel, args, heads_a_row);
}

int ReadRows(const ReadRowsArgs& args, Stream stream) {
  if (args.pool.fp8 && !args.pool.FitsFp8()) return kErrorInvalidValue;
  const int heads_a_row = 2 * args.pool.kv_heads;
  const int64_t units = args.rows * heads_a_row;
  return units == 0 ? 0 : Launch(ShapeOf(units), stream, ReadRowsKernel, args, heads_a_row);
}

int ReadFp8(const ReadFp8Args& args, Stream stream) {
  if (!args.pool.fp8 || !args.pool.FitsFp8()) return kErrorInvalidValue;
  const int64_t blocks = (args.rows * kFp8Pieces + kThreads - 1) / kThreads;
  if (blocks == 0) return 0;
  return Launch({.blocks = {static_cast<uint32_t>(blocks), 1, 1}, .threads = {kThreads, 1, 1}},
                stream, ReadFp8Kernel, args);
}

}  // namespace reprise::cuda
