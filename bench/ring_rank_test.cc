// A model on ranks that are processes of their own, over UCX: one rank's bits, the formula's bytes,
// and no rank left waiting for one that was killed.
#include <gtest/gtest.h>
#include <signal.h>

#include "bench/ring_process.h"
#include "kernels/ops.h"
#include "worker/model/attention_block.h"
#include "worker/model/test_models.h"

namespace reprise::bench {
namespace {

constexpr const char* kProgram = "bench/ring_rank";

worker::ModelConfig LongConfig(const std::string& preset) {
  worker::ModelConfig config = *worker::PresetConfig(preset);
  config.context = 131'072;
  return config;
}

std::vector<RingAnswer> AnswersOf(const RingRun& run, int ranks) {
  auto processes = RingProcess::StartAll(run, ranks);
  EXPECT_TRUE(processes.ok()) << processes.status();
  std::vector<RingAnswer> answers;
  for (const auto& process : *processes) {
    auto answer = process->Finish();
    EXPECT_TRUE(answer.ok()) << answer.status();
    answers.push_back(answer.ok() ? *answer : RingAnswer());
  }
  return answers;
}

TEST(RingRank, ProcessesHaveOneRanksBitsAndSendTheFormulasBytes) {
  for (const std::string preset : {"tiny-gqa", "tiny-deepseek-v2"}) {
    const worker::ModelConfig config = LongConfig(preset);
    const RingRun run{.program = kProgram, .model = worker::TestModel(config), .tokens = 6144};
    const std::vector<RingAnswer> alone = AnswersOf(run, 1);
    const std::vector<RingAnswer> ranks = AnswersOf(run, 3);
    std::map<int64_t, RingLeaf> leaves;
    const kernels::PagedKv kv = worker::KvShape(config);
    const int64_t share = 6144 / 3 * SegmentBytes(kv) / kv.block_tokens * config.layers;
    for (const RingAnswer& rank : ranks) {
      leaves.insert(rank.leaves.begin(), rank.leaves.end());
      EXPECT_EQ(rank.counts.at("cache_bytes"), share);
      EXPECT_EQ(rank.counts.at("sent_bytes"), 2 * share) << "to each of two";
    }
    EXPECT_EQ(leaves.size(), 12U);
    EXPECT_EQ(leaves, alone[0].leaves) << preset;
  }
}

// Their deadline is far: the death of one ends the others.
TEST(RingRank, AKilledRankEndsTheOthers) {
  const RingRun run{
      .program = kProgram, .model = worker::TestModel(LongConfig("tiny-gqa")), .tokens = 131'072};
  auto processes = RingProcess::StartAll(run, 3);
  ASSERT_TRUE(processes.ok()) << processes.status();
  for (const auto& process : *processes) ASSERT_TRUE(process->AwaitJoined().ok());
  ASSERT_TRUE((*processes)[1]->process().Kill(SIGKILL).ok());
  for (const auto& process : *processes) EXPECT_FALSE(process->Finish().ok());
}

}  // namespace
}  // namespace reprise::bench
