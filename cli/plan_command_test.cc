#include "cli/plan_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "common/json.h"
#include "common/test_data.h"

namespace reprise::cli {
namespace {

using testing::HasSubstr;

struct Output {
  int exit = 0;
  std::string out;
  std::string err;
};

Output Plan(const Args& args) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Output output;
  output.exit = RunPlan(args);
  output.out = testing::internal::GetCapturedStdout();
  output.err = testing::internal::GetCapturedStderr();
  return output;
}

JsonDocument PlanJson(Args args) {
  args.push_back("--json");
  const Output output = Plan(args);
  EXPECT_EQ(output.exit, 0) << output.err;
  auto doc = ParseJson(output.out);
  EXPECT_TRUE(doc.ok()) << doc.status();
  return std::move(doc).value();
}

std::map<std::string, int64_t> KvBytesByLayout(const JsonDocument& doc) {
  std::map<std::string, int64_t> bytes;
  for (const JsonValue& row : doc["layouts"].GetArray()) {
    bytes[row["layout"].GetString()] = row["kv_bytes"].GetInt64();
  }
  return bytes;
}

TEST(PlanCommand, PublishedTableOfOpt175b) {
  auto bytes = KvBytesByLayout(PlanJson({"--preset=opt-175b"}));
  EXPECT_EQ(bytes["MHA"], int64_t{144} << 30);
  EXPECT_EQ(bytes["GQA"], int64_t{36} << 30);
  EXPECT_EQ(bytes["MQA"], int64_t{3} << 29);
  EXPECT_EQ(bytes["MLKV"], int64_t{3} << 27);
  const Output text = Plan({"--preset=opt-175b"});
  EXPECT_THAT(text.out, testing::ContainsRegex("MHA +96 heads, 96 layers +4718592 +144 "));
}

TEST(PlanCommand, EightSequencesOfLlama70b) {
  auto bytes = KvBytesByLayout(PlanJson({"--preset=llama-3-70b", "--token-slots=8000"}));
  EXPECT_EQ(bytes["MHA"], 20'971'520'000);
  EXPECT_EQ(bytes["own"], 2'621'440'000);
}

TEST(PlanCommand, ReadsAModelFolder) {
  const std::string folder = ProjectFile("models/demo");
  const JsonDocument doc = PlanJson({"--model=" + folder, "--token-slots=1"});
  EXPECT_THAT(doc["model"].GetString(), HasSubstr("demo"));
  EXPECT_GT(KvBytesByLayout(doc)["own"], 0);
  const Output missing = Plan({"--model=/nowhere"});
  EXPECT_EQ(missing.exit, 1);
  EXPECT_THAT(missing.err, HasSubstr("/nowhere/config.json"));
}

TEST(PlanCommand, FlagsChangeTheShape) {
  const JsonDocument doc = PlanJson({"--preset=llama-3-8b", "--kv-layers=16", "--kv-heads=4",
                                     "--element-bytes=1", "--token-slots=1"});
  EXPECT_EQ(KvBytesByLayout(doc)["own"], 16 * 2 * 4 * 128);
  const JsonDocument latent = PlanJson({"--preset=deepseek-v3", "--latent=0", "--token-slots=1"});
  EXPECT_EQ(KvBytesByLayout(latent)["own"], int64_t{61} * 2 * 128 * 128 * 2);
}

TEST(PlanCommand, SplitAndSwapVerdicts) {
  const JsonDocument doc = PlanJson({"--preset=llama-3-8b", "--machines=6", "--prompt-ms=2500",
                                     "--token-ms=50", "--new-tokens=100", "--machine-bytes=80GiB"});
  EXPECT_EQ(doc["split"]["prompt_machines"].GetInt() + doc["split"]["token_machines"].GetInt(), 6);
  EXPECT_GT(doc["simulated"]["gain"].GetDouble(), 2);
  EXPECT_FALSE(doc["swap"].HasMember("refused"));
  EXPECT_EQ(doc["swap"]["speedup"].GetDouble(), 2);

  const JsonDocument slow = PlanJson({"--preset=opt-66b", "--machine-bytes=40GiB"});
  EXPECT_THAT(slow["split"]["refused"].GetString(), HasSubstr("machines"));
  EXPECT_THAT(slow["swap"]["refused"].GetString(), HasSubstr("the link hides contexts up to"));
}

TEST(PlanCommand, RefusesValuesOutOfRangeByName) {
  const Output machines = Plan({"--machines=0"});
  EXPECT_EQ(machines.exit, 2);
  EXPECT_THAT(machines.err, HasSubstr("machines"));
  EXPECT_EQ(Plan({"--preset=gpt-9"}).exit, 2);
  const Output heads = Plan({"--preset=llama-3-8b", "--kv-heads=64"});
  EXPECT_EQ(heads.exit, 1);
  EXPECT_THAT(heads.err, HasSubstr("kv_heads is 64, the range is 1 to 32"));
  EXPECT_EQ(Plan({"extra"}).exit, 2);
}

TEST(PlanCommand, AnEndlessSimulationIsRefusedWithItsSize) {
  const JsonDocument doc =
      PlanJson({"--preset=llama-3-8b", "--machines=1000", "--new-tokens=100000"});
  EXPECT_THAT(doc["simulated"]["refused"].GetString(), HasSubstr("the limit is 3e+07"));
}

TEST(PlanCommand, HelpHasAnExample) {
  const Output help = Plan({"--help"});
  EXPECT_EQ(help.exit, 0);
  EXPECT_THAT(help.out, HasSubstr("Example: reprise plan --preset=opt-66b"));
  EXPECT_THAT(help.out, HasSubstr("--stream-overhead"));
}

}  // namespace
}  // namespace reprise::cli
