#include "common/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/json.h"

namespace reprise {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Options {
  std::string listen = "127.0.0.1:0";
  std::string codec = "bf16";
  std::string token;
  std::vector<std::string> stores = {"default"};
  bool resume = true;
  int32_t threads = 2;
  int64_t seed = 0;
  double top_p = 0.5;
  int64_t deadline_ms = 1500;
  int64_t arena_bytes = int64_t{64} << 20;
};

class FlagsTest : public testing::Test {
 protected:
  FlagsTest() {
    flags.Add("listen", &options.listen, "address to listen on");
    flags.AddChoice("codec", &options.codec, {"bf16", "fp8"}, "element codec");
    flags.AddSecret("token", &options.token, "access token");
    flags.Add("store", &options.stores, "a store's address");
    flags.Add("resume", &options.resume, "keep streams resumable");
    flags.AddRange("threads", &options.threads, 1, 64, "compute threads");
    flags.Add("seed", &options.seed, "random seed");
    flags.AddRange("top-p", &options.top_p, 0.0, 1.0, "nucleus");
    flags.AddDurationMs("deadline", &options.deadline_ms, 1, 3'600'000, "deadline of a request");
    flags.AddBytes("arena", &options.arena_bytes, 4096, int64_t{1} << 40, "memory for blocks");
  }

  std::string Error(const std::vector<std::string>& args) {
    const auto parsed = flags.Parse(args);
    return parsed.ok() ? "OK" : std::string(parsed.status().message());
  }

  Options options;
  FlagSet flags{"reprise worker", "runs a model", "MODEL"};
};

TEST_F(FlagsTest, ReadsEveryTypeInBothForms) {
  const auto positional = flags.Parse({"models/demo",
                                       "--listen=[::1]:5",
                                       "--codec",
                                       "fp8",
                                       "--token",
                                       "--x",
                                       "--store",
                                       "a",
                                       "--store=b",
                                       "--no-resume",
                                       "--threads=64",
                                       "--seed",
                                       "-9223372036854775808",
                                       "--top-p=1",
                                       "--deadline",
                                       "2s",
                                       "--arena=2GiB",
                                       "more",
                                       "--",
                                       "--not-a-flag"});
  ASSERT_TRUE(positional.ok()) << positional.status();
  EXPECT_THAT(*positional, ElementsAre("models/demo", "more", "--not-a-flag"));
  EXPECT_EQ(options.listen, "[::1]:5");
  EXPECT_EQ(options.codec, "fp8");
  EXPECT_EQ(options.token, "--x");
  EXPECT_THAT(options.stores, ElementsAre("a", "b"));
  EXPECT_FALSE(options.resume);
  EXPECT_EQ(options.threads, 64);
  EXPECT_EQ(options.seed, INT64_MIN);
  EXPECT_EQ(options.top_p, 1);
  EXPECT_EQ(options.deadline_ms, 2000);
  EXPECT_EQ(options.arena_bytes, int64_t{2} << 30);
}

TEST_F(FlagsTest, KeepsDefaults) {
  ASSERT_TRUE(flags.Parse({}).ok());
  EXPECT_THAT(options.stores, ElementsAre("default"));
  EXPECT_EQ(options.deadline_ms, 1500);
}

TEST_F(FlagsTest, ReadsUnits) {
  const std::pair<const char*, int64_t> cases[] = {
      {"250", 250}, {"250ms", 250}, {"3s", 3000}, {"2m", 120'000}, {"1h", 3'600'000}};
  for (const auto& [text, ms] : cases) {
    Options other;
    FlagSet set("x", "y");
    set.AddDurationMs("d", &other.deadline_ms, 0, INT64_MAX, "d");
    ASSERT_TRUE(set.Parse({"--d", text}).ok()) << text;
    EXPECT_EQ(other.deadline_ms, ms);
  }
}

TEST_F(FlagsTest, SuggestsTheNearestName) {
  EXPECT_EQ(Error({"--lisen=1"}), "reprise worker: unknown flag --lisen, did you mean --listen?");
  EXPECT_EQ(Error({"--no-resum"}), "reprise worker: unknown flag --no-resum (see --help)");
  EXPECT_EQ(Error({"--zzzzzzzz"}), "reprise worker: unknown flag --zzzzzzzz (see --help)");
  EXPECT_THAT(Error({"--no-listen"}), HasSubstr("unknown flag --no-listen"));
}

TEST_F(FlagsTest, NamesFlagLimitAndValue) {
  EXPECT_EQ(Error({"--threads=65"}), "reprise worker: --threads: must be in [1, 64], not 65");
  EXPECT_EQ(Error({"--top-p=1.5"}), "reprise worker: --top-p: must be in [0, 1], not 1.5");
  EXPECT_EQ(Error({"--deadline=2h"}), "reprise worker: --deadline: must be in [1ms, 1h], not 2h");
  EXPECT_EQ(Error({"--arena=1KiB"}),
            "reprise worker: --arena: must be in [4KiB, 1024GiB], not 1KiB");
}

TEST_F(FlagsTest, RefusesWhatItCannotRead) {
  EXPECT_THAT(Error({"--seed=9223372036854775808"}), HasSubstr("must be an integer"));
  EXPECT_THAT(Error({"--deadline=9223372036854775807h"}), HasSubstr("must be a duration"));
  EXPECT_THAT(Error({"--top-p=nan"}), HasSubstr("must be a number"));
  EXPECT_THAT(Error({"--resume=yes"}), HasSubstr("must be true or false"));
  EXPECT_THAT(Error({"--codec=int4"}), HasSubstr("one of bf16, fp8, not \"int4\""));
  EXPECT_THAT(Error({"--listen"}), HasSubstr("--listen needs a value"));
}

TEST_F(FlagsTest, RefusesAScalarGivenTwice) {
  EXPECT_THAT(Error({"--listen=a", "--listen=b"}), HasSubstr("--listen given twice"));
}

TEST_F(FlagsTest, HelpShowsDefaultsRangesAndUnitsButNoSecret) {
  options.token = "hunter2";
  FlagSet set("reprise x", "does x", "FILE");
  set.AddSecret("token", &options.token, "access token");
  ASSERT_TRUE(flags.Parse({"--help"}).ok());
  EXPECT_TRUE(flags.help_requested());
  const std::string help = flags.Help();
  EXPECT_THAT(help, HasSubstr("Usage: reprise worker [flags] MODEL"));
  EXPECT_THAT(help, HasSubstr("--deadline\n      deadline of a request; in [1ms, 1h]; "
                              "default 1500ms"));
  EXPECT_THAT(help, HasSubstr("default 64MiB"));
  EXPECT_THAT(help, HasSubstr("--[no-]resume"));
  EXPECT_THAT(set.Help(), HasSubstr("default ***"));
  EXPECT_THAT(set.Help() + set.Echo(), testing::Not(HasSubstr("hunter2")));
}

TEST_F(FlagsTest, EchoIsOneJsonObjectOfEffectiveValues) {
  ASSERT_TRUE(flags.Parse({"--token=hunter2", "--store=a\"b", "--threads=3"}).ok());
  const auto echo = ParseJson(flags.Echo());
  ASSERT_TRUE(echo.ok()) << flags.Echo();
  EXPECT_EQ(*GetString(*echo, "token", ""), "***");
  EXPECT_EQ(*GetInt(*echo, "threads", 0), 3);
  EXPECT_EQ(*GetInt(*echo, "deadline", 0), 1500);
  EXPECT_EQ(*GetNumber(*echo, "top-p", 0), 0.5);
  EXPECT_EQ(*GetBool(*echo, "resume", false), true);
  EXPECT_STREQ((*echo)["store"][0].GetString(), "a\"b");
}

}  // namespace
}  // namespace reprise
