// A group of ranks for tests: servers of their own in this process, over real transports, and a
// script of steps that any executor can run.
#ifndef REPRISE_WORKER_GROUP_GROUP_TEST_FIXTURE_H_
#define REPRISE_WORKER_GROUP_GROUP_TEST_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "common/metrics.h"
#include "common/rpc_server.h"
#include "worker/engine/sampling.h"
#include "worker/group/group_executor.h"
#include "worker/group/rank_server.h"
#include "worker/model/test_models.h"
#include "worker/parallel/group_shape.h"

namespace reprise::worker {

inline constexpr int32_t kGroupPages = 96;

// A rank's process, but for the process.
class RankProcess {
 public:
  RankProcess(const ModelExecutorOptions& model, const std::string& shape, int32_t rank,
              const std::string& listen = "127.0.0.1:0", const ComputeOn& on = {}) {
    auto server = RankServer::Start(
        {.name = "rank", .split = *SplitOn(on, shape), .rank = rank, .model = model, .on = on},
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
    pool.resize(kGroupPages * executor->info().kv_format.block_bytes());
    executor->AttachPool(pool.data(), kGroupPages);
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

inline std::unique_ptr<Executor> MakeGroup(const ModelExecutorOptions& options,
                                           const std::string& shape,
                                           const std::vector<std::string>& ranks,
                                           MetricsRegistry* metrics = nullptr,
                                           const ComputeOn& on = {}) {
  auto executor = GroupExecutor::Create(
      {.owner = "worker", .split = *SplitOn(on, shape), .ranks = ranks, .model = options, .on = on},
      metrics);
  EXPECT_TRUE(executor.ok()) << executor.status();
  return *std::move(executor);
}

// Two sequences; prompts in chunks beside steps, a copied page, a long suffix at the end.
class Script {
 public:
  Script(int64_t vocab, size_t long_tokens, size_t block)
      : a_(RandomTokens(long_tokens + 40, vocab, 1)), b_(RandomTokens(80, vocab, 2)) {
    for (int32_t i = 0; i < 64; ++i) a_pages_.push_back(kGroupPages - 1 - i);
    for (int32_t i = 0; i < 8; ++i) b_pages_.push_back(i);
    const size_t half = long_tokens / 2 + 3;
    steps_ = {{A(0, half, false)}, {A(half, long_tokens - half, true), B(0, 5, true)}};
    for (size_t i = 0; i < 4; ++i)
      steps_.push_back({A(long_tokens + i, 1, true), B(5 + i, 1, true)});
    steps_.push_back({B(9, 60, true), A(long_tokens + 4, 1, true)});
    steps_.push_back({B(69, 1, true), A(long_tokens + 5, 1, true)});
    b_copied_ = b_again_ = b_pages_;
    copies_[steps_.size()] = {b_pages_[70 / block], 20};
    b_copied_[70 / block] = 20;
    steps_.push_back(
        {{std::span(b_).subspan(70, 3), 70, b_copied_, true}, A(long_tokens + 6, 1, true)});
    steps_.push_back({{std::span(b_).subspan(73, 1), 73, b_copied_, true}});
    // The page is copied over again, from another one.
    copies_[steps_.size()] = {b_pages_[63 / block], 20};
    b_again_[63 / block] = 20;
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

inline void ExpectSame(const std::vector<SampledToken>& got,
                       const std::vector<SampledToken>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].id, want[i].id);
    EXPECT_EQ(got[i].logprob, want[i].logprob);
    EXPECT_EQ(got[i].top, want[i].top);
  }
}

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_GROUP_TEST_FIXTURE_H_
