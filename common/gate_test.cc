#include "common/gate.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace reprise {
namespace {

TEST(Gate, CountsWhoIsInside) {
  Gate gate;
  {
    auto first = gate.Enter();
    auto second = gate.Enter();
    ASSERT_TRUE(first && second);
    EXPECT_EQ(gate.inside(), 2);
    Gate::Holder moved = std::move(*first);
    first.reset();
    EXPECT_EQ(gate.inside(), 2);
    moved = std::move(*second);
    EXPECT_EQ(gate.inside(), 1);
  }
  EXPECT_EQ(gate.inside(), 0);
}

TEST(Gate, RefusesOnceClosed) {
  Gate gate;
  gate.Close();
  EXPECT_TRUE(gate.closed());
  EXPECT_FALSE(gate.Enter().has_value());
  gate.Close();
}

TEST(Gate, ClosingWaitsForThoseInside) {
  Gate gate;
  auto holder = gate.Enter();
  std::atomic<bool> left = false;
  std::atomic<bool> left_at_return = false;
  std::thread closer([&] {
    gate.Close();
    left_at_return = left.load();
  });
  while (!gate.closed()) std::this_thread::yield();
  EXPECT_FALSE(gate.Enter().has_value());
  left = true;
  holder.reset();
  closer.join();
  EXPECT_TRUE(left_at_return);
}

TEST(Gate, SurvivesEntrantsRacingWithClose) {
  for (int round = 0; round < 200; ++round) {
    Gate gate;
    std::atomic<int> working = 0;
    std::atomic<bool> closed = false;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        while (auto holder = gate.Enter()) {
          ++working;
          EXPECT_FALSE(closed);
          --working;
        }
      });
    }
    gate.Close();
    closed = true;
    EXPECT_EQ(working, 0);
    for (std::thread& thread : threads) thread.join();
  }
}

}  // namespace
}  // namespace reprise
