// The tree over leaves as a warpgroup of 128 threads walks it: which tiles a worker reads, the
// nodes that wait for their sibling, the joins within a run, the result; and what a tile adds to a
// leaf's node. What the kernels of decode.cu and decode_fp8.h share, so that a node is the same for
// both.
#ifndef REPRISE_KERNELS_CUDA_DECODE_NODES_H_
#define REPRISE_KERNELS_CUDA_DECODE_NODES_H_

#include "kernels/cuda/decode.h"
#include "kernels/cuda/decode_result.h"
#include "kernels/cuda/decode_tile.h"

namespace reprise::cuda {

inline constexpr uint32_t kNodeThreads = 128;
inline constexpr int kTilesPerLeaf = kStepLeaf / kPageRows;

// Which tile comes next, across the runs of a worker.
struct TileCursor {
  int run;
  int end_run;
  int tile;      // of the unit
  int end_tile;  // of the run
  REPRISE_DEVICE bool ended() const { return run == end_run; }
  // To the first tile of the first run from `run` on that has one.
  REPRISE_DEVICE void Enter(const DecodeArgs& args) {
    for (; run < end_run; ++run) {
      const DecodeRun& r = args.plan.runs[run];
      const int keys = args.keys[r.unit / args.kv_heads];
      tile = r.first_leaf * kTilesPerLeaf;
      const int all = (keys + kPageRows - 1) / kPageRows;
      end_tile = r.end_leaf * kTilesPerLeaf < all ? r.end_leaf * kTilesPerLeaf : all;
      if (tile < end_tile) return;
    }
  }
  REPRISE_DEVICE void Next(const DecodeArgs& args) {
    if (++tile < end_tile) return;
    ++run;
    Enter(args);
  }
};

// A thread's part in it. Shape: kN, kValueChunks, kChunkBytes, kValueDim, kNodeFloats, kSlotFloats,
// kShared, kKeptLse, kKeptNodes (decode_tile.h).
template <class Shape>
struct DecodeNodes {
  static constexpr int kN = Shape::kN;
  static constexpr int kColumns = kN / 4;  // of a thread
  static constexpr int kSlotFloats = Shape::kSlotFloats;
  static constexpr int kNodeSlots = Shape::kNodeFloats / kSlotFloats;

  // A node of the tree: what a thread has of it.
  struct Node {
    float o[Shape::kValueChunks][kN / 2];
    float lse2[kColumns];
  };

  const DecodeArgs& args;
  uint8_t* shared;
  FragmentPlace place;

  REPRISE_DEVICE int Column(int u) const { return 8 * (u / 2) + place.col + u % 2; }

  // ---- a leaf's node ----

  // node (+)= values^T probabilities of a tile of 64 keys: values [kValueChunks][64][64], swizzled,
  // probabilities [kN][64]; both addresses are of shared memory.
  REPRISE_DEVICE void AddValues(uint32_t values_at, uint32_t probabilities_at, bool first,
                                Node& node) const {
    REPRISE_UNROLL
    for (int v = 0; v < Shape::kValueChunks; ++v) Pin(node.o[v]);
    const uint64_t values = DescriptorOf({.address = Opaque(values_at)});
    const uint64_t probabilities = DescriptorOf({.address = Opaque(probabilities_at)});
    FenceMatrix();
    REPRISE_UNROLL
    for (int v = 0; v < Shape::kValueChunks; ++v) {
      REPRISE_UNROLL
      for (int step = 0; step < 4; ++step) {
        Multiply<kN, Major::kMn, Major::kK>(node.o[v],
                                            Advance(values, v * Shape::kChunkBytes + step * 2048),
                                            Advance(probabilities, step * 32), !first || step > 0);
      }
    }
    CommitMatrix();
    WaitMatrix<0>();
    REPRISE_UNROLL
    for (int v = 0; v < Shape::kValueChunks; ++v) Pin(node.o[v]);
  }

  // The thread's column u of the node times `by`.
  REPRISE_DEVICE void ScaleColumn(int u, float by, Node& node) const {
    REPRISE_UNROLL
    for (int v = 0; v < Shape::kValueChunks; ++v) {
      node.o[v][u / 2 * 4 + u % 2] *= by;
      node.o[v][u / 2 * 4 + u % 2 + 2] *= by;
    }
  }

  // ---- nodes that wait for their sibling: O in global memory, each thread its own part ----

  REPRISE_DEVICE float* KeptLse(int i) const {
    return reinterpret_cast<float*>(shared + Shape::kKeptLse) + i * kN;
  }
  REPRISE_DEVICE int32_t* KeptNode(int i) const {  // first leaf, level
    return reinterpret_cast<int32_t*>(shared + Shape::kKeptNodes) + 2 * i;
  }
  REPRISE_DEVICE float* KeptO(const DecodeRun& run, int i) const {
    return args.plan.node_out + static_cast<int64_t>(run.slot + i * kNodeSlots) * kSlotFloats +
           ThreadX() * 4;
  }

  REPRISE_DEVICE void Keep(const DecodeRun& run, int i, const Node& node) const {
    float* to = KeptO(run, i);
    REPRISE_UNROLL
    for (int v = 0; v < Shape::kValueChunks; ++v) {
      to = Opaque(to);
      REPRISE_UNROLL
      for (int j = 0; j < kN / 8; ++j) {
        const float* o = node.o[v] + 4 * j;
        Store16(to + (v * (kN / 8) + j) * kNodeThreads * 4,
                {{BitsOf(o[0]), BitsOf(o[1]), BitsOf(o[2]), BitsOf(o[3])}});
      }
    }
    // Threads with the same columns write the same, and each reads what it wrote.
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) KeptLse(i)[Column(u)] = node.lse2[u];
  }

  // node = kept i joined with node.
  REPRISE_DEVICE void JoinKept(const DecodeRun& run, int i, Node& node) const {
    const float* from = KeptO(run, i);
    MergeWeights w[kColumns];
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) {
      w[u] = WeightsOf(KeptLse(i)[Column(u)], node.lse2[u]);
      node.lse2[u] = w[u].lse2;
    }
    REPRISE_UNROLL
    for (int v = 0; v < Shape::kValueChunks; ++v) {
      from = Opaque(from);  // or all of the node is in registers at once
      REPRISE_UNROLL
      for (int j = 0; j < kN / 8; ++j) {
        const Words left = Load16(from + (v * (kN / 8) + j) * kNodeThreads * 4);
        REPRISE_UNROLL
        for (int k = 0; k < 4; ++k) {
          float& o = node.o[v][4 * j + k];
          o = Merged(w[2 * j + k % 2], FloatOf(left.w[k]), o);
        }
      }
    }
  }

  // ---- a run ----

  template <class T>
  static REPRISE_DEVICE void WriteColumn(T* out, int u, const Node& node) {
    REPRISE_UNROLL
    for (int v = 0; v < Shape::kValueChunks; ++v) {
      REPRISE_UNROLL
      for (int half = 0; half < 2; ++half) {
        StoreAs(node.o[v][u / 2 * 4 + u % 2 + 2 * half], out + 64 * v + 8 * half);
      }
    }
  }

  REPRISE_DEVICE void WriteResult(const DecodeRun& run, const Node& node) const {
    const int group = args.q_heads / args.kv_heads;
    const int first_head = run.unit % args.kv_heads * group;
    const int64_t row = run.unit / args.kv_heads;
    REPRISE_UNROLL
    for (int u = 0; u < kColumns; ++u) {
      if (Column(u) >= group) continue;
      const int head = first_head + Column(u);
      const int64_t at = static_cast<int64_t>(head) * Shape::kValueDim + place.row;
      if (args.parts != nullptr) {
        WriteColumn(Opaque(args.parts[row].out + at), u, node);
      } else {
        WriteColumn(Opaque(args.out + row * args.out_row_stride + at), u, node);
      }
      if (place.row == 0) StoreLse(args, row, head, node.lse2[u]);
    }
  }

  // `begin()` goes before a run that sees keys, `leaf_of(leaf, node)` computes a leaf; `sync()` is
  // a barrier of the 128 threads.
  template <class Begin, class LeafOf, class Sync>
  REPRISE_DEVICE void Tree(const DecodeRun& run, Begin begin, LeafOf leaf_of, Sync sync) const {
    Node node;
    if (!Shape::kShared && run.leaves == 0) {
      REPRISE_UNROLL
      for (int v = 0; v < Shape::kValueChunks; ++v) {
        REPRISE_UNROLL
        for (int i = 0; i < kN / 2; ++i) node.o[v][i] = 0;
      }
      REPRISE_UNROLL
      for (int u = 0; u < kColumns; ++u) node.lse2[u] = -Infinity();
      return WriteResult(run, node);
    }
    begin();
    int kept = 0;
    int32_t level = 0;
    for (int leaf = run.first_leaf; leaf < run.end_leaf; ++leaf) {
      leaf_of(leaf, node);
      level = JoinsAfter(leaf, run.first_leaf);
      for (int i = 0; i < level; ++i) JoinKept(run, --kept, node);
      if (leaf + 1 == run.end_leaf) break;
      sync();  // the place may be one that others still read
      Keep(run, kept, node);
      KeptNode(kept)[0] = leaf >> level;
      ++kept;
    }
    // Nothing follows the unit's last leaf: its node is what its parent would be.
    if (!Shape::kShared && run.end_leaf == run.leaves) {
      while (kept > 0 && KeptNode(kept - 1)[0] % 2 == 0) JoinKept(run, --kept, node);
    }
    if (!Shape::kShared && run.whole != 0) {
      WriteResult(run, node);
    } else {
      sync();
      Keep(run, kept++, node);
      sync();
      for (int i = static_cast<int>(ThreadX()); i < kept * kN; i += kNodeThreads) {
        args.plan.node_lse2[static_cast<int64_t>(run.slot + i / kN * kNodeSlots) * kDecodeGroupMax +
                            i % kN] = KeptLse(i / kN)[i % kN];
      }
    }
    sync();  // what the run had in shared memory may be overwritten
  }
};

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DECODE_NODES_H_
