#include "worker/engine/core/swap_plan.h"

#include <gtest/gtest.h>

#include "worker/engine/core/swap_slots.h"

namespace reprise::worker {
namespace {

// 10 pages of 1 MB over 1 GB/s: 10 ms; 640 rows at 2,000 a second: 320 ms.
SwapOutInput OutInput() {
  return {.slots_total = 100,
          .slots_free = 10,
          .slots_wanted = 10,
          .pages = 10,
          .rows = 640,
          .page_bytes = 1e6,
          .swap_bytes_per_s = 1e9,
          .prefill_rows_per_s = 2'000};
}

TEST(SwapOut, WhatComesBackFasterThanItIsComputedIsCopiedOut) {
  EXPECT_EQ(PlanSwapOut(OutInput()), SwapVerdict::kYes);
  SwapOutInput slow = OutInput();
  slow.swap_bytes_per_s = 3e7;  // 333 ms
  EXPECT_EQ(PlanSwapOut(slow), SwapVerdict::kSlow);
  slow.swap_bytes_per_s = 0;
  EXPECT_EQ(PlanSwapOut(slow), SwapVerdict::kSlow);
}

TEST(SwapOut, NothingIsOrderedWithoutRoomForAllOfIt) {
  SwapOutInput full = OutInput();
  full.slots_free = 9;
  EXPECT_EQ(PlanSwapOut(full), SwapVerdict::kSlots);
  full.slots_total = 0;
  EXPECT_EQ(PlanSwapOut(full), SwapVerdict::kOff);
}

// 4 microbatches of 4 sequences and 40 pages; 44 MB a turn over 1 GB/s: 44 ms.
RotationInput Rotation() {
  return {.turns = {4, Microbatch{40, 4}},
          .pool_pages = 80,
          .slots_total = 160,
          .page_bytes = 1e6,
          .swap_bytes_per_s = 1e9,
          .step_s = 0.045};
}

TEST(Rotation, RunsWhenTwoFitAndTheLinkHidesOne) {
  EXPECT_EQ(PlanRotation(Rotation()), SwapVerdict::kYes);
}

TEST(Rotation, IsRefusedWithTheReason) {
  RotationInput in = Rotation();
  in.step_s = 0.043;
  EXPECT_EQ(PlanRotation(in), SwapVerdict::kSlow);
  in.step_s = 0;
  EXPECT_EQ(PlanRotation(in), SwapVerdict::kSlow);
  in = Rotation();
  in.pool_pages = 79;
  EXPECT_EQ(PlanRotation(in), SwapVerdict::kRoom);
  in = Rotation();
  in.slots_total = 159;
  EXPECT_EQ(PlanRotation(in), SwapVerdict::kSlots);
  in.turns.resize(1);
  EXPECT_EQ(PlanRotation(in), SwapVerdict::kOff);
}

TEST(SwapSlots, HostMemoryComesFirstAndSharedSlotsLast) {
  SwapSlots slots(2, 2);
  EXPECT_EQ(slots.Allocate(0), 0);
  EXPECT_EQ(slots.Allocate(0), 1);
  EXPECT_EQ(slots.Allocate(0), 2);
  EXPECT_EQ(slots.host_used(), 2);
  EXPECT_EQ(slots.disk_used(), 1);
  slots.Ref(1);
  slots.Unref(1);
  EXPECT_EQ(slots.Free(0), 1);
  slots.Unref(1);
  EXPECT_EQ(slots.Allocate(0), 1);
}

TEST(SwapSlots, ADiskThatFailedIsLeftAloneForAWhile) {
  SwapSlots slots(1, 1);
  slots.PauseDisk(100);
  EXPECT_EQ(slots.Free(99), 1);
  EXPECT_EQ(slots.Allocate(99), 0);
  EXPECT_EQ(slots.Allocate(99), std::nullopt);
  EXPECT_EQ(slots.Allocate(100), 1);
}

}  // namespace
}  // namespace reprise::worker
