// Sequences leave the pool for slots outside it and come back: the tokens are the same ones.
#include "worker/engine/core/core_fixture.h"

namespace reprise::worker {
namespace {

class SwapTest : public CoreTest {
 protected:
  static constexpr int kPrompt = 8;

  // Steps too short to measure the processor by, so that copies are worth it.
  CoreSettings Swapping(const std::string& name, int32_t host_slots, int32_t disk_slots) {
    CoreSettings settings = cluster_.Settings(name);
    settings.chunk_tokens = 4;
    settings.prefill_tokens_per_s = 1;
    settings.swap_bytes_per_s = 1e15;
    settings.swap_host_slots = host_slots;
    settings.swap_disk_slots = disk_slots;
    settings.running_max = 16;
    return settings;
  }
  // So many requests at a time, each of `max_tokens`; all are served well.
  std::vector<Submit> Serve(const std::string& worker, int requests, int max_tokens, int n = 1) {
    std::vector<Submit> sent;
    for (int i = 0; i < requests; ++i) {
      Submit submit = Request(absl::StrCat("r", i), kPrompt, max_tokens, i);
      submit.sampling.n = n;
      cluster_.Send(worker, submit);
      sent.push_back(submit);
    }
    cluster_.RunToEnd();
    for (const Submit& submit : sent) ExpectServed(submit);
    return sent;
  }
  const CoreStats& stats() { return cluster_.core("a").stats(); }
};

TEST_F(SwapTest, APreemptedSequenceComesBackWithoutComputingAnythingAgain) {
  for (const bool swaps : {false, true}) {
    for (const TimeNs delay : {0, 30}) {
      SCOPED_TRACE(absl::StrCat(swaps ? "swap" : "no swap", ", delay ", delay));
      cluster_ = FakeCluster(5, delay);
      CoreSettings settings = Swapping("a", swaps ? 200 : 0, 0);
      settings.pages = 20;
      cluster_.AddWorker(settings);
      Serve("a", 6, 48);
      EXPECT_GT(stats().preemptions, 0u);
      EXPECT_EQ(stats().swap_ins > 0, swaps);
      if (swaps) {
        EXPECT_EQ(stats().prompt_tokens, 6u * kPrompt);
        EXPECT_EQ(stats().swap_lost, 0u);
      } else {
        EXPECT_GT(stats().prompt_tokens, 6u * kPrompt);
      }
    }
  }
}

TEST_F(SwapTest, DiskTakesWhatHostMemoryCannot) {
  CoreSettings settings = Swapping("a", 3, 200);
  settings.pages = 20;
  cluster_.AddWorker(settings);
  int32_t disk = 0;
  int32_t sequences = 0;
  cluster_.on_emit = [&](const Emit&) {
    disk = std::max(disk, cluster_.core("a").swap_use().disk_slots);
    sequences = std::max(sequences, cluster_.core("a").swap_use().sequences_on_disk);
  };
  Serve("a", 6, 48);
  EXPECT_GT(disk, 0);
  EXPECT_GT(sequences, 0);
  EXPECT_EQ(stats().prompt_tokens, 6u * kPrompt);
}

TEST_F(SwapTest, EveryBranchComesBackWithItsOwnRows) {
  CoreSettings settings = Swapping("a", 300, 0);
  settings.pages = 40;
  cluster_.AddWorker(settings);
  Serve("a", 4, 30, 3);
  EXPECT_GT(stats().swap_ins, 0u);
  EXPECT_EQ(stats().prompt_tokens, 4u * kPrompt);
}

TEST_F(SwapTest, WhenEverySlotIsTakenRowsAreComputedAgain) {
  CoreSettings settings = Swapping("a", 4, 0);
  settings.pages = 20;
  cluster_.AddWorker(settings);
  Serve("a", 6, 48);
  EXPECT_GT(stats().swap_refused_slots, 0u);
  EXPECT_GT(stats().prompt_tokens, 6u * kPrompt);
}

TEST_F(SwapTest, WhatIsComputedFasterIsNotCopied) {
  CoreSettings settings = Swapping("a", 200, 0);
  settings.pages = 20;
  settings.swap_bytes_per_s = 1;
  settings.prefill_tokens_per_s = 1e9;
  cluster_.AddWorker(settings);
  Serve("a", 6, 48);
  EXPECT_GT(stats().swap_refused_slow, 0u);
  EXPECT_EQ(stats().swapped_out_bytes, 0u);
}

TEST_F(SwapTest, ADamagedCopyIsComputedAgainNeverUsed) {
  cluster_.faults.lose_copy = 0.4;
  CoreSettings settings = Swapping("a", 200, 0);
  settings.pages = 20;
  cluster_.AddWorker(settings);
  Serve("a", 6, 48);
  EXPECT_GT(stats().swap_lost, 0u);
  EXPECT_GT(stats().prompt_tokens, 6u * kPrompt);
}

TEST_F(SwapTest, ACopyThatCouldNotBeWrittenIsAMiss) {
  cluster_.faults.fail_copy = 1;
  CoreSettings settings = Swapping("a", 10, 200);
  settings.pages = 20;
  cluster_.AddWorker(settings);
  Serve("a", 6, 48);
  EXPECT_GT(stats().swap_failures, 0u);
  EXPECT_EQ(stats().swapped_in_bytes, 0u);
}

TEST_F(SwapTest, PagesAreInQuarantineUntilTheyAreCopied) {
  CoreSettings settings = Swapping("a", 200, 0);
  settings.pages = 20;
  cluster_.AddWorker(settings);
  Record();
  std::map<PageId, int> copying;
  bool reused = false;
  cluster_.on_command = [&](const Command& command) {
    if (const auto* out = std::get_if<SwapOut>(&command)) {
      // Blocks of fresh sequences have no other holder: they are not free.
      for (const SwapItem& item : out->items) ++copying[item.page];
      reused |=
          cluster_.core("a").pages().quarantined == 0 && cluster_.core("a").pages().cached == 0;
    }
  };
  Serve("a", 6, 48);
  EXPECT_FALSE(copying.empty());
  EXPECT_FALSE(reused);
}

TEST_F(SwapTest, ACancelAtAnyMomentLeavesNoSlotAndNoPageBehind) {
  for (int cut = 0; cut < 150; cut += 3) {
    SCOPED_TRACE(cut);
    cluster_ = FakeCluster(static_cast<uint64_t>(cut) + 1, 10);
    CoreSettings settings = Swapping("a", 8, 200);
    settings.pages = 20;
    settings.microbatches = 1 + cut % 2 * 3;
    cluster_.AddWorker(settings);
    std::vector<Submit> sent;
    for (int i = 0; i < 6; ++i) {
      sent.push_back(Request(absl::StrCat("r", i), kPrompt, 48, i));
      cluster_.Send("a", sent.back());
    }
    for (int event = 0; event < cut; ++event) cluster_.Next();
    for (const Submit& submit : sent) cluster_.Send("a", Cancel{submit.key, {}});
    cluster_.RunToEnd();
    ASSERT_EQ(cluster_.trouble, "");
    ASSERT_EQ(cluster_.HeldPages(), 0);
    ASSERT_TRUE(cluster_.core("a").idle());
  }
}

// 8 sequences of 8 pages at their longest; 4 microbatches; the pool holds 4 sequences.
class RotationTest : public SwapTest {
 protected:
  static constexpr int kTokens = 24;
  CoreSettings Rotating(int32_t slots) {
    CoreSettings settings = Swapping("a", slots, 0);
    settings.pages = 32;
    settings.microbatches = 4;
    return settings;
  }
};

TEST_F(RotationTest, MicrobatchesOfDoubleSizeTakeHalfTheSteps) {
  std::map<bool, uint64_t> steps;
  for (const bool swaps : {false, true}) {
    SCOPED_TRACE(swaps);
    cluster_ = FakeCluster();
    cluster_.step_ns = 1'000;
    cluster_.swap_ns = 10;
    cluster_.AddWorker(Rotating(swaps ? 100 : 0));
    Serve("a", 8, kTokens);
    steps[swaps] = stats().steps;
    EXPECT_EQ(stats().turns_given > 0, swaps);
    if (swaps) {
      EXPECT_EQ(stats().prompt_tokens, 8u * kPrompt);
    }
  }
  EXPECT_LT(static_cast<double>(steps[true]), 0.7 * static_cast<double>(steps[false]));
}

TEST_F(RotationTest, RequestsAreAdmittedBeyondThePool) {
  cluster_.step_ns = 1'000;
  CoreSettings settings = Rotating(200);
  cluster_.AddWorker(settings);
  int32_t running = 0;
  cluster_.on_emit = [&](const Emit&) {
    running = std::max(running, cluster_.core("a").running());
  };
  Serve("a", 16, 8);  // 4 pages each
  EXPECT_GT(stats().rotations, 0u);
  EXPECT_EQ(running, 16);
}

// What a turn needs is there when the turn comes: the copies hide behind the steps.
TEST_F(RotationTest, SequencesAreBackAheadOfTheirTurn) {
  cluster_.step_ns = 10'000;
  cluster_.swap_ns = 100;
  cluster_.AddWorker(Rotating(100));
  Serve("a", 8, kTokens);
  ASSERT_GT(stats().turns_given, 8u);
  const double busy = static_cast<double>(stats().steps) * 10'001;
  EXPECT_LT(static_cast<double>(cluster_.now()), 1.05 * busy);
}

TEST_F(RotationTest, IsRefusedWhereTheLinkCannotHideIt) {
  cluster_.step_ns = 1'000;
  CoreSettings settings = Rotating(100);
  settings.swap_bytes_per_s = 1e6;
  cluster_.swap_ns = 64'000;  // a page at that rate
  cluster_.AddWorker(settings);
  Serve("a", 8, kTokens);
  EXPECT_EQ(stats().rotations, 0u);
  EXPECT_EQ(stats().turns_given, 0u);
  EXPECT_GT(stats().swap_refused_slow, 0u);
}

TEST_F(RotationTest, IsRefusedWhereTwoMicrobatchesDoNotFit) {
  cluster_.step_ns = 1'000;
  CoreSettings settings = Rotating(100);
  settings.pages = 15;
  cluster_.AddWorker(settings);
  Serve("a", 8, kTokens);
  EXPECT_EQ(stats().rotations, 0u);
  EXPECT_GT(stats().swap_refused_room, 0u);
}

TEST_F(RotationTest, IsRefusedWithoutASlotForEveryPage) {
  cluster_.step_ns = 1'000;
  cluster_.AddWorker(Rotating(30));
  Serve("a", 8, kTokens);
  EXPECT_EQ(stats().rotations, 0u);
  EXPECT_GT(stats().swap_refused_slots, 0u);
}

TEST_F(RotationTest, DamageAndBranchesChangeNoToken) {
  for (const int n : {1, 2}) {
    SCOPED_TRACE(n);
    cluster_ = FakeCluster(7, 20);
    cluster_.step_ns = 1'000;
    cluster_.faults.lose_copy = 0.2;
    CoreSettings settings = Rotating(200);
    settings.pages = 34 * n;
    cluster_.AddWorker(settings);
    Serve("a", 8, kTokens, n);
    EXPECT_GT(stats().turns_given, 0u);
    EXPECT_GT(stats().swap_lost, 0u);
  }
}

}  // namespace
}  // namespace reprise::worker
