// Paged attention (AttentionArgs): the leaves of every tile, joined by the tree over absolute
// positions. Where tiles are few, the threads share the keys of each: whole subtrees of leaves,
// whose results join where they would have joined anyway.
#ifndef REPRISE_KERNELS_CPU_ATTENTION_INL_H_
#define REPRISE_KERNELS_CPU_ATTENTION_INL_H_

#include "kernels/cpu/attention_tile_inl.h"

namespace reprise::kernels::REPRISE_KERNEL_ISA {

static void Clear(const Tile& t, TilePartial result) {
  std::memset(result.out, 0, static_cast<size_t>(t.queries * t.dims.value) * 4);
  for (int64_t q = 0; q < t.queries; ++q) result.lse[q] = -kInfinity;
}
static void Copy(const Tile& t, TilePartial from, TilePartial to) {
  std::memcpy(to.out, from.out, static_cast<size_t>(t.queries * t.dims.value) * 4);
  std::memcpy(to.lse, from.lse, static_cast<size_t>(t.queries) * 4);
}

// Nodes of the tree over absolute indices, joined as a binary counter: level h of mem's stack holds
// a finished node of 2^h of them.
struct NodeStack {
  // Takes the node at `index`, the next one; loses `node`'s bytes.
  void Push(const Tile& t, int64_t index, TilePartial node) {
    int level = 0;
    for (; (index & 1) != 0; index >>= 1, ++level) {
      if ((occupied >> level & 1) == 0) continue;
      MergeTile(t, PartialAt(t, t.mem.Level(level)), node, node);
      occupied &= ~(uint64_t{1} << level);
    }
    Copy(t, node, PartialAt(t, t.mem.Level(level)));
    occupied |= uint64_t{1} << level;
  }
  // All of them as one.
  void Join(const Tile& t, TilePartial result) const {
    Clear(t, result);
    for (int level = 0; occupied >> level != 0; ++level) {
      if ((occupied >> level & 1) == 0) continue;
      MergeTile(t, PartialAt(t, t.mem.Level(level)), result, result);
    }
  }
  uint64_t occupied = 0;
};

// The leaves of one segment from absolute index `leaf` on, before `leaf_end`; the result is their
// node when they are an aligned subtree, or all there are.
static void SegmentLeaves(const Tile& t, const KeySegment& segment, int64_t leaf, int64_t leaf_end,
                          TilePartial result) {
  const int64_t end = VisibleRows(t, segment, t.queries - 1);  // the last row sees most
  NodeStack nodes;
  for (int64_t first = MaxOf(0, leaf * kLeafTokens - segment.key_position); first < end;) {
    const int64_t position = segment.key_position + first;
    if (position / kLeafTokens >= leaf_end) break;
    const int64_t stop = MinOf(end, first + kLeafTokens - position % kLeafTokens);
    Leaf(t, segment, first, stop, result);
    nodes.Push(t, position / kLeafTokens, result);
    first = stop;
  }
  nodes.Join(t, result);
}

static void LoadQueries(const Tile& t) {
  const int64_t dim = t.args->kv.key_dim;
  for (int64_t q = 0; q < t.queries; ++q) {
    float* dst = t.mem.q + q * t.dims.key;
    std::memcpy(dst, t.item->q.row(t.Row(q)) + t.Head(q) * dim, static_cast<size_t>(dim) * 4);
    ZeroFrom(dst, dim, t.dims.key);
  }
}

static void StoreResults(const Tile& t, TilePartial total) {
  const int64_t dim = t.args->kv.value_dim;
  for (int64_t q = 0; q < t.queries; ++q) {
    const int64_t row = t.Row(q);
    const int64_t head = t.Head(q);
    std::memcpy(t.item->out.row(row) + head * dim, total.out + q * t.dims.value,
                static_cast<size_t>(dim) * 4);
    t.item->lse[row * t.args->q_heads + head] = total.lse[q];
  }
}

static void RunTile(const Tile& t) {
  LoadQueries(t);
  const TilePartial total = PartialAt(t, t.mem.total);
  const TilePartial next = PartialAt(t, t.mem.next);
  Clear(t, total);
  for (int64_t s = 0; s < t.item->n_segments; ++s) {
    SegmentLeaves(t, t.item->segments[s], 0, INT64_MAX, next);
    MergeTile(t, total, next, total);
  }
  StoreResults(t, total);
}

// Calls fn(tile, its number) for every tile of the call.
template <class F>
static void ForTiles(const AttentionArgs& args, const TileMemory& mem, F&& fn) {
  const int64_t group = args.q_heads / args.kv.kv_heads;
  int64_t number = 0;
  for (int64_t i = 0; i < args.n_items; ++i) {
    const AttentionItem& item = args.items[i];
    const int64_t queries = item.q.rows * group;
    for (int64_t h = 0; h < args.kv.kv_heads; ++h) {
      for (int64_t first = 0; first < queries; first += kQueries) {
        fn(Tile{&args, &item, mem, h, group, first, MinOf(kQueries, queries - first),
                TileDims(args.kv)},
           number++);
      }
    }
  }
}
static int64_t CountTiles(const AttentionArgs& args) {
  const int64_t group = args.q_heads / args.kv.kv_heads;
  int64_t tiles = 0;
  for (int64_t i = 0; i < args.n_items; ++i) {
    tiles += args.kv.kv_heads * ((args.items[i].q.rows * group + kQueries - 1) / kQueries);
  }
  return tiles;
}

// The subtrees of 2^shift leaves that a segment touches, by their absolute index.
struct Subtrees {
  int64_t begin, end;
};
static Subtrees SubtreesOf(const KeySegment& segment, int shift) {
  if (segment.rows == 0) return {0, 0};
  const int64_t last = segment.key_position + segment.rows - 1;
  return {segment.key_position / kLeafTokens >> shift, (last / kLeafTokens >> shift) + 1};
}
static int64_t CountCuts(const AttentionItem& item, int shift) {
  int64_t cuts = 0;
  for (int64_t s = 0; s < item.n_segments; ++s) {
    const Subtrees subtrees = SubtreesOf(item.segments[s], shift);
    cuts += subtrees.end - subtrees.begin;
  }
  return cuts;
}

// The smallest shift with which no tile has more than kCutsMax cuts; -1 when nothing is to be cut:
// there are tiles enough, or no item has a second leaf.
static int ChooseShift(const AttentionArgs& args, int64_t threads) {
  if (threads == 1 || CountTiles(args) >= kTilesPerThread * threads) return -1;
  int64_t most = 0;
  int shift = 0;
  for (int64_t i = 0; i < args.n_items; ++i) {
    const AttentionItem& item = args.items[i];
    if (item.n_segments > kCutsMax) return -1;
    while (CountCuts(item, shift) > kCutsMax) ++shift;
    most = MaxOf(most, CountCuts(item, 0));
  }
  return most > 1 ? shift : -1;
}

// Partial results of the cuts of all tiles, kCutsMax each.
struct CutResults {
  float* memory;
  TilePartial At(const Tile& t, int64_t tile, int64_t cut) const {
    return PartialAt(t, memory + (tile * kCutsMax + cut) * t.mem.partial);
  }
};

static void RunCuts(const Tile& t, int64_t tile, int shift, CutResults results, int64_t thread,
                    int64_t threads, int64_t* task) {
  bool loaded = false;
  int64_t cut = 0;
  for (int64_t s = 0; s < t.item->n_segments; ++s) {
    const Subtrees subtrees = SubtreesOf(t.item->segments[s], shift);
    for (int64_t at = subtrees.begin; at < subtrees.end; ++at, ++cut) {
      if ((*task)++ % threads != thread) continue;
      if (!loaded) LoadQueries(t);
      loaded = true;
      SegmentLeaves(t, t.item->segments[s], at << shift, (at + 1) << shift,
                    results.At(t, tile, cut));
    }
  }
}

static void JoinCuts(const Tile& t, int64_t tile, int shift, CutResults results) {
  const TilePartial total = PartialAt(t, t.mem.total);
  const TilePartial next = PartialAt(t, t.mem.next);
  Clear(t, total);
  int64_t cut = 0;
  for (int64_t s = 0; s < t.item->n_segments; ++s) {
    const Subtrees subtrees = SubtreesOf(t.item->segments[s], shift);
    NodeStack nodes;
    for (int64_t at = subtrees.begin; at < subtrees.end; ++at, ++cut) {
      nodes.Push(t, at, results.At(t, tile, cut));
    }
    nodes.Join(t, next);
    MergeTile(t, total, next, total);
  }
  StoreResults(t, total);
}

static int64_t WorkOf(const AttentionArgs& args) {
  int64_t work = 0;
  for (int64_t i = 0; i < args.n_items; ++i) {
    int64_t keys = 0;
    for (int64_t s = 0; s < args.items[i].n_segments; ++s) keys += args.items[i].segments[s].rows;
    work += args.items[i].q.rows * args.q_heads * keys;
  }
  return work;
}

static void Attention(const Exec& exec, const AttentionArgs& args) {
  DenormalsOff denormals_off;
  const int64_t threads = exec.pool == nullptr ? 1 : exec.pool->threads();
  const TileDims dims(args.kv);
  const int64_t cut_bytes = threads == 1 ? 0 : CutBytes(threads, dims);
  const int64_t share = (exec.scratch_bytes - cut_bytes) / threads / 64 * 64;
  const auto memory = [&](int64_t thread) {
    return TileMemory(exec.scratch + cut_bytes + thread * share, dims);
  };
  const int64_t work = WorkOf(args);
  const int shift = ChooseShift(args, threads);
  if (shift < 0) {
    // Tiles go round the threads in turn: later tiles of a prompt see more keys.
    For(exec, threads, work, [&](int64_t thread) {
      ForTiles(args, memory(thread), [&](const Tile& t, int64_t tile) {
        if (tile % threads == thread) RunTile(t);
      });
    });
    return;
  }
  const CutResults results{reinterpret_cast<float*>(exec.scratch)};
  For(exec, threads, work, [&](int64_t thread) {
    int64_t task = 0;
    ForTiles(args, memory(thread), [&](const Tile& t, int64_t tile) {
      RunCuts(t, tile, shift, results, thread, threads, &task);
    });
  });
  For(exec, threads, work, [&](int64_t thread) {
    ForTiles(args, memory(thread), [&](const Tile& t, int64_t tile) {
      if (tile % threads == thread) JoinCuts(t, tile, shift, results);
    });
  });
}

static void MergePartials(const MergeArgs& args) {
  DenormalsOff denormals_off;
  for (int64_t r = 0; r < args.dst.out.rows; ++r) {
    for (int64_t h = 0; h < args.heads; ++h) {
      const int64_t i = r * args.heads + h;
      const int64_t at = h * args.head_dim;
      MergeOne(args.left.out.row(r) + at, args.left.lse[i], args.right.out.row(r) + at,
               args.right.lse[i], args.head_dim, args.dst.out.row(r) + at, args.dst.lse + i);
    }
  }
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_ATTENTION_INL_H_
