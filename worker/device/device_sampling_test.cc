// Tokens that a device draws are the host's, to the bit: on the emulator, or on a card.
#include <gtest/gtest.h>

#include <bit>
#include <span>
#include <vector>

#include "worker/device/device_test_fixture.h"

namespace reprise::worker {
namespace {

class DeviceSampling : public cuda::testing::OnDevice {};

// Every option of sampling, and what is left to the host at the end.
constexpr size_t kOnDevice = 7;
std::vector<SamplingParams> AllParams() {
  std::vector<SamplingParams> all(kOnDevice + 2);
  for (size_t i = 0; i < all.size(); ++i) all[i].seed = 1000 + i;
  all[0].temperature = 0;
  all[1].temperature = 0.8F;
  all[1].top_logprobs = 20;
  all[2].top_k = 5;
  all[2].temperature = 3;
  all[3].top_p = 0.6F;
  all[3].min_p = 0.01F;
  all[3].top_logprobs = 3;
  all[4].repetition_penalty = 1.4F;
  all[4].presence_penalty = 0.5F;
  all[4].frequency_penalty = -0.3F;
  all[5].logit_bias = {{3, 9}, {5, 8.5F}, {1 << 20, 90}};
  all[6].min_tokens = 100;
  all[6].temperature = 0;
  all[6].logit_bias = {{7, 90}};
  all[6].eos_ids = {7};
  all[6].stop_ids = {8};
  all[7].logit_bias = {{4, 20}, {4, -11}};
  all[8].top_logprobs = kSampledTopMax + 1;
  return all;
}

void ExpectSame(const SampledToken& got, const SampledToken& want) {
  EXPECT_EQ(got.id, want.id);
  EXPECT_EQ(std::bit_cast<uint32_t>(got.logprob), std::bit_cast<uint32_t>(want.logprob))
      << got.logprob << " and " << want.logprob;
  ASSERT_EQ(got.top.size(), want.top.size());
  for (size_t i = 0; i < want.top.size(); ++i) {
    EXPECT_EQ(got.top[i].first, want.top[i].first) << i;
    EXPECT_EQ(std::bit_cast<uint32_t>(got.top[i].second),
              std::bit_cast<uint32_t>(want.top[i].second))
        << i;
  }
}

// Rows that go on, each with parameters of its own, beside a prompt whose branches begin.
TEST_F(DeviceSampling, ItsSamplesAreTheHostsInAnyCompany) {
  const ModelConfig config = PlainConfigs()[0];
  Device device({.model_dir = TestModel(config, {.dtype = "bf16"}), .unproven_kernels = true});
  const std::vector<int32_t> tokens = RandomTokens(40, config.vocab, 13);
  const std::vector<SamplingParams> params = AllParams();
  const std::vector<std::vector<int32_t>> pages = {{0}, {1}, {2}, {3}, {4}, {5}, {6}};
  std::vector<StepItem> items;
  std::vector<StepSample> samples;
  for (size_t i = 0; i < 6; ++i) {
    device.Logits(std::span(tokens).subspan(i, 9), 0, 8, 8, INT64_MAX, pages[i]);
    items.push_back({std::span(tokens).subspan(i + 8, 1), 8, pages[i], true});
    samples.push_back({i,
                       {.params = &params[i],
                        .branch = static_cast<uint32_t>(i % 3),
                        .index = 4,
                        .prompt = std::span(tokens).subspan(i, 5),
                        .generated = std::span(tokens).subspan(i + 5, 4)}});
  }
  items.push_back({std::span(tokens).subspan(20, 11), 0, pages[6], true});
  for (uint32_t branch = 0; branch < 2; ++branch) {
    for (const size_t i : {4, 6, 7, 8, 1}) {
      samples.push_back({6,
                         {.params = &params[i],
                          .branch = branch,
                          .prompt = std::span(tokens).subspan(20, 11),
                          .generated = {}}});
    }
  }
  ASSERT_TRUE(device.executor->Run(items, nullptr).ok());
  std::vector<SampledToken> want;
  want.reserve(samples.size());
  for (const StepSample& s : samples) want.push_back(device.executor->Sample(s.item, s.input));
  std::vector<SampledToken> got;
  ASSERT_TRUE(device.executor->RunAndSample(items, samples, nullptr, &got).ok());
  EXPECT_EQ(device.executor->drawn(), static_cast<int64_t>(samples.size()) - 4);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    SCOPED_TRACE(i);
    ExpectSame(got[i], want[i]);
  }
  std::vector<SampledToken> alone;
  for (size_t i = 0; i < samples.size(); ++i) {
    SCOPED_TRACE(i);
    const StepSample sample = {0, samples[i].input};
    ASSERT_TRUE(
        device.executor->RunAndSample({&items[samples[i].item], 1}, {&sample, 1}, nullptr, &alone)
            .ok());
    ASSERT_EQ(alone.size(), 1U);
    ExpectSame(alone[0], want[i]);
  }
  const StepSample none = {7, samples[0].input};
  EXPECT_EQ(device.executor->RunAndSample(items, {&none, 1}, nullptr, &got).code(),
            absl::StatusCode::kInvalidArgument);
}

// Two executors go on from their own tokens, one with captured steps that sample, one with the
// host's sampler. Histories grow, rows change parameters, in some steps a row is the host's, and in
// one the step's arrays outgrow their memory.
TEST_F(DeviceSampling, RepeatedStepsDrawTheHostsTokens) {
  for (const ModelConfig& config : {PlainConfigs()[0], HopperHeads()}) {
    const DeviceOptions options = {.model_dir = TestModel(config, {.dtype = "bf16"}),
                                   .unproven_kernels = true};
    Device device(options);
    Device host(options);
    ASSERT_NE(device.executor, nullptr);
    constexpr size_t kRows = 3;
    constexpr size_t kPrompt = 3;
    const std::vector<SamplingParams> params = AllParams();
    SamplingParams with_many = params[5];
    for (int32_t i = 0; i < 9000; ++i) with_many.logit_bias.emplace_back((2 << 20) + i, 1);
    const std::vector<std::vector<int32_t>> pages = {{4}, {1}, {6}};
    std::vector<std::vector<int32_t>> sequences;
    for (size_t row = 0; row < kRows; ++row) {
      sequences.push_back(RandomTokens(kPrompt + 1, config.vocab, 14 + row));
      for (Device* each : {&device, &host}) {
        each->Logits(sequences[row], 0, kPrompt, kPrompt, kPrompt, pages[row]);
      }
    }
    for (size_t step = 0; step < 9; ++step) {
      std::vector<StepItem> items;
      std::vector<StepSample> samples;
      const size_t at = kPrompt + step;
      for (size_t row = 0; row < kRows; ++row) {
        const std::span<const int32_t> known = sequences[row];
        items.push_back(
            {known.subspan(at, 1), static_cast<int64_t>(at), pages[row], true, kPrompt});
        const size_t kind = (4 + row + step / 2) % params.size();
        samples.push_back({row,
                           {.params = step == 6 && row == 1 ? &with_many : &params[kind],
                            .branch = 1,
                            .index = static_cast<uint32_t>(step + 1),
                            .prompt = known.first(kPrompt),
                            .generated = known.subspan(kPrompt)}});
      }
      std::vector<SampledToken> got;
      ASSERT_TRUE(device.executor->RunAndSample(items, samples, nullptr, &got).ok());
      EXPECT_EQ(device.executor->repeated(), step != 0 && step != 6) << step;
      ASSERT_TRUE(host.executor->Run(items, nullptr).ok());
      ASSERT_EQ(got.size(), kRows);
      for (size_t row = 0; row < kRows; ++row) {
        SCOPED_TRACE(testing::Message() << "step " << step << " row " << row);
        ExpectSame(got[row], host.executor->Sample(row, samples[row].input));
      }
      for (size_t row = 0; row < kRows; ++row) sequences[row].push_back(got[row].id);
    }
  }
}

}  // namespace
}  // namespace reprise::worker
