// A group of ranks (servers of their own in this process, over real transports) computes what one
// process does, to the bit, and goes on when a rank dies.
#include "worker/group/group_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "common/thread.h"
#include "worker/group/group_test_fixture.h"
#include "worker/model/model_executor.h"

namespace reprise::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr size_t kBlock = 16;

// With room for several stripes of context ranks.
std::string WideModel(const std::string& preset) {
  ModelConfig config = WidePreset(preset);
  config.context = 2048;
  return TestModel(std::move(config));
}

std::unique_ptr<Executor> MakeWhole(const ModelExecutorOptions& options) {
  auto executor = ModelExecutor::Create(options);
  EXPECT_TRUE(executor.ok()) << executor.status();
  return *std::move(executor);
}

struct Case {
  std::string preset;
  std::string shape;
  size_t long_tokens = 100;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.preset << " " << c.shape; }

class GroupExecutorTest : public testing::TestWithParam<Case> {};

TEST_P(GroupExecutorTest, TokensAndRowsAreOneProcesses) {
  const Case& c = GetParam();
  const ModelExecutorOptions options{.model_dir = WideModel(c.preset), .block_tokens = kBlock};
  std::vector<std::unique_ptr<RankProcess>> ranks;
  std::vector<std::string> addresses;
  for (uint32_t r = 1; r < parallel::ParseGroupShape(c.shape)->ranks(); ++r) {
    ranks.push_back(std::make_unique<RankProcess>(options, c.shape, static_cast<int32_t>(r)));
    addresses.push_back(ranks.back()->address());
  }
  Side whole(MakeWhole(options));
  Side group(MakeGroup(options, c.shape, addresses));
  EXPECT_EQ(group.executor->info().kv_format.CanonicalText(),
            whole.executor->info().kv_format.CanonicalText());
  const Script script(whole.executor->info().vocab_size, c.long_tokens, kBlock);
  for (size_t step = 0; step < script.size(); ++step) {
    SCOPED_TRACE(step);
    const auto want = script.Run(whole, step);
    ExpectSame(script.Run(group, step), want);
    ASSERT_EQ(group.pool, whole.pool);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GroupExecutorTest,
                         testing::Values(Case{"tiny", "tp2"}, Case{"tiny", "pp2"},
                                         Case{"tiny", "pp2,tp2"}, Case{"tiny-mqa", "tp4"},
                                         Case{"tiny", "cp2", 900}, Case{"tiny", "cp3", 900},
                                         Case{"tiny", "pp2,cp2", 900}, Case{"tiny", "cp2,tp2", 900},
                                         Case{"tiny-deepseek-v2", "pp2,tp2"},
                                         Case{"tiny-deepseek-v2", "cp2", 700},
                                         Case{"tiny-mixtral", "tp2"}),
                         [](const auto& info) {
                           std::string name = info.param.preset + "_" + info.param.shape;
                           for (char& c : name) {
                             if (c == '-' || c == ',') c = '_';
                           }
                           return name;
                         });

class GroupDeathTest : public testing::Test {
 protected:
  void SetUp() override {
    options_ = {.model_dir = WideModel("tiny"), .block_tokens = kBlock};
    whole_ = std::make_unique<Side>(MakeWhole(options_));
    script_ = std::make_unique<Script>(whole_->executor->info().vocab_size, 100, kBlock);
  }
  std::unique_ptr<RankProcess> Rank(int32_t rank, const std::string& listen = "127.0.0.1:0") {
    return std::make_unique<RankProcess>(options_, "pp2,tp2", rank, listen);
  }
  void ExpectSteps(Side& group, size_t first, size_t end) {
    for (size_t step = first; step < end; ++step) {
      const auto want = script_->Run(*whole_, step);
      ExpectSame(script_->Run(group, step), want);
      ASSERT_EQ(group.pool, whole_->pool);
    }
  }

  ModelExecutorOptions options_;
  std::unique_ptr<Side> whole_;
  std::unique_ptr<Script> script_;
};

TEST_F(GroupDeathTest, ASpareTakesADeadRanksPlaceAndIsGivenItsRows) {
  MetricsRegistry metrics("worker");
  auto one = Rank(1), two = Rank(2), three = Rank(3), spare = Rank(-1);
  Side group(MakeGroup(options_, "pp2,tp2",
                       {one->address(), two->address(), three->address(), spare->address()},
                       &metrics));
  ExpectSteps(group, 0, 4);
  const std::vector<int32_t> tokens = {1};
  const std::vector<int32_t> pages = {30};
  const StepItem unheard{tokens, 0, pages, true};
  EXPECT_TRUE(group.executor->Run({&unheard, 1}, nullptr).ok());
  EXPECT_TRUE(whole_->executor->Run({&unheard, 1}, nullptr).ok());
  two->Kill();
  ExpectSteps(group, 4, script_->size());
  const std::string page = metrics.Serialize();
  EXPECT_THAT(page, HasSubstr("reprise_group_places_replaced_total "));
  EXPECT_THAT(page, Not(HasSubstr("reprise_group_places_replaced_total 0")));
  EXPECT_THAT(page, Not(HasSubstr("reprise_group_epoch 1\n")));
}

TEST_F(GroupDeathTest, WithoutASpareTheRestartedProcessIsTaken) {
  auto one = Rank(1), two = Rank(2), three = Rank(3);
  const std::string address = one->address();
  Side group(MakeGroup(options_, "pp2,tp2", {address, two->address(), three->address()}));
  ExpectSteps(group, 0, 3);
  one->Kill();
  Thread restart("restart", [&] { one = Rank(1, address); });
  ExpectSteps(group, 3, script_->size());
  restart.Join();
}

TEST_F(GroupDeathTest, ALaterProcessOfTheWorkerTakesTheRanksOver) {
  auto one = Rank(1), two = Rank(2), three = Rank(3);
  const std::vector<std::string> ranks = {one->address(), two->address(), three->address()};
  Side first(MakeGroup(options_, "pp2,tp2", ranks));
  EXPECT_EQ(script_->Run(first, 0).size(), 0u);
  Side second(MakeGroup(options_, "pp2,tp2", ranks));
  ExpectSteps(second, 0, 3);
  // The first one thaws: its ranks are lost for good.
  const std::vector<int32_t> tokens = {1};
  const std::vector<int32_t> pages = {0};
  const StepItem item{tokens, 0, pages, true};
  const Status status = first.executor->Run({&item, 1}, [](uint32_t) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  ExpectSteps(second, 3, script_->size());
}

TEST_F(GroupDeathTest, WhatDoesNotFitIsRefusedByName) {
  auto one = Rank(1), two = Rank(2), three = Rank(3);
  const std::vector<std::string> ranks = {one->address(), two->address(), three->address()};
  const auto few = GroupExecutor::Create({.owner = "worker",
                                          .split = {.pipeline = 2, .tensor = 2},
                                          .ranks = {"127.0.0.1:1"},
                                          .model = options_},
                                         nullptr);
  EXPECT_THAT(few.status().message(), HasSubstr("needs 3 besides the worker, 1 are named"));
  const std::vector<int32_t> tokens = {1};
  const std::vector<int32_t> pages = {0};
  const StepItem item{tokens, 0, pages, true};
  {
    Side other(MakeGroup(options_, "tp4", ranks));
    const Status status = other.executor->Run({&item, 1}, [](uint32_t) {});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("this process serves pp2,cp1,tp2"));
  }
  {
    ModelConfig config = WidePreset("tiny");
    config.context = 2048;
    ModelExecutorOptions changed = options_;
    changed.model_dir = TestModel(config, {.seed = 99});
    Side other(MakeGroup(changed, "pp2,tp2", ranks));
    const Status status = other.executor->Run({&item, 1}, [](uint32_t) {});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("has the checksum"));
  }
  ModelExecutorOptions narrow = options_;
  narrow.kv_dtype = "f32";
  Side other(MakeGroup(narrow, "pp2,tp2", ranks));
  const Status status = other.executor->Run({&item, 1}, [](uint32_t) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("the group keeps"));
}

}  // namespace
}  // namespace reprise::worker
