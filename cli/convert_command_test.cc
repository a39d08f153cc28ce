#include "cli/convert_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "cli/model_commands.h"
#include "common/test_data.h"

namespace reprise::cli {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class ConvertCommand : public testing::Test {
 protected:
  ConvertCommand() {
    std::filesystem::remove_all(to_);
    std::ofstream(text_) << "Once upon a time there was a king, who had a daughter. One day the "
                            "king said to her, \"My child, go into the wood, and bring me the "
                            "water of life.\" So she went out into the world, and when she had "
                            "gone a long way she came to a little house, in which there lived an "
                            "old woman. \"Good day, mother,\" said the princess.\n<|endoftext|>\n"
                            "There was once a poor man who had three sons, and the youngest of "
                            "them was called Hans. They lived by the side of a great forest, and "
                            "every morning they went out together to cut wood, which they sold in "
                            "the town. One evening the eldest did not come home again.\n";
  }

  std::string Run(Args args) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    exit_ = RunConvert(args);
    return testing::internal::GetCapturedStdout() + testing::internal::GetCapturedStderr();
  }

  const std::string from_ = ProjectFile("models/demo");
  const std::string to_ = testing::TempDir() + "/convert_command";
  const std::string text_ = testing::TempDir() + "/convert_command.txt";
  int exit_ = 0;
};

TEST_F(ConvertCommand, SaysWhatAFullSizeCosts) {
  const std::string out = Run({"--to=mla", "--eval", text_, from_, to_});
  EXPECT_EQ(exit_, 0) << out;
  EXPECT_THAT(out, AllOf(HasSubstr("wrote " + to_), HasSubstr("bits per byte")));
  const auto perplexity_of = [&](const std::string& folder) {
    const size_t end = out.find(" 1536  " + folder);
    EXPECT_NE(end, std::string::npos) << out;
    return std::stod(out.substr(end - 20, 20));
  };
  EXPECT_NEAR(perplexity_of(to_) / perplexity_of(from_), 1, 2e-3) << "bf16 rounds a hundredfold";
}

TEST_F(ConvertCommand, SaysWhatASmallerCacheCosts) {
  const std::string out = Run({"--to=mla", "--rope-dims=16", "--rank=48", "--calibration", text_,
                               "--eval", text_, "--tokens-max=140", from_, to_});
  EXPECT_EQ(exit_, 0) << out;
  EXPECT_THAT(out, AllOf(HasSubstr("140 tokens of"), HasSubstr(" 768  " + to_)));
}

TEST_F(ConvertCommand, PoolsHeads) {
  const std::string out = Run({"--to", "mqa", "--eval", text_, from_, to_});
  EXPECT_EQ(exit_, 0) << out;
  EXPECT_THAT(out, HasSubstr(" 768  " + to_));
}

TEST_F(ConvertCommand, CheckScoresAText) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(RunCheck({"--eval", text_, from_}), 0);
  EXPECT_THAT(testing::internal::GetCapturedStdout(), HasSubstr("bits per byte"));
}

TEST_F(ConvertCommand, RefusesFlagsThatNothingReads) {
  EXPECT_THAT(Run({from_, to_}), HasSubstr("--to is \"\", not mla, gqa or mqa"));
  EXPECT_THAT(Run({"--to=mla", from_}), HasSubstr("the one to write"));
  EXPECT_THAT(Run({"--to=mqa", "--rank=4", from_, to_}), HasSubstr("are of --to mla, not mqa"));
  EXPECT_THAT(Run({"--to=mla", "--kv-heads=2", from_, to_}), HasSubstr("of --to gqa, not mla"));
  EXPECT_THAT(Run({"--to=gqa", from_, to_}), HasSubstr("gqa needs --kv-heads"));
  EXPECT_THAT(Run({"--to=mla", "--rank=4", "--calibration=/none", from_, to_}), HasSubstr("/none"));
  EXPECT_NE(exit_, 0);
  EXPECT_FALSE(std::filesystem::exists(to_));
}

}  // namespace
}  // namespace reprise::cli
