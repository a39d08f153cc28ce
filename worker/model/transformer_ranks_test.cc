// A model split over ranks computes what one rank does, to the bit: logits and KV rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/thread.h"
#include "kernels/ops.h"
#include "worker/model/model_folder.h"
#include "worker/model/model_share.h"
#include "worker/model/test_models.h"
#include "worker/model/transformer.h"
#include "worker/parallel/group_shape.h"
#include "worker/parallel/in_process.h"

namespace reprise::worker {
namespace {

using kv::GroupSplit;

constexpr int64_t kBlock = 16;
constexpr int32_t kPages = 12;
constexpr TimeNs kTimeoutNs = 60 * kSecond;

// One rank: its share, its own pool.
class Rank {
 public:
  Rank(const ModelFolder& folder, const ModelShare& share)
      : config_(ConfigOfShare(folder.config(), share)) {
    auto weights = LoadModelWeights(folder, share);
    EXPECT_TRUE(weights.ok()) << weights.status();
    kv_ = KvShape(config_);
    kv_.dtype = kernels::DType::kBF16;
    kv_.block_tokens = kBlock;
    model_ = std::make_unique<Transformer>(config_, *std::move(weights),
                                           TransformerOptions{.isa = kernels::BestIsa(),
                                                              .kv_dtype = kv_.dtype,
                                                              .block_tokens = kBlock,
                                                              .first_stage = share.first_stage,
                                                              .last_stage = share.last_stage});
    pool_.resize(static_cast<size_t>(kPages * PageBytes()));
    model_->AttachPool(pool_.data());
  }

  void SetRanks(const ModelRanks& ranks) { model_->SetRanks(ranks); }

  // Appends the logits of the items that want them.
  Status Run(const std::vector<StepItem>& items, std::vector<std::vector<float>>* logits) {
    const TimeNs deadline_ns = RealClock().NowNs() + kTimeoutNs;
    RETURN_IF_ERROR(model_->Forward(items, Transformer::Outputs::kWanted, nullptr, deadline_ns));
    for (int64_t i = 0; i < model_->outputs(); ++i) {
      const auto row = model_->logits(i);
      logits->emplace_back(row.begin(), row.end());
    }
    return absl::OkStatus();
  }
  Status Settle() { return model_->Settle(RealClock().NowNs() + kTimeoutNs); }

  int64_t PageBytes() const { return config_.layers * SegmentBytes(kv_); }
  // Strip of one part, key or value, of one page, layer and head.
  std::span<const std::byte> Strip(int32_t page, int64_t layer, int part, int64_t head) const {
    const int64_t first = FirstPartDim(kv_) * kBlock * SizeOf(kv_.dtype);
    const int64_t second = SecondPartDim(kv_) * kBlock * SizeOf(kv_.dtype);
    const std::byte* at = pool_.data() + page * PageBytes() + layer * SegmentBytes(kv_);
    if (part == 0) return {at + head * first, static_cast<size_t>(first)};
    return {at + kv_.kv_heads * first + head * second, static_cast<size_t>(second)};
  }
  const kernels::PagedKv& kv() const { return kv_; }

 private:
  const ModelConfig config_;
  kernels::PagedKv kv_;
  std::unique_ptr<Transformer> model_;
  std::vector<std::byte> pool_;
};

// Two sequences: prompts in chunks, then step rows beside the other's chunk.
struct Script {
  explicit Script(int64_t vocab) : a(RandomTokens(90, vocab, 1)), b(RandomTokens(40, vocab, 2)) {
    for (int32_t page = 0; page < 6; ++page) a_pages.push_back(2 * page + 1);
    for (int32_t page = 0; page < 3; ++page) b_pages.push_back(2 * page);
    const auto item = [](const std::vector<int32_t>& tokens, const std::vector<int32_t>& pages,
                         size_t first, size_t n, bool output, int64_t prompt_end) {
      return StepItem{std::span(tokens).subspan(first, n), static_cast<int64_t>(first), pages,
                      output, prompt_end};
    };
    steps.push_back({item(a, a_pages, 0, 37, false, 80)});
    steps.push_back({item(a, a_pages, 37, 43, true, 80), item(b, b_pages, 0, 5, true, 5)});
    for (size_t i = 0; i < 10; ++i) {
      steps.push_back({item(a, a_pages, 80 + i, 1, true, 80), item(b, b_pages, 5 + i, 1, true, 5)});
    }
    steps.push_back({item(b, b_pages, 15, 20, true, 5)});
  }

  std::vector<int32_t> a, b, a_pages, b_pages;
  std::vector<std::vector<StepItem>> steps;
};

struct Group {
  Group(const ModelFolder& folder, const GroupSplit& split) : split(split) {
    for (uint32_t i = 0; i < split.ranks(); ++i) {
      groups.push_back(std::make_unique<parallel::InProcessGroup>(static_cast<int>(split.tensor)));
      groups.push_back(
          std::make_unique<parallel::InProcessGroup>(static_cast<int>(split.pipeline)));
    }
    for (uint32_t rank = 0; rank < split.ranks(); ++rank) {
      const kv::RankPlace place = kv::PlaceOf(split, rank);
      auto share = ShareOf(folder.config(), split, rank);
      EXPECT_TRUE(share.ok()) << share.status();
      shares.push_back(*share);
      ranks.push_back(std::make_unique<Rank>(folder, *share));
      ModelRanks others;
      const auto join = [&](uint32_t group, uint32_t as) {
        communicators.push_back(groups[group]->MakeCommunicator(static_cast<int>(as)));
        return communicators.back().get();
      };
      // The groups are numbered by their first rank.
      if (split.tensor > 1) others.tensor = join(2 * (rank - place.tensor), place.tensor);
      if (split.pipeline > 1) others.pipeline = join(2 * place.tensor + 1, place.stage);
      ranks.back()->SetRanks(others);
    }
  }

  // By rank.
  std::vector<std::vector<std::vector<float>>> Run(const Script& script) {
    std::vector<std::vector<std::vector<float>>> logits(ranks.size());
    std::vector<Status> statuses(ranks.size());
    std::vector<Thread> threads;
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      threads.emplace_back("rank", [&, rank] {
        for (const auto& step : script.steps) {
          statuses[rank].Update(ranks[rank]->Run(step, &logits[rank]));
        }
        statuses[rank].Update(ranks[rank]->Settle());
      });
    }
    for (Thread& thread : threads) thread.Join();
    for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
    return logits;
  }

  const GroupSplit split;
  std::vector<std::unique_ptr<parallel::InProcessGroup>> groups;
  std::vector<std::unique_ptr<parallel::Communicator>> communicators;
  std::vector<ModelShare> shares;
  std::vector<std::unique_ptr<Rank>> ranks;
};

void ExpectSameRows(const Rank& whole, const Group& group) {
  for (size_t rank = 0; rank < group.ranks.size(); ++rank) {
    const ModelShare& share = group.shares[rank];
    const Rank& own = *group.ranks[rank];
    const int64_t first_head = whole.kv().kv_heads == 1 ? 0 : share.kv_heads.begin;
    for (int32_t page = 0; page < kPages; ++page) {
      for (int64_t layer = 0; layer < share.layers.size(); ++layer) {
        for (int64_t head = 0; head < own.kv().kv_heads; ++head) {
          for (const int part : {0, 1}) {
            const auto want =
                whole.Strip(page, share.layers.begin + layer, part, first_head + head);
            const auto found = own.Strip(page, layer, part, head);
            ASSERT_TRUE(std::equal(want.begin(), want.end(), found.begin(), found.end()))
                << "rank " << rank << " page " << page << " layer " << layer << " head " << head;
          }
        }
      }
    }
  }
}

class TransformerRanksTest : public ::testing::TestWithParam<const char*> {};

TEST_P(TransformerRanksTest, BitsDoNotDependOnTheSplit) {
  auto folder = ModelFolder::Open(TestModel(WidePreset(GetParam())));
  ASSERT_TRUE(folder.ok()) << folder.status();
  const Script script(folder->config().vocab);
  Rank whole(*folder, WholeModel(folder->config()));
  std::vector<std::vector<float>> want;
  for (const auto& step : script.steps) ASSERT_TRUE(whole.Run(step, &want).ok());
  for (const char* text : {"tp2", "tp4", "tp8", "pp2", "pp2,tp2"}) {
    SCOPED_TRACE(text);
    const GroupSplit split = *parallel::ParseGroupShape(text);
    Group group(*folder, split);
    const auto logits = group.Run(script);
    const uint32_t last = (split.pipeline - 1) * split.tensor;
    for (size_t i = 0; i < want.size(); ++i) {
      std::vector<float> found;
      for (uint32_t t = 0; t < split.tensor; ++t) {
        const auto& part = logits[last + t][i];
        found.insert(found.end(), part.begin(), part.end());
      }
      ASSERT_EQ(found.size(), want[i].size());
      ASSERT_EQ(std::memcmp(found.data(), want[i].data(), found.size() * sizeof(float)), 0) << i;
    }
    ExpectSameRows(whole, group);
  }
}

INSTANTIATE_TEST_SUITE_P(Presets, TransformerRanksTest,
                         ::testing::Values("tiny", "tiny-bias", "tiny-mqa", "tiny-mixtral",
                                           "tiny-qwen3-moe", "tiny-deepseek-v2",
                                           "tiny-deepseek-v3"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(TransformerRanks, ADeadRankEndsTheStepOfAllOthers) {
  auto folder = ModelFolder::Open(TestModel(WidePreset("tiny")));
  ASSERT_TRUE(folder.ok()) << folder.status();
  const Script script(folder->config().vocab);
  Group group(*folder, {.tensor = 2});
  group.groups[0]->KillAfter(1, 3);
  std::vector<std::vector<float>> logits[2];
  Status statuses[2];
  std::vector<Thread> threads;
  for (size_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back("rank", [&, rank] {
      statuses[rank] = group.ranks[rank]->Run(script.steps[0], &logits[rank]);
    });
  }
  for (Thread& thread : threads) thread.Join();
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kUnavailable) << statuses[0];
}

TEST(ModelShare, RefusesWhatASplitWouldTear) {
  const auto refusal = [](const ModelConfig& config, const char* shape) {
    const GroupSplit split = *parallel::ParseGroupShape(shape);
    for (uint32_t rank = 0; rank < split.ranks(); ++rank) {
      const auto share = ShareOf(config, split, rank);
      if (!share.ok()) return std::string(share.status().message());
    }
    return std::string();
  };
  ModelConfig c = WidePreset("tiny");
  EXPECT_EQ(refusal(c, "tp8"), "");
  EXPECT_EQ(refusal(c, "pp3"), "pipeline degree 3 is more than the 2 layers");
  c.intermediate = 64;
  EXPECT_EQ(refusal(c, "tp4"),
            "tensor degree 4 does not divide intermediate_size of 64 in slices of 32");
  c = WidePreset("tiny");
  c.head_dim = 20;
  EXPECT_EQ(
      refusal(c, "tp2"),
      "tensor degree 2 does not divide 8 heads of 20: a slice of their output has 32 columns");
}

}  // namespace
}  // namespace reprise::worker
