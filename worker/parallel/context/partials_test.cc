// Partial results join by the tree over stripes, whatever comes first.
#include "worker/parallel/context/partials.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

namespace reprise::parallel {
namespace {

constexpr int64_t kHeads = 2;
constexpr int64_t kDim = 3;
constexpr int64_t kRows = 2;

PartialMemory OfStripe(PartialPool& pool, int64_t stripe) {
  PartialMemory memory = pool.Take(kRows);
  for (size_t i = 0; i < memory.size(); ++i) {
    memory[i] = std::sin(static_cast<float>(stripe * 31 + static_cast<int64_t>(i)));
  }
  return memory;
}

// By the definition: a node missing its right half is its left one.
PartialMemory FromTheRoot(PartialPool& pool, const StripeNode& node, int64_t last) {
  if (node.level == 0) return OfStripe(pool, node.index);
  PartialMemory left = FromTheRoot(pool, {node.level - 1, 2 * node.index}, last);
  const StripeNode right{node.level - 1, 2 * node.index + 1};
  if (right.first() > last) return left;
  PartialMemory other = FromTheRoot(pool, right, last);
  pool.Merge(left, other, kRows);
  pool.Give(std::move(other));
  return left;
}

TEST(StripePartials, JoinByTheTreeInWhateverOrderTheyCome) {
  const kernels::CpuOps& ops = kernels::Select(kernels::BestIsa());
  for (int64_t last = 0; last < 7; ++last) {
    std::vector<int64_t> order;
    for (int64_t stripe = 0; stripe <= last; ++stripe) order.push_back(stripe);
    StripeNode root;
    while (!IsRoot(root, last)) root = root.Parent();
    do {
      PartialPool pool(ops, kHeads, kDim);
      StripePartials partials(kRows, last);
      for (const int64_t stripe : order) {
        partials.Add(pool, {0, stripe}, OfStripe(pool, stripe));
      }
      const PartialMemory got = partials.RemoveRoot();
      const PartialMemory want = FromTheRoot(pool, root, last);
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want[i]))
            << last << " " << i;
      }
    } while (std::next_permutation(order.begin(), order.end()));
  }
}

TEST(StripePartials, OnlyWhatMissesItsOtherHalfIsKept) {
  const kernels::CpuOps& ops = kernels::Select(kernels::BestIsa());
  PartialPool pool(ops, kHeads, kDim);
  StripePartials partials(kRows, 1023);
  for (int64_t stripe = 0; stripe < 1024; ++stripe) {
    partials.Add(pool, {0, stripe}, OfStripe(pool, stripe));
  }
  // One a level, and the one that comes.
  EXPECT_EQ(pool.peak_bytes(), 11 * kRows * pool.row_floats() * int64_t{sizeof(float)});
}

}  // namespace
}  // namespace reprise::parallel
