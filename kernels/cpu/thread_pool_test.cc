#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <immintrin.h>

#include <numeric>

namespace reprise::kernels {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int64_t n : {0, 1, 2, 7, 1000}) {
      std::vector<int> hits(static_cast<size_t>(n));
      pool.ParallelFor(n, [&](int64_t i) { ++hits[i]; });
      EXPECT_EQ(std::accumulate(hits.begin(), hits.end(), 0), n);
      for (int h : hits) EXPECT_EQ(h, 1);
    }
  }
}

TEST(ThreadPool, OneJobFollowsAnotherWithoutLoss) {
  ThreadPool pool(3);
  int64_t sums[3] = {};
  for (int64_t job = 0; job < 20'000; ++job) {
    pool.ParallelFor(3, [&](int64_t i) { sums[i] += job; });
  }
  for (int64_t sum : sums) EXPECT_EQ(sum, 20'000LL * 19'999 / 2);
}

TEST(ThreadPool, TheSplitIsAFunctionOfTheSizesAlone) {
  ThreadPool pool(4);
  std::thread::id first[10];
  std::thread::id second[10];
  pool.ParallelFor(10, [&](int64_t i) { first[i] = std::this_thread::get_id(); });
  pool.ParallelFor(10, [&](int64_t i) { second[i] = std::this_thread::get_id(); });
  for (int i = 0; i < 10; ++i) EXPECT_EQ(first[i], second[i]);
  EXPECT_EQ(first[0], std::this_thread::get_id());
}

TEST(ThreadPool, TasksFlushDenormalsAndTheCallerKeepsItsMode) {
  ThreadPool pool(2);
  const unsigned mode = _mm_getcsr();
  unsigned in_task[2] = {};
  pool.ParallelFor(2, [&](int64_t i) { in_task[i] = _mm_getcsr(); });
  for (unsigned m : in_task) EXPECT_EQ(m & 0x8040u, 0x8040u);
  EXPECT_EQ(_mm_getcsr(), mode);
}

}  // namespace
}  // namespace reprise::kernels
