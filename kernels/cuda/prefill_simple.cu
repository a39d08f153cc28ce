// A lane scores four of a block's 128 keys; then every lane sums its share of the value's columns
// over all of them. Nodes of the tree that wait for their right sibling lie in the thread's local
// memory.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/prefill_simple.h"
#include "kernels/cuda/prefill_tiles.h"

namespace reprise::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kKeysOfLane = kPromptBlock / 32;
// Positions are 31 bits: leaves up to 2^19.
constexpr int kLevelsMax = 20;

struct Shape {
  int first_dim = 0;   // of the key, in the pool's first part
  int second_dim = 0;  // of the key, in the second; 0 unless latent
  int value_dim = 0;
  bool value_first = false;
  int64_t second_part = 0;  // bytes from a segment's start
};

template <int kColumns>  // of the value, of a lane
struct Node {
  float sums[kColumns];
  float lse2;
};

// Whether the lane's column `c` is one of the value's.
REPRISE_DEVICE bool Has(const Shape& shape, int c) {
  return 32 * c + static_cast<int>(Lane()) < shape.value_dim;
}

REPRISE_DEVICE float Dot(const Bf16* a, const Bf16* b, int count, float sum) {
  for (int i = 0; i < count; i += 8) {
    const Words x = Load16(a + i);
    const Words y = Load16(b + i);
    REPRISE_UNROLL
    for (int w = 0; w < 4; ++w) {
      sum = Fma(LowOf(x.w[w]), LowOf(y.w[w]), sum);
      sum = Fma(HighOf(x.w[w]), HighOf(y.w[w]), sum);
    }
  }
  return sum;
}

// A latent's value in fp8.
REPRISE_DEVICE float Fp8At(const uint8_t* row, int column) {
  const float scale =
      reinterpret_cast<const float*>(row + kernels::kFp8ScalesAt)[column / kernels::kFp8Tile];
  return ToFloat(ToBf16(kernels::Fp8Value(row[column], scale)));
}
REPRISE_DEVICE float Fp8Dot(const Bf16* q, const uint8_t* row) {
  float sum = 0;
  for (int i = 0; i < kernels::kFp8LatentDim; ++i) sum = Fma(ToFloat(q[i]), Fp8At(row, i), sum);
  return Dot(q + kernels::kFp8LatentDim,
             reinterpret_cast<const Bf16*>(row + kernels::kFp8RotatedAt), kernels::kFp8RotatedDim,
             sum);
}

// One (row, head) and the keys of its run.
template <int kColumns, bool kFp8>
struct Row {
  const PrefillArgs& args;
  const Shape& shape;
  const PrefillRun& run;
  const Bf16* q;
  int kv_head;
  int32_t visible;  // keys

  REPRISE_DEVICE const Bf16* Part(int32_t key, bool second) const {
    const KvPool& pool = args.pool;
    const int64_t page = args.page_tables[run.first_page + key / kPageRows];
    const auto* base = static_cast<const uint8_t*>(pool.layer_base) +
                       page * pool.page_stride_bytes + (second ? shape.second_part : 0);
    return reinterpret_cast<const Bf16*>(base) + (int64_t{kv_head} * kPageRows + key % kPageRows) *
                                                     (second ? pool.second_dim : pool.first_dim);
  }
  REPRISE_DEVICE const uint8_t* Fp8Row(int32_t key) const {
    const int64_t page = args.page_tables[run.first_page + key / kPageRows];
    return static_cast<const uint8_t*>(args.pool.layer_base) + page * args.pool.page_stride_bytes +
           key % kPageRows * kernels::kFp8RowBytes;
  }
  // Adds the key's value, which has the weight w, to the lane's columns.
  REPRISE_DEVICE void AddValue(int32_t key, float w, Node<kColumns>* node) const {
    if constexpr (kFp8) {
      const uint8_t* row = Fp8Row(key);
      REPRISE_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        node->sums[c] = Fma(w, Fp8At(row, 32 * c + static_cast<int>(Lane())), node->sums[c]);
      }
    } else {
      const Bf16* v = Part(key, !shape.value_first) + Lane();
      REPRISE_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        if (Has(shape, c)) node->sums[c] = Fma(w, ToFloat(v[32 * c]), node->sums[c]);
      }
    }
  }
  REPRISE_DEVICE float Score(int32_t key) const {
    if constexpr (kFp8) return Fp8Dot(q, Fp8Row(key));
    float sum = Dot(q, Part(key, false), shape.first_dim, 0);
    if (shape.second_dim > 0) {
      sum = Dot(q + shape.first_dim, Part(key, true), shape.second_dim, sum);
    }
    return sum;
  }

  // Keys [begin, end) of one leaf.
  REPRISE_DEVICE void Leaf(int32_t begin, int32_t end, Node<kColumns>* node) const {
    const float scale2 = args.scale * kLog2E;
    float top = -Infinity();
    float sum = 0;
    for (float& x : node->sums) x = 0;
    for (int32_t block = begin; block < end; block += kPromptBlock) {
      float scores[kKeysOfLane];
      float block_top = top;
      for (int i = 0; i < kKeysOfLane; ++i) {
        const int32_t key = block + 32 * i + static_cast<int32_t>(Lane());
        scores[i] = key < end ? Score(key) : -Infinity();
        block_top = Max(block_top, scores[i]);
      }
      block_top = MaxOf(block_top, 32);
      const float keep = Exp2((top - block_top) * scale2);
      const float base = -(block_top * scale2);
      float weight[kKeysOfLane];
      float block_sum = 0;
      for (int i = 0; i < kKeysOfLane; ++i) {
        weight[i] = Exp2(Fma(scores[i], scale2, base));
        block_sum = block_sum + weight[i];
        weight[i] = ToFloat(ToBf16(weight[i]));
      }
      sum = Fma(sum, keep, SumOf(block_sum, 32));
      top = block_top;
      for (float& x : node->sums) x = x * keep;
      const int32_t count = end - block < kPromptBlock ? end - block : kPromptBlock;
      for (int i = 0; i < kKeysOfLane; ++i) {
        for (int32_t j = 0; j < 32 && 32 * i + j < count; ++j) {
          AddValue(block + 32 * i + j, Shuffle(weight[i], static_cast<uint32_t>(j)), node);
        }
      }
    }
    const float inverse = Divide(1, sum);
    for (float& x : node->sums) x = x * inverse;
    node->lse2 = Fma(top, scale2, Log2(sum));
  }

  static REPRISE_DEVICE void Join(const Node<kColumns>& left, Node<kColumns>* right) {
    const MergeWeights w = WeightsOf(left.lse2, right->lse2);
    for (int c = 0; c < kColumns; ++c) {
      right->sums[c] = Merged(w, left.sums[c], right->sums[c]);
    }
    right->lse2 = w.lse2;
  }

  REPRISE_DEVICE void All(Node<kColumns>* node) const {
    for (float& x : node->sums) x = 0;
    node->lse2 = -Infinity();
    const int32_t first_leaf = run.key_position / kPromptLeaf;
    Node<kColumns> kept[kLevelsMax];
    int count = 0;
    for (int32_t begin = 0; begin < visible;) {
      const int32_t leaf = (run.key_position + begin) / kPromptLeaf;
      const int32_t rest = (leaf + 1) * kPromptLeaf - run.key_position;
      const int32_t end = rest < visible ? rest : visible;
      Leaf(begin, end, node);
      const int joins = end == visible ? count : JoinsOfLeaf(leaf, first_leaf);
      for (int join = 0; join < joins; ++join) Join(kept[--count], node);
      kept[count++] = *node;
      begin = end;
    }
  }
};

template <int kColumns, bool kFp8>
REPRISE_KERNEL(32 * kWarps, 1)
SimpleKernel(PrefillArgs args, Shape shape) {
  const PrefillRun run = args.runs[BlockY()];
  const int64_t i = static_cast<int64_t>(BlockX()) * kWarps + Warp();
  const auto head = static_cast<int>(i % args.q_heads);
  const auto row = static_cast<int32_t>(i / args.q_heads);
  if (row >= run.rows) return;
  int32_t visible = run.key_rows;
  if (run.causal != 0) {
    const int32_t seen = run.first_position + row - run.key_position + 1;
    visible = visible < seen ? visible : seen;
  }
  const int64_t q_row = int64_t{run.first_row} + row;
  const Bf16* q = static_cast<const Bf16*>(args.q) + q_row * args.q_stride +
                  int64_t{head} * (shape.first_dim + shape.second_dim);
  Node<kColumns> node;
  Row<kColumns, kFp8>{args, shape, run, q, head / (args.q_heads / args.pool.kv_heads), visible}.All(
      &node);
  const int64_t at = q_row * args.out_stride + int64_t{head} * shape.value_dim + Lane();
  for (int c = 0; c < kColumns && Has(shape, c); ++c) {
    if (args.out_bf16) {
      static_cast<Bf16*>(args.out)[at + 32 * c] = ToBf16(node.sums[c]);
    } else {
      static_cast<float*>(args.out)[at + 32 * c] = node.sums[c];
    }
  }
  if (Lane() != 0) return;
  const int64_t place = q_row * args.q_heads + head;
  if (args.lse != nullptr) args.lse[place] = node.lse2 * kLn2;
  if (args.lse2 != nullptr) args.lse2[place] = node.lse2;
}

template <int kColumns, bool kFp8 = false>
int LaunchAs(const PrefillArgs& args, const Shape& shape, Stream stream) {
  const int64_t blocks = (args.rows_max * args.q_heads + kWarps - 1) / kWarps;
  return Launch(
      {.blocks = {static_cast<uint32_t>(blocks), static_cast<uint32_t>(args.run_count), 1},
       .threads = {32 * kWarps, 1, 1}},
      stream, SimpleKernel<kColumns, kFp8>, args, shape);
}

}  // namespace

int PrefillSimple(const PrefillArgs& args, bool latent, Stream stream) {
  if (args.run_count == 0 || args.rows_max == 0) return 0;
  const KvPool& pool = args.pool;
  const Shape shape = {pool.first_dim, latent ? pool.second_dim : 0,
                       latent ? pool.first_dim : pool.second_dim, latent, pool.FirstBytes()};
  if (pool.kv_heads <= 0 || args.q_heads <= 0 || args.q_heads % pool.kv_heads != 0 ||
      pool.first_dim % 8 != 0 || pool.second_dim % 8 != 0 || args.q_stride % 8 != 0 ||
      args.scale <= 0) {
    return kErrorInvalidValue;
  }
  if (pool.fp8) {
    if (!latent || !pool.FitsFp8()) return kErrorInvalidValue;
    return LaunchAs<kernels::kFp8LatentDim / 32, true>(args, shape, stream);
  }
  if (shape.value_dim <= 32) return LaunchAs<1>(args, shape, stream);
  if (shape.value_dim <= 64) return LaunchAs<2>(args, shape, stream);
  if (shape.value_dim <= 128) return LaunchAs<4>(args, shape, stream);
  if (shape.value_dim <= 256) return LaunchAs<8>(args, shape, stream);
  if (shape.value_dim <= 512) return LaunchAs<16>(args, shape, stream);
  return kErrorInvalidValue;
}

}  // namespace reprise::cuda
