// Partial results join by the tree over stripes, whatever comes first.
#include "worker/parallel/context/partials.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "worker/parallel/context/host_context_compute.h"

namespace reprise::parallel {
namespace {

constexpr int64_t kHeads = 2;
constexpr int64_t kDim = 3;
constexpr int64_t kRows = 2;

Partial OfStripe(PartialPool& pool, int64_t stripe) {
  const Partial partial = *pool.Take(kRows);
  for (int64_t i = 0; i < kRows * pool.row_floats(); ++i) {
    partial.out[i] = std::sin(static_cast<float>(stripe * 31 + i));
  }
  return partial;
}

// By the definition: a node missing its right half is its left one.
Partial FromTheRoot(PartialPool& pool, const StripeNode& node, int64_t last) {
  if (node.level == 0) return OfStripe(pool, node.index);
  const Partial left = FromTheRoot(pool, {node.level - 1, 2 * node.index}, last);
  const StripeNode right{node.level - 1, 2 * node.index + 1};
  if (right.first() > last) return left;
  const Partial other = FromTheRoot(pool, right, last);
  EXPECT_TRUE(pool.Merge(left, other).ok());
  pool.Give(other);
  return left;
}

class StripePartialsTest : public testing::Test {
 protected:
  StripePartialsTest() : compute_(kernels::Select(kernels::BestIsa())) {
    compute_.SetCall({}, kHeads, kDim, nullptr);
  }
  HostContextCompute compute_;
};

TEST_F(StripePartialsTest, JoinByTheTreeInWhateverOrderTheyCome) {
  for (int64_t last = 0; last < 7; ++last) {
    std::vector<int64_t> order;
    for (int64_t stripe = 0; stripe <= last; ++stripe) order.push_back(stripe);
    StripeNode root;
    while (!IsRoot(root, last)) root = root.Parent();
    do {
      PartialPool pool(compute_, kHeads, kDim);
      StripePartials partials(last);
      for (const int64_t stripe : order) {
        ASSERT_TRUE(partials.Add(pool, {0, stripe}, OfStripe(pool, stripe)).ok());
      }
      const Partial got = partials.RemoveRoot();
      const Partial want = FromTheRoot(pool, root, last);
      for (int64_t i = 0; i < kRows * pool.row_floats(); ++i) {
        ASSERT_EQ(std::bit_cast<uint32_t>(got.out[i]), std::bit_cast<uint32_t>(want.out[i]))
            << last << " " << i;
      }
      pool.Give(got);
      pool.Give(want);
    } while (std::next_permutation(order.begin(), order.end()));
  }
}

TEST_F(StripePartialsTest, OnlyWhatMissesItsOtherHalfIsKept) {
  PartialPool pool(compute_, kHeads, kDim);
  StripePartials partials(1023);
  for (int64_t stripe = 0; stripe < 1024; ++stripe) {
    ASSERT_TRUE(partials.Add(pool, {0, stripe}, OfStripe(pool, stripe)).ok());
  }
  // One a level, and the one that comes.
  EXPECT_EQ(pool.peak_bytes(), 11 * kRows * pool.row_floats() * int64_t{sizeof(float)});
}

}  // namespace
}  // namespace reprise::parallel
