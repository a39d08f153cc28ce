#include "bench/answers_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "bench/determinism_requests.h"

namespace reprise::bench {
namespace {

std::vector<harness::WorkerResult> TwoAnswers() {
  std::vector<harness::WorkerResult> answers(2);
  answers[0].branches.resize(1);
  answers[0].branches[0].ids = {5, 0, 102'399};
  answers[0].branches[0].logprobs = {-0.1F, -0.0F, std::numeric_limits<float>::denorm_min()};
  answers[1].branches.resize(2);
  answers[1].branches[1].ids = {7};
  answers[1].branches[1].logprobs = {-3.25F};
  return answers;
}

int64_t Differences(const std::vector<harness::WorkerResult>& want,
                    const std::vector<harness::WorkerResult>& got) {
  EXPECT_EQ(want.size(), got.size());
  Mismatches all;
  for (size_t i = 0; i < std::min(want.size(), got.size()); ++i) all += Compare(want[i], got[i]);
  EXPECT_EQ(all.compared, 4);
  return all.tokens + all.logprob_bits;
}

TEST(AnswersFile, RecordsByKeyAndReadsBackEveryBit) {
  const std::string path = testing::TempDir() + "/answers.jsonl";
  std::filesystem::remove(path);
  const AnswersKey emulated{"aa", "01", "short"};
  const AnswersKey card{"bb", "01", "short"};
  auto file = AnswersFile::Load(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Find(emulated), nullptr);
  ASSERT_TRUE(file->Record(emulated, "emulated", TwoAnswers()).ok());
  std::vector<harness::WorkerResult> others = TwoAnswers();
  others[1].branches[1].ids[0] = 8;
  ASSERT_TRUE(file->Record(card, "a card", TwoAnswers()).ok());
  ASSERT_TRUE(file->Record(card, "a card", others).ok()) << "in place of the first";
  const auto again = AnswersFile::Load(path);
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_NE(again->Find(emulated), nullptr);
  ASSERT_NE(again->Find(card), nullptr);
  EXPECT_EQ(again->Find({"aa", "02", "short"}), nullptr);
  EXPECT_EQ(again->Find({"aa", "01", "long"}), nullptr);
  EXPECT_EQ(Differences(TwoAnswers(), *again->Find(emulated)), 0);
  EXPECT_EQ(Differences(TwoAnswers(), *again->Find(card)), 1);
}

TEST(AnswersFile, ADamagedLineIsNamed) {
  const std::string path = testing::TempDir() + "/damaged.jsonl";
  const char* const good = R"({"class": "aa", "answers": [[{"ids": [1], "logprob_bits": [2]}]]})";
  for (const char* const bad : {"", "{", "[]", R"({"answers": 3})", R"({"answers": [3]})",
                                R"({"answers": [[{"ids": [1], "logprob_bits": []}]]})",
                                R"({"answers": [[{"ids": ["x"], "logprob_bits": [2]}]]})",
                                R"({"answers": [[{"ids": [1], "logprob_bits": [-2]}]]})"}) {
    std::ofstream(path) << good << "\n" << bad << "\n";
    EXPECT_THAT(std::string(AnswersFile::Load(path).status().message()),
                testing::HasSubstr("damaged.jsonl, line 2: "))
        << bad;
  }
}

}  // namespace
}  // namespace reprise::bench
