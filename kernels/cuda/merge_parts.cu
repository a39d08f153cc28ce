// A thread joins four columns of one head of one row, from all parts: each part is read once and
// the result written once, by 16 bytes a thread, so the kernel is bound by memory. The weights,
// which all threads of a head compute for themselves, are some 20 instructions a part beside its 16
// bytes. A tree is a binary counter of finished nodes, at most eight, in registers.
#include "kernels/cuda/elements.h"
#include "kernels/cuda/merge_parts.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/rows_area.h"

namespace reprise::cuda {
namespace {

constexpr int kLevels = 8;  // of indices below 256

struct Node {
  Four out;
  float lse2;
};
REPRISE_DEVICE Node Join(const Node& left, const Node& right) {
  const MergeWeights weights = WeightsOf(left.lse2, right.lse2);
  Node node;
  node.lse2 = weights.lse2;
  REPRISE_UNROLL
  for (int i = 0; i < 4; ++i) node.out.v[i] = Merged(weights, left.out.v[i], right.out.v[i]);
  return node;
}

// Where a thread's columns lie.
struct Place {
  int64_t row;
  int64_t col;
  int64_t n;
  int head;
};
REPRISE_DEVICE Node PartAt(const MergePartsArgs& args, int part, const Place& at) {
  const MergePart& p = args.parts[part];
  return {LoadSomeOfFour(p.out + at.row * args.out_stride + at.col, at.n),
          p.lse2[at.row * args.lse_stride + at.head]};
}

REPRISE_DEVICE Node JoinList(const MergePartsArgs& args, const Place& at) {
  Node node = PartAt(args, 0, at);
#pragma unroll 4
  for (int part = 1; part < args.count; ++part) node = Join(node, PartAt(args, part, at));
  return node;
}

// No two parts lie on different sides of more than one multiple of 128, so indices below 256 have
// the tree's shape.
REPRISE_DEVICE Node JoinTree(const MergePartsArgs& args, const Place& at) {
  const auto first = static_cast<uint32_t>(args.first_index % 128);
  Node finished[kLevels];
  uint32_t occupied = 0;
  for (int part = 0; part < args.count; ++part) {
    const uint32_t index = first + static_cast<uint32_t>(part);
    Node node = PartAt(args, part, at);
    bool stored = false;
    REPRISE_UNROLL
    for (int level = 0; level < kLevels; ++level) {
      const bool there = (occupied >> level & 1) != 0;
      if (!stored && (index >> level & 1) == 0) {
        finished[level] = node;
        occupied |= 1U << level;
        stored = true;
      } else if (!stored && there) {
        node = Join(finished[level], node);
        occupied &= ~(1U << level);
      }
    }
  }
  Node all = {};
  bool any = false;
  REPRISE_UNROLL
  for (int level = 0; level < kLevels; ++level) {
    if ((occupied >> level & 1) == 0) continue;
    all = any ? Join(finished[level], all) : finished[level];
    any = true;
  }
  return all;
}

REPRISE_DEVICE void Store(const MergePartsArgs& args, const Place& at, const Node& node) {
  const int64_t to = at.row * args.out.stride + at.col;
  if (args.out.bf16) {
    StoreSomeOfFour(node.out, static_cast<Bf16*>(args.out.data) + to, at.n);
  } else {
    StoreSomeOfFour(node.out, static_cast<float*>(args.out.data) + to, at.n);
  }
  if (args.lse2 != nullptr && at.col == static_cast<int64_t>(at.head) * args.dim) {
    args.lse2[at.row * args.lse_stride + at.head] = node.lse2;
  }
}

template <int kWidth>
REPRISE_KERNEL(kAreaThreads, 1)
MergePartsKernel(REPRISE_PARAMETER MergePartsArgs args, Area area) {
  ForArea<kWidth>(area, [&](int64_t row, int64_t col, int64_t n) {
    const Place at = {row, col, n, static_cast<int>(col / args.dim)};
    Store(args, at, args.tree ? JoinTree(args, at) : JoinList(args, at));
  });
}

}  // namespace

int MergeParts(const MergePartsArgs& args, Stream stream) {
  if (args.count < 1 || args.count > kMergePartsMax || args.first_index < 0) {
    return kErrorInvalidValue;
  }
  const int64_t cols = int64_t{args.heads} * args.dim;
  return args.dim % 4 == 0 ? StartArea<4>(MergePartsKernel<4>, args, args.rows, cols, stream)
                           : StartArea<1>(MergePartsKernel<1>, args, args.rows, cols, stream);
}

}  // namespace reprise::cuda
