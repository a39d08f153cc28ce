// A model on the ranks of a context-parallel group: logits and KV rows are one rank's, to the bit.
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <memory>
#include <set>
#include <thread>

#include "worker/model/host_context_parallel.h"
#include "worker/model/model_folder.h"
#include "worker/model/test_models.h"
#include "worker/model/transformer.h"
#include "worker/parallel/communicator_decorator.h"
#include "worker/parallel/in_process.h"

namespace reprise::worker {
namespace {

constexpr int64_t kBlockTokens = 64;
constexpr int64_t kPositions = 2600;  // six stripes of one leaf

// Positions [first, end) of the one sequence; those from prompt_end on in step form.
struct Chunk {
  int64_t first = 0;
  int64_t end = 0;
  int64_t prompt_end = INT64_MAX;
  Transformer::Outputs outputs = Transformer::Outputs::kAll;
};

// One rank, or all there is.
class Side {
 public:
  Side(const ModelFolder& folder, kernels::DType kv_dtype, HostContextParallel* context)
      : model_(folder.config(), *LoadModelWeights(folder),
               {.isa = kernels::BestIsa(), .kv_dtype = kv_dtype, .block_tokens = kBlockTokens}) {
    kernels::PagedKv kv = KvShape(folder.config());
    kv.dtype = kv_dtype;
    kv.block_tokens = kBlockTokens;
    page_bytes_ = SegmentBytes(kv) * folder.config().layers;
    const int64_t rows =
        context == nullptr ? kPositions : context->stripes().RowsKept(context->rank(), kPositions);
    const int64_t pages = (rows + kBlockTokens - 1) / kBlockTokens;
    for (int64_t i = 0; i < pages; ++i) pages_.push_back(static_cast<int32_t>(pages - 1 - i));
    pool_.resize(static_cast<size_t>(pages * page_bytes_));
    model_.AttachPool(pool_.data());
    model_.SetRanks({.context = context});
  }

  void Forward(std::span<const int32_t> tokens, const Chunk& chunk,
               TimeNs deadline_ns = INT64_MAX) {
    const StepItem item{.tokens = tokens.subspan(static_cast<size_t>(chunk.first),
                                                 static_cast<size_t>(chunk.end - chunk.first)),
                        .first_position = chunk.first,
                        .pages = pages_,
                        .wants_output = true,
                        .prompt_end = chunk.prompt_end};
    // What fails is the ranks' exchange, which the context says.
    model_.Forward({&item, 1}, chunk.outputs, nullptr, deadline_ns).IgnoreError();
  }
  const Transformer& model() const { return model_; }

  // The page of the block at this row of the cache.
  std::span<const std::byte> Page(int64_t row) const {
    const int64_t page = pages_[static_cast<size_t>(row / kBlockTokens)];
    return std::span(pool_).subspan(static_cast<size_t>(page * page_bytes_),
                                    static_cast<size_t>(page_bytes_));
  }

 private:
  Transformer model_;
  int64_t page_bytes_ = 0;
  std::vector<int32_t> pages_;
  std::vector<std::byte> pool_;
};

struct Case {
  std::string name;
  std::string preset;
  kernels::DType kv_dtype;
  parallel::ContextRules rules;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class ContextParallelModel : public testing::TestWithParam<Case> {
 protected:
  ContextParallelModel() {
    ModelConfig config = *PresetConfig(GetParam().preset);
    config.context = 4096;
    folder_.emplace(*ModelFolder::Open(TestModel(config, {.seed = 3})));
    tokens_ = RandomTokens(kPositions, config.vocab, 4);
  }

  // Both compute the chunks; every logit and cached row must agree.
  void ExpectOneRanksBits(int ranks, const std::vector<Chunk>& chunks) {
    Side whole(*folder_, GetParam().kv_dtype, nullptr);
    const parallel::Stripes stripes = *parallel::Stripes::Make(ranks, 1);
    parallel::InProcessGroup group(ranks);
    std::vector<std::unique_ptr<parallel::Communicator>> communicators;
    std::vector<std::unique_ptr<HostContextParallel>> contexts;
    std::vector<std::unique_ptr<Side>> sides;
    for (int r = 0; r < ranks; ++r) {
      communicators.push_back(group.MakeCommunicator(r));
      contexts.push_back(std::make_unique<HostContextParallel>(
          *communicators.back(), kernels::Select(kernels::BestIsa()), stripes, GetParam().rules));
      sides.push_back(std::make_unique<Side>(*folder_, GetParam().kv_dtype, contexts.back().get()));
    }
    for (const Chunk& chunk : chunks) {
      whole.Forward(tokens_, chunk);
      std::vector<std::thread> threads;
      threads.reserve(sides.size());
      for (auto& side : sides) {
        threads.emplace_back([&] { side->Forward(tokens_, chunk); });
      }
      for (std::thread& thread : threads) thread.join();
      for (auto& context : contexts) ASSERT_TRUE(context->status().ok()) << context->status();
      ExpectLogits(stripes, whole, sides, chunk);
    }
    for (int64_t position = 0; position < chunks.back().end; position += kBlockTokens) {
      const Side& owner = *sides[static_cast<size_t>(stripes.OwnerOfPosition(position))];
      const auto want = whole.Page(position);
      ASSERT_EQ(
          std::memcmp(owner.Page(stripes.LocalRow(position)).data(), want.data(), want.size()), 0)
          << "KV at " << position;
    }
  }

 private:
  void ExpectLogits(const parallel::Stripes& stripes, const Side& whole,
                    const std::vector<std::unique_ptr<Side>>& sides, const Chunk& chunk) {
    const bool all = chunk.outputs == Transformer::Outputs::kAll;
    std::vector<int64_t> next(sides.size());
    for (int64_t i = 0; i < whole.model().outputs(); ++i) {
      const int64_t position = all ? chunk.first + i : chunk.end - 1;
      const auto owner = static_cast<size_t>(stripes.OwnerOfPosition(position));
      ASSERT_LT(next[owner], sides[owner]->model().outputs());
      const auto want = whole.model().logits(i);
      const auto got = sides[owner]->model().logits(next[owner]++);
      ASSERT_EQ(std::memcmp(got.data(), want.data(), want.size_bytes()), 0)
          << "logits at " << position;
    }
    for (size_t r = 0; r < sides.size(); ++r) {
      EXPECT_EQ(sides[r]->model().outputs(), next[r]) << "rank " << r;
    }
  }

 protected:
  std::optional<ModelFolder> folder_;
  std::vector<int32_t> tokens_;
};

TEST_P(ContextParallelModel, APromptInChunksAndThenStepsAreOneRanks) {
  ExpectOneRanksBits(
      3,
      {{.first = 0, .end = 700},
       {.first = 700, .end = 2561},
       {.first = 2561, .end = 2570, .prompt_end = 2565},  // both forms
       {.first = 2570, .end = 2571, .prompt_end = 2565},
       {.first = 2571, .end = 2572, .prompt_end = 2565, .outputs = Transformer::Outputs::kWanted}});
}

TEST_P(ContextParallelModel, OnlyTheLastRowsLogitsAreOneRanks) {
  for (const int ranks : {2, 4}) {
    ExpectOneRanksBits(ranks,
                       {{.first = 0, .end = 1500, .outputs = Transformer::Outputs::kWanted},
                        {.first = 1500, .end = 1501, .outputs = Transformer::Outputs::kWanted}});
    if (HasFatalFailure()) return;
  }
}

TEST_P(ContextParallelModel, ShorterThanItsStripesAndAloneIsOneRanks) {
  ExpectOneRanksBits(1, {{.first = 0, .end = 600}});
  ExpectOneRanksBits(4, {{.first = 0, .end = 70}, {.first = 70, .end = 71, .prompt_end = 70}});
}

constexpr kernels::DType kF32 = kernels::DType::kF32;
constexpr kernels::DType kBF16 = kernels::DType::kBF16;
parallel::ContextRules By(parallel::Way way) { return {.machine = {}, .way = way, .merge = {}}; }

INSTANTIATE_TEST_SUITE_P(
    Models, ContextParallelModel,
    testing::Values(Case{"GqaRing", "tiny-gqa", kBF16, By(parallel::Way::kRing)},
                    Case{"GqaRule", "tiny-gqa", kF32, {}},
                    Case{"LatentRing", "tiny-deepseek-v2", kBF16, By(parallel::Way::kRing)},
                    Case{"LatentGather", "tiny-deepseek-v2", kF32, By(parallel::Way::kGather)},
                    Case{"LatentQuery", "tiny-deepseek-v2", kBF16, By(parallel::Way::kQuery)},
                    Case{"LatentRule", "tiny-deepseek-v3", kBF16, {}}),
    [](const auto& info) { return info.param.name; });

// Notes how long its rank is ready to wait.
class Deadlines final : public parallel::CommunicatorDecorator {
 public:
  using CommunicatorDecorator::CommunicatorDecorator;
  Status Wait(parallel::ExchangeId exchange, TimeNs deadline_ns) override {
    seen.insert(deadline_ns);
    return CommunicatorDecorator::Wait(exchange, deadline_ns);
  }
  Status AllGather(std::span<const uint8_t> mine, std::span<const size_t> sizes,
                   std::span<uint8_t> all, TimeNs deadline_ns) override {
    seen.insert(deadline_ns);
    return CommunicatorDecorator::AllGather(mine, sizes, all, deadline_ns);
  }
  std::set<TimeNs> seen;
};

TEST(HostContextParallel, EveryExchangeOfAStepEndsByTheStepsDeadline) {
  const ModelFolder folder = *ModelFolder::Open(TestModel("tiny-gqa", {.seed = 3}));
  const std::vector<int32_t> tokens = RandomTokens(600, folder.config().vocab, 4);
  const parallel::Stripes stripes = *parallel::Stripes::Make(2, 1);
  for (const parallel::Way way :
       {parallel::Way::kRing, parallel::Way::kGather, parallel::Way::kQuery}) {
    parallel::InProcessGroup group(2);
    std::vector<std::thread> threads;
    threads.reserve(2);
    for (int r = 0; r < 2; ++r) {
      threads.emplace_back([&, r] {
        const auto communicator = group.MakeCommunicator(r);
        Deadlines deadlines(*communicator);
        HostContextParallel context(deadlines, kernels::Select(kernels::BestIsa()), stripes,
                                    By(way));
        Side side(folder, kF32, &context);
        for (const TimeNs deadline_ns : {INT64_MAX - 1, INT64_MAX - 2}) {
          deadlines.seen.clear();
          side.Forward(tokens, {.first = 0, .end = 600}, deadline_ns);
          EXPECT_TRUE(context.status().ok()) << context.status();
          EXPECT_EQ(deadlines.seen, std::set<TimeNs>{deadline_ns}) << WayName(way);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

TEST(HostContextParallel, AnErrorIsKeptAndEndsAllRanksSteps) {
  const ModelFolder folder = *ModelFolder::Open(TestModel("tiny-gqa", {.seed = 3}));
  const std::vector<int32_t> tokens = RandomTokens(600, folder.config().vocab, 4);
  const parallel::Stripes stripes = *parallel::Stripes::Make(2, 1);
  parallel::InProcessGroup group(2);
  std::vector<std::thread> threads;
  threads.reserve(2);
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      const auto communicator = group.MakeCommunicator(r);
      HostContextParallel context(*communicator, kernels::Select(kernels::BestIsa()), stripes, {});
      Side side(folder, kF32, &context);
      if (r == 1) group.Kill(1);
      for (int i = 0; i < 2; ++i) {
        side.Forward(tokens, {.first = 0, .end = 600});
        EXPECT_FALSE(context.status().ok()) << r;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace reprise::worker
