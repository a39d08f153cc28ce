// Decoding latents in fp8 rows (kernels/fp8_row.h) for at most 32 query heads: decode.cu's
// transposed products, with the widening to bf16 between memory and the tensor cores.
//
// A block has two warpgroups. Warps 4 to 7, the scorers, take 16 rows of a tile each, as 10,496
// bytes that one copy brings. A thread's codes become exactly its fragment of the scores' product:
// the tile's columns go into the product in an order (PlaceOfUnit) in which a warp's loads of codes
// and stores of values meet no bank twice, the query's columns in the same one. What was widened
// goes from registers into the product and, swizzled, into shared memory for the values' product.
// Softmax follows, in decode.cu's order. Warps 0 to 3, the summers, add the values' products up and
// walk the tree (decode_nodes.h), one tile behind: two tiles' values are there at a time.
//
// For a tile of 64 keys memory needs 2,260 cycles at 4.3 TB/s (41,984 bytes a processor). Four
// values take 12 instructions: two conversions of pairs to f16, four to f32, four products with the
// scale, two roundings of pairs to bf16. For 32,768 values these are 768 cycles of the four
// schedulers; with loads, stores, addresses and softmax the scorers issue for some 1,100. Shared
// memory moves 250 KB, 1,950 cycles: the copy 42, codes 42, values stored 66 and read by the tensor
// cores 66, operands of 16 heads 35. The keys' fragments from registers save the 74 KB that the
// scores' product would read.
#ifndef REPRISE_KERNELS_CUDA_DECODE_FP8_H_
#define REPRISE_KERNELS_CUDA_DECODE_FP8_H_

#include "kernels/cuda/decode_nodes.h"
#include "kernels/cuda/decode_tile.h"
#include "kernels/cuda/device/copy.h"
#include "kernels/cuda/device/fp8.h"

namespace reprise::cuda {

template <int kN_>
struct Fp8Shape {
  static constexpr int kN = kN_;
  static constexpr int kValueDim = kernels::kFp8LatentDim;
  static constexpr int kValueChunks = kValueDim / 64;
  static constexpr int kKeyChunks = kValueChunks + 1;
  static constexpr int kKeyDim = 64 * kKeyChunks;
  static constexpr int kStages = 2;  // of widened values, with what goes with them

  // ---- shared memory ----
  static constexpr int kChunkBytes = 8192;  // 64 keys of 64 values, swizzled
  static constexpr int kValueBytes = kValueChunks * kChunkBytes;
  static constexpr int kQueryChunkBytes = kN * 128;
  static constexpr int kQuery = kStages * kValueBytes;
  static constexpr int kProbabilities = kQuery + kKeyChunks * kQueryChunkBytes;  // a stage [kN][64]
  // Of a stage, [kN] each: maxima and sums of four warps, what the sums so far shrink by, what the
  // leaf is multiplied by at its end and its log-sum-exp.
  static constexpr int kStats = kProbabilities + kStages * kQueryChunkBytes;
  static constexpr int kStatsFloats = 11 * kN;
  static constexpr int kKeptMax = 33;
  static constexpr int kKeptLse = kStats + kStages * kStatsFloats * 4;
  static constexpr int kKeptNodes = kKeptLse + kKeptMax * kN * 4;
  static constexpr int kPieces = (kKeptNodes + (kKeptMax + 1) / 2 * 2 * 8 + 15) / 16 * 16;
  // 16 rows as they lie in the pool, as many as there is room for.
  static constexpr int kPieceBytes = 16 * kernels::kFp8RowBytes;
  static constexpr int kBarriersMax = 16;
  static constexpr int kSharedMax = 232448;
  static constexpr int kPieceCount = (kSharedMax - kBarriersMax * 8 - kPieces) / kPieceBytes < 8
                                         ? (kSharedMax - kBarriersMax * 8 - kPieces) / kPieceBytes
                                         : 8;
  static_assert(kPieceCount >= 4);
  static constexpr int kBarriers = kPieces + kPieceCount * kPieceBytes;
  static constexpr int kBytes = kBarriers + kBarriersMax * 8;

  static constexpr int kNodeFloats = kValueDim * kN;
  static constexpr int kSlotFloats = kNodeFloats;
  static constexpr bool kShared = false;
};

// Where things lie in a block's shared memory.
template <class Shape>
struct Fp8Room {
  uint8_t* shared;

  REPRISE_DEVICE Mbarrier* Full(uint32_t piece) const { return Barriers() + piece; }
  REPRISE_DEVICE Mbarrier* Ready(uint32_t stage) const { return Barriers() + 8 + stage; }
  REPRISE_DEVICE Mbarrier* Free(uint32_t stage) const {
    return Barriers() + 8 + Shape::kStages + stage;
  }
  REPRISE_DEVICE uint8_t* Piece(uint32_t piece) const {
    return shared + Shape::kPieces + piece * static_cast<uint32_t>(Shape::kPieceBytes);
  }
  REPRISE_DEVICE uint8_t* Values(uint32_t stage) const {
    return shared + stage * static_cast<uint32_t>(Shape::kValueBytes);
  }
  REPRISE_DEVICE uint8_t* Probabilities(uint32_t stage) const {
    return shared + Shape::kProbabilities + stage * static_cast<uint32_t>(Shape::kQueryChunkBytes);
  }
  REPRISE_DEVICE float* Maxima(uint32_t stage) const {
    return reinterpret_cast<float*>(shared + Shape::kStats) +
           stage * static_cast<uint32_t>(Shape::kStatsFloats);
  }
  REPRISE_DEVICE float* Sums(uint32_t stage) const { return Maxima(stage) + 4 * Shape::kN; }
  REPRISE_DEVICE float* Shrink(uint32_t stage) const { return Maxima(stage) + 8 * Shape::kN; }
  REPRISE_DEVICE float* Inverse(uint32_t stage) const { return Maxima(stage) + 9 * Shape::kN; }
  REPRISE_DEVICE float* Lse2(uint32_t stage) const { return Maxima(stage) + 10 * Shape::kN; }

 private:
  REPRISE_DEVICE Mbarrier* Barriers() const {
    return reinterpret_cast<Mbarrier*>(shared + Shape::kBarriers);
  }
};

constexpr uint32_t kScorersBarrier = 1;
constexpr uint32_t kSummersBarrier = 2;

// Of the eight columns [8 u, 8 u + 8) of a chunk, units 0 to 3 are the first half of a product's 16
// columns and others the second: the product of unit u, and in which half it stands.
struct UnitPlace {
  int step;
  int half;
};
REPRISE_DEVICE UnitPlace PlaceOfUnit(int unit, bool rotated) {
  return {unit < 4 ? unit : unit ^ (rotated ? 4 : 5), unit / 4};
}

// ---- warps 4 to 7 ----

template <class Shape>
struct Fp8Scorer {
  static constexpr int kN = Shape::kN;
  static constexpr int kColumns = kN / 4;
  using Fragments = uint32_t[4][4];

  const DecodeArgs& args;
  Fp8Room<Shape> room;
  FragmentPlace place;
  uint32_t warp;  // of the four
  // Copies that this warp's first lane asks for: 16 rows of every tile, those that follow what it
  // has read by as many pieces as there is room for.
  TileCursor ahead;
  uint32_t next_piece;
  uint32_t tiles;  // done

  REPRISE_DEVICE int Column(int u) const { return 8 * (u / 2) + place.col + u % 2; }
  REPRISE_DEVICE uint32_t Thread() const { return ThreadX() - kNodeThreads; }

  REPRISE_DEVICE void LoadPiece() {
    const uint32_t piece = next_piece % Shape::kPieceCount;
    const uint32_t block = next_piece % 4;
    next_piece += 4;
    if (ahead.ended()) return;
    const int64_t row = args.plan.runs[ahead.run].unit;
    const int64_t page = args.page_table[row * args.page_table_stride + ahead.tile];
    const auto* from = static_cast<const uint8_t*>(args.fp8_rows) +
                       page * args.fp8_page_stride_bytes + block * Shape::kPieceBytes;
    ArriveExpecting(room.Full(piece), Shape::kPieceBytes);
    LoadBytes(room.Piece(piece), from, Shape::kPieceBytes, room.Full(piece), Reuse::kOnce);
    ahead.Next(args);
  }
  REPRISE_DEVICE void LoadFirst(int first_run, int end_run) {
    ahead = {first_run, end_run, 0, 0};
    ahead.Enter(args);
    next_piece = (warp + Shape::kPieceCount) % 4;
    while (next_piece < static_cast<uint32_t>(Shape::kPieceCount)) LoadPiece();
  }

  // Columns in the products' order: pairs 0 and 2 of a unit go to the first eight slots of a
  // product, 1 and 3 to the others. Rows of query heads beyond the group's are zero.
  REPRISE_DEVICE void LoadQuery(int unit) const {
    const uint16_t* q = QueryOf(args, unit);
    constexpr int kUnits = Shape::kKeyDim / 8;  // of a head
    for (int i = static_cast<int>(Thread()); i < kN * kUnits; i += static_cast<int>(kNodeThreads)) {
      const int head = i / kUnits;
      const int chunk = i % kUnits / 8;
      const UnitPlace to = PlaceOfUnit(i % 8, chunk == Shape::kValueChunks);
      Words words = {};
      if (head < args.q_heads) words = Load16(q + head * Shape::kKeyDim + i % kUnits * 8);
      const auto at = static_cast<uint32_t>(head * 128 + 32 * to.step + 8 * to.half);
      uint8_t* query = room.shared + Shape::kQuery + chunk * Shape::kQueryChunkBytes;
      *reinterpret_cast<TwoWords*>(query + Swizzle(at, 128)) = {{words.w[0], words.w[2]}};
      *reinterpret_cast<TwoWords*>(query + Swizzle(at + 16, 128)) = {{words.w[1], words.w[3]}};
    }
  }

  // ---- widening ----

  // Which of the thread's pieces of eight bytes (four values) in a chunk belongs to product `step`.
  REPRISE_DEVICE int UnitOf(int step, bool rotated) const {
    const bool second = place.col >= 4;  // threads 2 and 3 of a row's four
    return second ? step ^ (rotated ? 4 : 5) : step;
  }
  REPRISE_DEVICE int Half() const { return place.col / 2 % 2; }

  // Of the thread's two rows.
  struct Scales {
    float s[2][kernels::kFp8Tiles];
  };
  REPRISE_DEVICE Scales LoadScales(const uint8_t* row, const bool (&inside)[2]) const {
    Scales scales;
    REPRISE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const Words words = Load16(row + 8 * r * kernels::kFp8RowBytes + kernels::kFp8ScalesAt);
      REPRISE_UNROLL
      for (int i = 0; i < kernels::kFp8Tiles; ++i) {
        scales.s[r][i] = inside[r] ? FloatOf(words.w[i]) : 0;
      }
    }
    return scales;
  }

  // Chunk c of the latents: fragments of four products, and the values into the stage. What lies
  // behind the last key may be NaN, and zero times NaN is: it is zero here.
  REPRISE_DEVICE void Widen(const uint8_t* row, int c, const Scales& scales,
                            const bool (&inside)[2], uint8_t* values, Fragments& a) const {
    uint32_t codes[2][4];
    REPRISE_UNROLL
    for (int step = 0; step < 4; ++step) {
      const int at = 64 * c + 8 * UnitOf(step, false) + 4 * Half();
      REPRISE_UNROLL
      for (int r = 0; r < 2; ++r) {
        const uint32_t word =
            *reinterpret_cast<const uint32_t*>(row + 8 * r * kernels::kFp8RowBytes + at);
        codes[r][step] = inside[r] ? word : 0;
      }
    }
    REPRISE_UNROLL
    for (int step = 0; step < 4; ++step) {
      const auto at =
          static_cast<uint32_t>(place.row * 128 + 16 * UnitOf(step, false) + 8 * Half());
      REPRISE_UNROLL
      for (int r = 0; r < 2; ++r) {
        float x[4];
        WidenE4m3(codes[r][step], x);
        const float scale = scales.s[r][c / 2];
        a[step][r] = PackBf16(x[0] * scale, x[1] * scale);
        a[step][r + 2] = PackBf16(x[2] * scale, x[3] * scale);
        // Eight rows further down are the next atom of the swizzle.
        *reinterpret_cast<TwoWords*>(values + c * Shape::kChunkBytes + 1024 * r +
                                     Swizzle(at, 128)) = {{a[step][r], a[step][r + 2]}};
      }
    }
  }
  REPRISE_DEVICE void TakeRotated(const uint8_t* row, Fragments& a) const {
    REPRISE_UNROLL
    for (int step = 0; step < 4; ++step) {
      const int at = kernels::kFp8RotatedAt + 16 * UnitOf(step, true) + 8 * Half();
      REPRISE_UNROLL
      for (int r = 0; r < 2; ++r) {
        const TwoWords words =
            *reinterpret_cast<const TwoWords*>(row + 8 * r * kernels::kFp8RowBytes + at);
        a[step][r] = words.w[0];
        a[step][r + 2] = words.w[1];
      }
    }
  }

  REPRISE_DEVICE void Score(int c, Fragments& a, float (&s)[kN / 2]) const {
    const uint64_t query =
        DescriptorOf({.address = Opaque(SharedAddress(room.shared) + Shape::kQuery)});
    Pin(a);
    FenceMatrix();
    REPRISE_UNROLL
    for (int step = 0; step < 4; ++step) {
      Multiply<kN, Major::kK>(s, a[step], Advance(query, c * Shape::kQueryChunkBytes + step * 32),
                              c + step > 0);
    }
    CommitMatrix();
  }

  // The tile's scores; its values are in the stage.
  REPRISE_DEVICE void Scores(int keys, uint32_t stage, float (&s)[kN / 2]) {
    const uint32_t n = 4 * tiles + warp;
    const uint32_t piece = n % Shape::kPieceCount;
    const bool inside[2] = {place.row < keys, place.row + 8 < keys};
    Wait(room.Full(piece), n / Shape::kPieceCount & 1);
    const uint8_t* row = room.Piece(piece) + place.row % 8 * kernels::kFp8RowBytes;
    const Scales scales = LoadScales(row, inside);
    uint8_t* values = room.Values(stage);
    Wait(room.Free(stage), (tiles / Shape::kStages & 1) ^ 1);
    Fragments a[2];
    REPRISE_UNROLL
    for (int c = 0; c < Shape::kValueChunks; ++c) {
      Widen(row, c, scales, inside, values, a[c % 2]);
      Score(c, a[c % 2], s);
      WaitMatrix<1>();  // the other fragments are free again
      if (c > 0) Pin(a[(c + 1) % 2]);
    }
    TakeRotated(row, a[Shape::kValueChunks % 2]);
    Score(Shape::kValueChunks, a[Shape::kValueChunks % 2], s);
    SyncWarp();  // the piece is read
    if (Lane() == 0) LoadPiece();
    SyncWarp();
    WaitMatrix<0>();
    Pin(a[0]);
    Pin(a[1]);
    Pin(s);
  }

  // ---- softmax; in base 2, top and sum unreduced over the rows ----

  REPRISE_DEVICE void ShowMaxima(uint32_t stage, const float (&s)[kN / 2]) const {
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) {
      float m = Max(s[u / 2 * 4 + u % 2], s[u / 2 * 4 + u % 2 + 2]);
      m = Max(m, ShuffleXor(m, 16));
      m = Max(m, ShuffleXor(m, 8));
      m = Max(m, ShuffleXor(m, 4));
      if (Lane() < 4) room.Maxima(stage)[warp * kN + static_cast<uint32_t>(Column(u))] = m;
    }
    SyncNamed(kScorersBarrier, kNodeThreads);
  }

  REPRISE_DEVICE void AddTile(int keys, float (&top)[kColumns], float (&sum)[kColumns]) {
    const uint32_t stage = tiles % Shape::kStages;
    float s[kN / 2];
    Scores(keys, stage, s);
    const float scale2 = args.scale * kLog2E;
    REPRISE_UNROLL
    for (int i = 0; i < kN / 2; ++i) {
      if (place.row + 8 * (i / 2 % 2) >= keys) s[i] = -Infinity();
    }
    ShowMaxima(stage, s);
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) {
      const float* m = room.Maxima(stage) + Column(u);
      const float here = Max(Max(m[0], m[kN]), Max(m[2 * kN], m[3 * kN])) * scale2;
      const float now = Max(top[u], here);
      const float base = now == -Infinity() ? 0 : now;
      const float shrink = Exp2(top[u] - base);
      top[u] = now;
      sum[u] = sum[u] * shrink;
      if (warp == 0 && Lane() < 4) room.Shrink(stage)[Column(u)] = shrink;
      REPRISE_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float p = Exp2(Fma(s[u / 2 * 4 + u % 2 + 2 * half], scale2, -base));
        sum[u] = sum[u] + p;
        const auto at = static_cast<uint32_t>(Column(u) * 128 + (place.row + 8 * half) * 2);
        *reinterpret_cast<Bf16*>(room.Probabilities(stage) + Swizzle(at, 128)) = ToBf16(p);
      }
    }
  }

  // The leaf's sums, for the summers.
  REPRISE_DEVICE void Finish(const float (&top)[kColumns], float (&sum)[kColumns]) const {
    const uint32_t stage = tiles % Shape::kStages;
    float* sums = room.Sums(stage);
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) {
      sum[u] = sum[u] + ShuffleXor(sum[u], 16);
      sum[u] = sum[u] + ShuffleXor(sum[u], 8);
      sum[u] = sum[u] + ShuffleXor(sum[u], 4);
      if (Lane() < 4) sums[warp * kN + static_cast<uint32_t>(Column(u))] = sum[u];
    }
    SyncNamed(kScorersBarrier, kNodeThreads);
    if (warp != 0 || Lane() >= 4) return;
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) {
      const float* l = sums + Column(u);
      const float all = (l[0] + l[kN]) + (l[2 * kN] + l[3 * kN]);
      room.Inverse(stage)[Column(u)] = Divide(1, all);
      room.Lse2(stage)[Column(u)] = top[u] + Log2(all);
    }
  }

  REPRISE_DEVICE void Leaf(int first_tile, int keys) {
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
      AddTile(left < kPageRows ? left : kPageRows, top, sum);
      if (left <= kPageRows || tile + 1 == first_tile + kTilesPerLeaf) Finish(top, sum);
      FenceAsync();
      SyncWarp();
      if (Lane() == 0) Arrive(room.Ready(tiles % Shape::kStages));
      ++tiles;
    }
  }

  REPRISE_DEVICE void Run(const DecodeRun& run) {
    if (run.leaves == 0) return;
    const int keys = args.keys[run.unit];
    // Products with the query before are over since the last tile's maxima were shown.
    LoadQuery(run.unit);
    FenceAsync();
    SyncNamed(kScorersBarrier, kNodeThreads);
    for (int leaf = run.first_leaf; leaf < run.end_leaf; ++leaf) Leaf(leaf * kTilesPerLeaf, keys);
  }
};

// ---- warps 0 to 3 ----

template <class Shape>
struct Fp8Summer : DecodeNodes<Shape> {
  using Base = DecodeNodes<Shape>;
  using Base::args, Base::Column, Base::kColumns, Base::kN, Base::shared;
  using Node = typename Base::Node;

  Fp8Room<Shape> room;
  uint32_t tiles;  // done

  REPRISE_DEVICE void MultiplyNode(Node& node, const float (&by)[kColumns]) const {
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) this->ScaleColumn(u, by[u], node);
  }
  REPRISE_DEVICE void Columns(const float* from, float (&to)[kColumns]) const {
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) to[u] = from[Column(u)];
  }

  REPRISE_DEVICE void Leaf(int first_tile, int keys, Node& node) {
    const int all = (keys + kPageRows - 1) / kPageRows;
    const int end = first_tile + kTilesPerLeaf < all ? first_tile + kTilesPerLeaf : all;
    float inverse[kColumns];
    for (int tile = first_tile; tile < end; ++tile) {
      const uint32_t stage = tiles % Shape::kStages;
      Wait(room.Ready(stage), tiles / Shape::kStages & 1);
      if (tile > first_tile) {
        float shrink[kColumns];
        Columns(room.Shrink(stage), shrink);
        MultiplyNode(node, shrink);
      }
      this->AddValues(SharedAddress(room.Values(stage)), SharedAddress(room.Probabilities(stage)),
                      tile == first_tile, node);
      if (tile + 1 == end) {
        Columns(room.Inverse(stage), inverse);
        Columns(room.Lse2(stage), node.lse2);
      }
      SyncWarp();
      if (Lane() == 0) Arrive(room.Free(stage));
      ++tiles;
    }
    MultiplyNode(node, inverse);
  }

  REPRISE_DEVICE void Run(const DecodeRun& run) {
    const int keys = args.keys[run.unit];
    const auto leaf_of = [&](int leaf, Node& node) { Leaf(leaf * kTilesPerLeaf, keys, node); };
    this->Tree(
        run, [] {}, leaf_of, [] { SyncNamed(kSummersBarrier, kNodeThreads); });
  }
};

template <class Shape>
REPRISE_KERNEL(2 * kNodeThreads, 1)
Fp8DecodeKernel(REPRISE_PARAMETER DecodeArgs args) {
  const int worker = static_cast<int>(BlockX());
  const int first = args.plan.run_begin[worker];
  const int end = args.plan.run_begin[worker + 1];
  const Fp8Room<Shape> room = {Shared()};
  if (ThreadX() == 0) {
    for (uint32_t i = 0; i < Shape::kPieceCount; ++i) InitBarrier(room.Full(i), 1);
    for (uint32_t i = 0; i < Shape::kStages; ++i) {
      InitBarrier(room.Ready(i), 4);
      InitBarrier(room.Free(i), 4);
    }
    FenceInit();
  }
  SyncBlock();
  const FragmentPlace place = FragmentPlace::Of(ThreadX() % kNodeThreads);
  if (Warp() < 4) {
    Fp8Summer<Shape> summer{{args, room.shared, place}, room, 0};
    for (int run = first; run < end; ++run) summer.Run(args.plan.runs[run]);
  } else {
    Fp8Scorer<Shape> scorer{args, room, place, Warp() - 4, {}, 0, 0};
    if (Lane() == 0) scorer.LoadFirst(first, end);
    for (int run = first; run < end; ++run) scorer.Run(args.plan.runs[run]);
  }
}

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DECODE_FP8_H_
