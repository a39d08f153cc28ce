// A group of ranks (servers of their own in this process, over real transports) computes what one
// process does, to the bit, and goes on when a rank dies.
#include "worker/group/group_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "common/rpc_server.h"
#include "worker/group/rank_server.h"
#include "worker/model/model_executor.h"
#include "worker/model/test_models.h"
#include "worker/parallel/group_shape.h"

namespace reprise::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kBlock = 16;
constexpr int32_t kPages = 96;

// With room for several stripes of context ranks.
std::string WideModel(const std::string& preset) {
  ModelConfig config = WidePreset(preset);
  config.context = 2048;
  return TestModel(std::move(config));
}

// A rank's process, but for the process.
class RankProcess {
 public:
  RankProcess(const ModelExecutorOptions& model, const std::string& shape, int32_t rank,
              const std::string& listen = "127.0.0.1:0") {
    auto server = RankServer::Start(
        {.name = "rank", .split = *parallel::ParseGroupShape(shape), .rank = rank, .model = model},
        nullptr);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto door = RpcServer::Start(listen, {server_.get()});
    EXPECT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
  }
  ~RankProcess() { Kill(); }
  std::string address() const { return door_->address(); }
  void Kill() {
    if (door_ != nullptr) server_->Stop();
    door_ = nullptr;
    server_ = nullptr;
  }

 private:
  std::unique_ptr<RankServer> server_;
  std::unique_ptr<RpcServer> door_;
};

// An executor and its pool.
struct Side {
  explicit Side(std::unique_ptr<Executor> with) : executor(std::move(with)) {
    pool.resize(kPages * executor->info().kv_format.block_bytes());
    executor->AttachPool(pool.data(), kPages);
  }
  uint8_t* Page(int32_t page) {
    return pool.data() + static_cast<size_t>(page) * executor->info().kv_format.block_bytes();
  }
  // As the engine does for branches and fetches.
  void Copy(int32_t from, int32_t to) {
    std::memcpy(Page(to), Page(from), executor->info().kv_format.block_bytes());
    executor->OnPagesReplaced({&to, 1});
  }
  // Token, logprob and alternatives of every output.
  std::vector<SampledToken> Run(const std::vector<StepItem>& items) {
    std::vector<uint32_t> layers;
    const Status status = executor->Run(items, [&](uint32_t layer) { layers.push_back(layer); });
    EXPECT_TRUE(status.ok()) << status;
    std::vector<uint32_t> all(executor->info().kv_format.layers);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(layers, all);
    std::vector<SampledToken> tokens;
    const SamplingParams params{.temperature = 0, .top_logprobs = 8};
    for (size_t i = 0; status.ok() && i < items.size(); ++i) {
      if (items[i].wants_output) tokens.push_back(executor->Sample(i, {.params = &params}));
    }
    return tokens;
  }

  std::unique_ptr<Executor> executor;
  std::vector<uint8_t> pool;
};

std::unique_ptr<Executor> MakeWhole(const ModelExecutorOptions& options) {
  auto executor = ModelExecutor::Create(options);
  EXPECT_TRUE(executor.ok()) << executor.status();
  return *std::move(executor);
}

std::unique_ptr<Executor> MakeGroup(const ModelExecutorOptions& options, const std::string& shape,
                                    const std::vector<std::string>& ranks,
                                    MetricsRegistry* metrics = nullptr) {
  auto executor = GroupExecutor::Create({.owner = "worker",
                                         .split = *parallel::ParseGroupShape(shape),
                                         .ranks = ranks,
                                         .model = options},
                                        metrics);
  EXPECT_TRUE(executor.ok()) << executor.status();
  return *std::move(executor);
}

// Two sequences; prompts in chunks beside steps, a copied page, a long suffix at the end.
class Script {
 public:
  Script(int64_t vocab, size_t long_tokens)
      : a_(RandomTokens(long_tokens + 40, vocab, 1)), b_(RandomTokens(80, vocab, 2)) {
    for (int32_t i = 0; i < 64; ++i) a_pages_.push_back(kPages - 1 - i);
    for (int32_t i = 0; i < 8; ++i) b_pages_.push_back(i);
    const size_t half = long_tokens / 2 + 3;
    steps_ = {{A(0, half, false)}, {A(half, long_tokens - half, true), B(0, 5, true)}};
    for (size_t i = 0; i < 4; ++i)
      steps_.push_back({A(long_tokens + i, 1, true), B(5 + i, 1, true)});
    steps_.push_back({B(9, 60, true), A(long_tokens + 4, 1, true)});
    steps_.push_back({B(69, 1, true), A(long_tokens + 5, 1, true)});
    b_copied_ = b_again_ = b_pages_;
    copies_[steps_.size()] = {b_pages_[4], 20};
    b_copied_[4] = 20;
    steps_.push_back(
        {{std::span(b_).subspan(70, 3), 70, b_copied_, true}, A(long_tokens + 6, 1, true)});
    steps_.push_back({{std::span(b_).subspan(73, 1), 73, b_copied_, true}});
    // The page is copied over again, from another one.
    copies_[steps_.size()] = {b_pages_[3], 20};
    b_again_[3] = 20;
    steps_.push_back({{std::span(b_).subspan(70, 1), 70, b_again_, true}});
  }

  size_t size() const { return steps_.size(); }
  std::vector<SampledToken> Run(Side& side, size_t step) const {
    const auto copy = copies_.find(step);
    if (copy != copies_.end()) side.Copy(copy->second.first, copy->second.second);
    return side.Run(steps_[step]);
  }

 private:
  StepItem A(size_t first, size_t n, bool output) const {
    return {std::span(a_).subspan(first, n), static_cast<int64_t>(first), a_pages_, output};
  }
  StepItem B(size_t first, size_t n, bool output) const {
    return {std::span(b_).subspan(first, n), static_cast<int64_t>(first), b_pages_, output, 64};
  }
  std::vector<int32_t> a_, b_, a_pages_, b_pages_, b_copied_, b_again_;
  std::vector<std::vector<StepItem>> steps_;
  std::map<size_t, std::pair<int32_t, int32_t>> copies_;  // from page to page, before a step
};

void ExpectSame(const std::vector<SampledToken>& got, const std::vector<SampledToken>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].id, want[i].id);
    EXPECT_EQ(got[i].logprob, want[i].logprob);
    EXPECT_EQ(got[i].top, want[i].top);
  }
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
  const Script script(whole.executor->info().vocab_size, c.long_tokens);
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
    script_ = std::make_unique<Script>(whole_->executor->info().vocab_size, 100);
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
