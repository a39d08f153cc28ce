// Groups whose ranks compute on the emulated device: stages and context ranks change no bit of one
// device's, tensor ranks are a class of their own whose bits depend on nothing else, and a rank's
// death is not seen.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "common/half.h"
#include "worker/device/device_executor.h"
#include "worker/group/group_test_fixture.h"

namespace reprise::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr size_t kBlock = 64;
const ComputeOn kEmulated = {.device = "emulated"};

struct DeviceGroup {
  DeviceGroup(const std::string& dir, const std::string& shape, int spares = 0,
              MetricsRegistry* metrics = nullptr) {
    const ModelExecutorOptions options{.model_dir = dir, .block_tokens = kBlock};
    std::vector<std::string> addresses;
    const auto count = static_cast<int>(parallel::ParseGroupShape(shape)->ranks());
    for (int r = 1; r < count + spares; ++r) {
      ranks.push_back(std::make_unique<RankProcess>(options, shape, r < count ? r : -1,
                                                    "127.0.0.1:0", kEmulated));
      addresses.push_back(ranks.back()->address());
    }
    side = std::make_unique<Side>(MakeGroup(options, shape, addresses, metrics, kEmulated));
  }
  const kv::KvFormat& format() const { return side->executor->info().kv_format; }

  std::vector<std::unique_ptr<RankProcess>> ranks;
  std::unique_ptr<Side> side;
};

std::unique_ptr<Executor> OneDevice(const std::string& dir) {
  auto executor = DeviceExecutor::Create({.model_dir = dir, .emulated = true});
  EXPECT_TRUE(executor.ok()) << executor.status();
  return *std::move(executor);
}

std::string Model(const std::string& preset) {
  ModelConfig config = WidePreset(preset);
  if (config.latent && config.latent->q_rank > 0) config.latent->q_rank = 32;
  return TestModel(std::move(config), {.dtype = "bf16"});
}

class GroupDeviceTest : public testing::TestWithParam<std::string> {};

TEST_P(GroupDeviceTest, StagesHaveTheBitsOfOneDevice) {
  const std::string dir = Model(GetParam());
  Side one(OneDevice(dir));
  DeviceGroup group(dir, "pp2");
  EXPECT_EQ(group.format().CanonicalText(), one.executor->info().kv_format.CanonicalText());
  const Script script(one.executor->info().vocab_size, 100, kBlock);
  for (size_t step = 0; step < script.size(); ++step) {
    SCOPED_TRACE(step);
    const auto want = script.Run(one, step);
    ExpectSame(script.Run(*group.side, step), want);
    ASSERT_EQ(group.side->pool, one.pool);
  }
}

// The sums over ranks round elsewhere, so alternatives are compared by what they are worth; where a
// row's experts are nearly equal others may be chosen, which few rows have.
TEST_P(GroupDeviceTest, TensorRanksAreNearOneDeviceAndAClassOfTheirOwn) {
  const std::string dir = Model(GetParam());
  Side one(OneDevice(dir));
  DeviceGroup group(dir, "tp2");
  EXPECT_NE(group.format().numerics_class, one.executor->info().kv_format.numerics_class);
  EXPECT_EQ(group.format().model_fingerprint, one.executor->info().kv_format.model_fingerprint);
  const Script script(one.executor->info().vocab_size, 100, kBlock);
  std::vector<float> differences;
  for (size_t step = 0; step < script.size(); ++step) {
    SCOPED_TRACE(step);
    const auto want = script.Run(one, step);
    const auto got = script.Run(*group.side, step);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      for (const auto& [id, logprob] : want[i].top) {
        for (const auto& [other, value] : got[i].top) {
          if (other == id) differences.push_back(std::abs(value - logprob));
        }
      }
    }
  }
  ASSERT_GT(differences.size(), 40U);
  std::sort(differences.begin(), differences.end());
  EXPECT_LT(differences[differences.size() / 2], 0.02);
  EXPECT_LT(differences[differences.size() * 9 / 10], 0.1);
}

TEST_P(GroupDeviceTest, WhatTensorRanksComputeDoesNotDependOnCompanyOrChunks) {
  const std::string dir = Model(GetParam());
  DeviceGroup group(dir, "tp2");
  DeviceGroup again(dir, "tp2");
  const int64_t vocab = group.side->executor->info().vocab_size;
  const std::vector<int32_t> tokens = RandomTokens(90, vocab, 3);
  const std::vector<int32_t> other = RandomTokens(30, vocab, 4);
  const std::vector<int32_t> pages = {5, 9};
  const std::vector<int32_t> other_pages = {2};
  const std::span<const int32_t> all = tokens;
  ExpectSame(group.side->Run({{all.first(89), 0, pages, true, 80}}), [&] {
    again.side->Run({{all.first(33), 0, pages, false, 80}});
    auto last = again.side->Run(
        {{all.subspan(33, 56), 33, pages, true, 80}, {other, 0, other_pages, true, 30}});
    last.resize(1);
    return last;
  }());
  EXPECT_EQ(std::memcmp(group.side->Page(5), again.side->Page(5), group.format().block_bytes()), 0);
  ExpectSame(group.side->Run({{all.subspan(89, 1), 89, pages, true, 80}}),
             again.side->Run({{all.subspan(89, 1), 89, pages, true, 80}}));
}

INSTANTIATE_TEST_SUITE_P(Families, GroupDeviceTest, testing::Values("tiny", "tiny-deepseek-v2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) {
                             if (c == '-') c = '_';
                           }
                           return name;
                         });

// Rows on both sides of a stripe's end, after a prefix that somebody else computed.
TEST(GroupDeviceContext, RanksHaveTheBitsOfOneDeviceAndASpareTakesADeadOnesPlace) {
  ModelConfig config = WidePreset("tiny");
  config.context = 8192;
  const std::string dir = TestModel(config, {.dtype = "bf16"});
  Side one(OneDevice(dir));
  MetricsRegistry metrics("worker");
  DeviceGroup group(dir, "cp2", 1, &metrics);
  EXPECT_EQ(group.format().CanonicalText(), one.executor->info().kv_format.CanonicalText());
  constexpr int64_t kFirst = 4096 - 2;
  const std::vector<int32_t> tokens = RandomTokens(8, config.vocab, 5);
  const std::vector<int32_t> other = RandomTokens(8, config.vocab, 6);
  std::vector<int32_t> pages;
  std::mt19937 random(7);
  for (int32_t block = 0; block * 64 < kFirst + 8; ++block) {
    pages.push_back(kGroupPages - 1 - block);
    const std::span<uint16_t> values(reinterpret_cast<uint16_t*>(one.Page(pages.back())),
                                     group.format().block_bytes() / 2);
    for (uint16_t& value : values) {
      value = F32ToBf16(std::uniform_real_distribution<float>(-1, 1)(random));
    }
    std::memcpy(group.side->Page(pages.back()), values.data(), values.size_bytes());
    one.executor->OnPagesReplaced({&pages.back(), 1});
    group.side->executor->OnPagesReplaced({&pages.back(), 1});
  }
  const std::vector<int32_t> other_pages = {3};
  const std::span<const int32_t> all = tokens;
  const std::vector<std::vector<StepItem>> steps = {
      {{all.first(4), kFirst, pages, true}, {std::span(other).first(3), 0, other_pages, true}},
      {{all.subspan(4, 1), kFirst + 4, pages, true, kFirst + 4}},
      {{std::span(other).subspan(3, 1), 3, other_pages, true, 3}},
      {{all.subspan(5, 1), kFirst + 5, pages, true, kFirst + 4},
       {std::span(other).subspan(4, 1), 4, other_pages, true, 3}}};
  for (size_t step = 0; step < steps.size(); ++step) {
    SCOPED_TRACE(step);
    if (step == 3) group.ranks[0]->Kill();
    const auto want = one.Run(steps[step]);
    ExpectSame(group.side->Run(steps[step]), want);
    ASSERT_EQ(group.side->pool, one.pool);
  }
  EXPECT_THAT(metrics.Serialize(), Not(HasSubstr("reprise_group_places_replaced_total 0")));
}

TEST(GroupDeviceDeath, ASpareTakesADeadRanksPlaceAndNoBitChanges) {
  const std::string dir = Model("tiny");
  DeviceGroup whole(dir, "pp2,tp2");
  MetricsRegistry metrics("worker");
  DeviceGroup group(dir, "pp2,tp2", 1, &metrics);
  const Script script(whole.side->executor->info().vocab_size, 100, kBlock);
  for (size_t step = 0; step < script.size(); ++step) {
    SCOPED_TRACE(step);
    if (step == 4) group.ranks[1]->Kill();
    const auto want = script.Run(*whole.side, step);
    ExpectSame(script.Run(*group.side, step), want);
    ASSERT_EQ(group.side->pool, whole.side->pool);
  }
  EXPECT_THAT(metrics.Serialize(), Not(HasSubstr("reprise_group_places_replaced_total 0")));
}

TEST(GroupDeviceDeath, WhatDoesNotFitIsRefusedByName) {
  const std::string dir = Model("tiny");
  const ModelExecutorOptions options{.model_dir = dir, .block_tokens = kBlock};
  const auto context = RankModel::Load(options, kEmulated, {.context = 2}, 1);
  EXPECT_EQ(context.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(context.status().message(), HasSubstr("a multiple of 8 leaves, the group's have 1"));
  // A rank on the CPU beside a driver on a device.
  const RankProcess rank(options, "tp2", 1);
  const auto group = MakeGroup(options, "tp2", {rank.address()}, nullptr, kEmulated);
  std::vector<uint8_t> pool(kGroupPages * group->info().kv_format.block_bytes());
  group->AttachPool(pool.data(), kGroupPages);
  const std::vector<int32_t> tokens = {1};
  const std::vector<int32_t> pages = {0};
  const StepItem item{tokens, 0, pages, true};
  const Status status = group->Run({&item, 1}, [](uint32_t) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(status.message(), HasSubstr("the group keeps"));
}

}  // namespace
}  // namespace reprise::worker
