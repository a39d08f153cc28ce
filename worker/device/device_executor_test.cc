// The device's graph against the CPU's, and bit for bit against itself: on the emulator, or on a
// card.
#include "worker/device/device_executor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "common/crc32c.h"
#include "worker/device/device_test_fixture.h"
#include "worker/model/model_executor.h"

namespace reprise::worker {
namespace {

std::vector<float> CpuLogits(const std::string& dir, std::span<const int32_t> tokens,
                             std::span<const int32_t> pages, int64_t prompt_end) {
  auto executor = ModelExecutor::Create({.model_dir = dir});
  EXPECT_TRUE(executor.ok()) << executor.status();
  std::vector<uint8_t> pool(kPages * (*executor)->info().kv_format.block_bytes());
  (*executor)->AttachPool(pool.data(), kPages);
  const std::vector<StepItem> items = {{tokens, 0, pages, true, prompt_end}};
  EXPECT_TRUE((*executor)->RunAll(items).ok());
  std::vector<float> all;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::span<const float> row = (*executor)->logits(static_cast<int64_t>(i));
    all.insert(all.end(), row.begin(), row.end());
  }
  return all;
}

// ||got - want|| / ||want|| of each row, ascending.
std::vector<double> RowErrors(const std::vector<float>& got, const std::vector<float>& want,
                              int64_t vocab) {
  EXPECT_EQ(got.size(), want.size());
  std::vector<double> errors;
  const auto cols = static_cast<size_t>(vocab);
  for (size_t row = 0; row + cols <= std::min(got.size(), want.size()); row += cols) {
    double difference = 0;
    double norm = 0;
    for (size_t i = row; i < row + cols; ++i) {
      const double d = static_cast<double>(got[i]) - static_cast<double>(want[i]);
      difference += d * d;
      norm += static_cast<double>(want[i]) * static_cast<double>(want[i]);
    }
    errors.push_back(std::sqrt(difference / norm));
  }
  std::sort(errors.begin(), errors.end());
  return errors;
}

// The CPU keeps what it does not multiply in f32, and so does the device; attention's operands and
// the router's are rounded to bf16 here and not there, 2^-9 each, a few layers deep. A router's
// choice between experts that are nearly equal may then fall to the other, for few rows.
void ExpectClose(const std::vector<float>& got, const std::vector<float>& want, int64_t vocab) {
  const std::vector<double> errors = RowErrors(got, want, vocab);
  EXPECT_LT(errors[errors.size() / 2], 0.015);
  EXPECT_LT(errors[errors.size() * 9 / 10], 0.03);
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class DeviceExecutorTest : public cuda::testing::OnDevice {
 protected:
  const std::vector<int32_t> pages_ = {5, 2, 7, 0};
};

TEST_F(DeviceExecutorTest, EveryFamilyAgreesWithTheCpu) {
  for (const ModelConfig& config : PlainConfigs()) {
    SCOPED_TRACE(std::string(FamilyName(config.family)));
    const std::string dir = TestModel(config, {.dtype = "bf16"});
    const std::vector<int32_t> tokens = RandomTokens(70, config.vocab, 3);
    Device device({.model_dir = dir});
    ASSERT_NE(device.executor, nullptr);
    const std::vector<float> got = device.Logits(tokens, 0, 70, 70, INT64_MAX, pages_);
    ExpectClose(got, CpuLogits(dir, tokens, pages_, INT64_MAX), config.vocab);
  }
}

TEST_F(DeviceExecutorTest, HopperKernelsAgreeWithTheCpu) {
  for (const ModelConfig& config : {HopperHeads(), HopperLatents()}) {
    const std::string dir = TestModel(config, {.dtype = "bf16"});
    const std::vector<int32_t> tokens = RandomTokens(70, config.vocab, 4);
    Device device({.model_dir = dir, .unproven_kernels = true});
    ASSERT_NE(device.executor, nullptr);
    if (cuda::DeviceInfo info; cuda::FindDevice(&info) == 0 && info.major == 9) {
      EXPECT_TRUE(device.executor->kernels().gemm);
      EXPECT_TRUE(device.executor->kernels().prefill);
      EXPECT_TRUE(device.executor->kernels().decode);
    }
    const std::vector<float> got = device.Logits(tokens, 0, 70, 70, 66, pages_);
    ExpectClose(got, CpuLogits(dir, tokens, pages_, 66), config.vocab);
  }
}

// Rows in fp8 hold values to within 2^-4 of themselves, 2^-6 on average, where the CPU's are bf16.
// The two ways to attend read the same rows: they agree as they do over bf16.
TEST_F(DeviceExecutorTest, RowsInFp8AreNearTheCpusAndTheSameForAllKernels) {
  const ModelConfig config = HopperLatents();
  const std::string dir = TestModel(config, {.dtype = "bf16"});
  const std::vector<int32_t> tokens = RandomTokens(70, config.vocab, 4);
  Device plain({.model_dir = dir, .kv_dtype = "fp8"});
  Device hopper({.model_dir = dir, .kv_dtype = "fp8", .unproven_kernels = true});
  ASSERT_NE(hopper.executor, nullptr);
  const kv::KvFormat& format = hopper.executor->info().kv_format;
  EXPECT_EQ(format.row_bytes(), 656U);
  EXPECT_EQ(format.codec, kv::ElementCodec::kFp8Mla);
  EXPECT_NE(format.Digest(), Device({.model_dir = dir}).executor->info().kv_format.Digest());
  const std::vector<float> got = hopper.Logits(tokens, 0, 70, 70, 66, pages_);
  ExpectClose(got, plain.Logits(tokens, 0, 70, 70, 66, pages_), config.vocab);
  const std::vector<double> errors =
      RowErrors(got, CpuLogits(dir, tokens, pages_, 66), config.vocab);
  EXPECT_LT(errors[errors.size() / 2], 0x1p-4);
  EXPECT_GT(errors[errors.size() / 2], 0);
}

TEST_F(DeviceExecutorTest, ChunksAndCompanyChangeNoBit) {
  struct Case {
    bool unproven;
    const char* kv_dtype;
  };
  for (const auto& [unproven, kv_dtype] :
       {Case{false, "auto"}, Case{true, "auto"}, Case{false, "fp8"}, Case{true, "fp8"}}) {
    SCOPED_TRACE(::testing::Message() << "unproven " << unproven << ", rows " << kv_dtype);
    const bool latents = unproven || std::string(kv_dtype) == "fp8";
    const ModelConfig config = latents ? HopperLatents() : PlainConfigs()[1];
    Device device({.model_dir = TestModel(config, {.dtype = "bf16"}),
                   .kv_dtype = kv_dtype,
                   .unproven_kernels = unproven});
    ASSERT_NE(device.executor, nullptr);
    const std::vector<int32_t> tokens = RandomTokens(70, config.vocab, 5);
    const std::vector<float> whole = device.Logits(tokens, 0, 70, 70, 66, pages_);
    const std::vector<uint8_t> pool = device.pool;
    EXPECT_TRUE(SameBits(device.Logits(tokens, 0, 70, 27, 66, pages_), whole));
    EXPECT_EQ(device.pool, pool);
    // The last row beside another sequence's.
    const std::vector<int32_t> others = RandomTokens(9, config.vocab, 6);
    const std::vector<int32_t> other_pages = {3};
    const std::vector<StepItem> items = {
        {others, 0, other_pages, true, 5},
        {std::span(tokens).subspan(69, 1), 69, pages_, true, 66},
    };
    ASSERT_TRUE(device.executor->Run(items, nullptr).ok());
    const auto vocab = static_cast<size_t>(config.vocab);
    const std::span<const float> last = device.executor->logits(1);
    EXPECT_EQ(std::memcmp(last.data(), whole.data() + 69 * vocab, vocab * sizeof(float)), 0);
  }
}

// Steps of single rows are captured and repeated; filled up to a shape's rows, with a page table's
// room.
TEST_F(DeviceExecutorTest, RepeatedStepsHaveTheBitsOfOthers) {
  struct Case {
    ModelConfig config;
    const char* kv_dtype = "auto";
  };
  for (const auto& [config, kv_dtype] : {Case{PlainConfigs()[1]}, Case{HopperHeads()},
                                         Case{HopperLatents()}, Case{HopperLatents(), "fp8"}}) {
    const bool unproven = config.head_dim >= 64;
    Device device({.model_dir = TestModel(config, {.dtype = "bf16"}),
                   .kv_dtype = kv_dtype,
                   .unproven_kernels = unproven});
    ASSERT_NE(device.executor, nullptr);
    const std::vector<int32_t> tokens = RandomTokens(72, config.vocab, 11);
    constexpr int64_t kPromptEnd = 62;
    const std::vector<float> whole = device.Logits(tokens, 0, 72, 72, kPromptEnd, pages_);
    const std::vector<uint8_t> pool = device.pool;
    const std::vector<std::vector<int32_t>> others = {{3}, {6}, {4}, {1}};
    const auto vocab = static_cast<size_t>(config.vocab);
    int repeated = 0;
    for (size_t at = kPromptEnd; at < 72; ++at) {
      std::vector<StepItem> items;
      // One, then five rows, which are filled up to six, and one again.
      if (at % 4 >= 2) {
        for (const std::vector<int32_t>& page : others) {
          items.push_back({std::span(tokens).subspan(at - 50, 1), static_cast<int64_t>(at - 60),
                           page, true, 0});
        }
      }
      items.push_back(
          {std::span(tokens).subspan(at, 1), static_cast<int64_t>(at), pages_, true, kPromptEnd});
      ASSERT_TRUE(device.executor->Run(items, nullptr).ok());
      repeated += device.executor->repeated() ? 1 : 0;
      const std::span<const float> last =
          device.executor->logits(static_cast<int64_t>(items.size()) - 1);
      EXPECT_EQ(std::memcmp(last.data(), whole.data() + at * vocab, vocab * sizeof(float)), 0)
          << at;
    }
    EXPECT_GE(repeated, 4);
    const size_t page = device.executor->info().kv_format.block_bytes();
    for (const int32_t own : {5, 2}) {
      EXPECT_EQ(std::memcmp(device.pool.data() + static_cast<size_t>(own) * page,
                            pool.data() + static_cast<size_t>(own) * page, page),
                0);
    }
  }
}

// Branches of a prompt: pages [0, 8) are everybody's, a page behind them is each one's own.
class Branches {
 public:
  static constexpr int64_t kPrompt = 512;
  static constexpr size_t kRows = 9;
  static constexpr size_t kSteps = 4;
  explicit Branches(const std::string& dir, const ModelConfig& config)
      : device({.model_dir = dir, .unproven_kernels = true}, 8 + int32_t{kRows}),
        vocab_(static_cast<size_t>(config.vocab)) {
    const std::vector<int32_t> prompt = RandomTokens(size_t{kPrompt}, config.vocab, 21);
    for (size_t row = 0; row < kRows; ++row) {
      pages_.push_back({0, 1, 2, 3, 4, 5, 6, 7, 8 + static_cast<int32_t>(row)});
      tokens_.push_back(RandomTokens(kSteps, config.vocab, 22 + static_cast<uint32_t>(row)));
    }
    device.Logits(prompt, 0, size_t{kPrompt}, size_t{kPrompt}, kPrompt, pages_[0]);
  }
  StepItem Item(size_t row, size_t step) const {
    return {std::span(tokens_[row]).subspan(step, 1), kPrompt + static_cast<int64_t>(step),
            pages_[row], true, kPrompt};
  }
  // Another sequence's, of one page.
  StepItem Short(size_t row) const {
    return {std::span(tokens_[row]).first(1), 0, std::span(pages_[row]).last(1), true, 0};
  }
  std::span<const int32_t> pages(size_t row) const { return pages_[row]; }
  // Logits of a step.
  std::vector<std::vector<float>> Run(const std::vector<StepItem>& items) {
    const Status status = device.executor->Run(items, nullptr);
    EXPECT_TRUE(status.ok()) << status;
    std::vector<std::vector<float>> rows;
    for (size_t i = 0; i < items.size(); ++i) {
      const std::span<const float> row = device.executor->logits(static_cast<int64_t>(i));
      rows.emplace_back(row.begin(), row.begin() + static_cast<int64_t>(vocab_));
    }
    return rows;
  }

  Device device;

 private:
  const size_t vocab_;
  std::vector<std::vector<int32_t>> pages_, tokens_;
};

// Branches decode together: what they share is read once for all of them, captured or not, and a
// step of the same rows that shares nothing comes between.
TEST_F(DeviceExecutorTest, RowsThatSharePagesHaveTheBitsOfRowsAlone) {
  ModelConfig config = HopperHeads();
  config.context = 1024;
  const std::string dir = TestModel(config, {.dtype = "bf16"});
  Branches branches(dir, config);
  ASSERT_NE(branches.device.executor, nullptr);
  const DeviceExecutor& executor = *branches.device.executor;
  if (!executor.kernels().decode) GTEST_SKIP() << "not a Hopper card";
  EXPECT_EQ(executor.shared_rows(), 0) << "a prompt";
  std::vector<std::vector<std::vector<float>>> want(Branches::kSteps);
  for (size_t step = 0; step < Branches::kSteps; ++step) {
    for (size_t row = 0; row < Branches::kRows; ++row) {
      want[step].push_back(branches.Run({branches.Item(row, step)})[0]);
      EXPECT_EQ(executor.shared_rows(), 0);
    }
  }
  // Positions of one sequence that are replayed at once are such rows, too.
  const std::vector<int32_t> replayed = RandomTokens(521, config.vocab, 40);
  const auto replay = [&](size_t chunk) {
    return branches.device.Logits(replayed, 512, 9, chunk, Branches::kPrompt, branches.pages(0));
  };
  const std::vector<float> one_by_one = replay(1);
  EXPECT_TRUE(SameBits(replay(9), one_by_one));
  EXPECT_EQ(executor.shared_rows(), 9);
  for (size_t step = 0; step < Branches::kSteps; ++step) branches.Run({branches.Item(0, step)});
  const std::vector<uint8_t> pool = branches.device.pool;
  for (size_t step = 0; step < Branches::kSteps; ++step) {
    std::vector<StepItem> items;
    for (size_t row = 0; row < Branches::kRows; ++row) items.push_back(branches.Item(row, step));
    const std::vector<std::vector<float>> got = branches.Run(items);
    EXPECT_EQ(executor.shared_rows(), int64_t{Branches::kRows});
    EXPECT_EQ(executor.repeated(), step > 0) << step;
    for (size_t row = 0; row < Branches::kRows; ++row) {
      EXPECT_TRUE(SameBits(got[row], want[step][row])) << "step " << step << " row " << row;
    }
    if (step != 1) continue;
    for (size_t row = 1; row < Branches::kRows; ++row) items[row] = branches.Short(row);
    EXPECT_TRUE(SameBits(branches.Run(items)[0], want[step][0]));
    EXPECT_EQ(executor.shared_rows(), 0);
    EXPECT_FALSE(executor.repeated()) << "of another shape";
    branches.device.pool = pool;
    branches.device.executor->OnPagesReplaced(std::vector<int32_t>{9, 10, 11, 12, 13, 14, 15, 16});
  }
  EXPECT_EQ(branches.device.pool, pool);
}

// A larger step moves the memory that captured ones are about.
TEST_F(DeviceExecutorTest, ARepeatedStepFollowsItsMemory) {
  const ModelConfig config = PlainConfigs()[0];
  const std::string dir = TestModel(config, {.dtype = "bf16"});
  const std::vector<int32_t> tokens = RandomTokens(70, config.vocab, 12);
  const std::vector<int32_t> own = {3, 6};
  Device apart({.model_dir = dir});
  const std::vector<float> want = apart.Logits(tokens, 0, 6, 6, INT64_MAX, own);
  Device device({.model_dir = dir});
  const auto vocab = static_cast<size_t>(config.vocab);
  for (size_t at = 0; at < 6; ++at) {
    if (at == 3) device.Logits(tokens, 0, 70, 70, INT64_MAX, pages_);
    const std::vector<StepItem> items = {
        {std::span(tokens).subspan(at, 1), static_cast<int64_t>(at), own, true}};
    ASSERT_TRUE(device.executor->Run(items, nullptr).ok());
    EXPECT_EQ(device.executor->repeated(), at != 0 && at != 3) << at;
    const std::span<const float> got = device.executor->logits(0);
    EXPECT_EQ(std::memcmp(got.data(), want.data() + at * vocab, vocab * sizeof(float)), 0) << at;
  }
}

void GoOnFromAnothersPages(const ModelConfig& config, DeviceOptions options,
                           std::span<const int32_t> pages) {
  options.model_dir = TestModel(config, {.dtype = "bf16"});
  const std::vector<int32_t> tokens = RandomTokens(70, config.vocab, 7);
  Device first(options);
  const std::vector<float> whole = first.Logits(tokens, 0, 70, 70, 60, pages);
  Device second(options);
  EXPECT_EQ(second.executor->info().kv_format.Digest(), first.executor->info().kv_format.Digest());
  // Its device knows the page as it was, until it is told.
  second.Logits(tokens, 0, 3, 3, 60, pages);
  const size_t page = second.executor->info().kv_format.block_bytes();
  std::memcpy(second.pool.data() + 5 * page, first.pool.data() + 5 * page, page);
  std::memcpy(second.pool.data() + 2 * page, first.pool.data() + 2 * page, page);
  second.executor->OnPagesReplaced(std::vector<int32_t>{5, 2});
  const std::vector<float> rest = second.Logits(tokens, 65, 5, 5, 60, pages);
  const auto vocab = static_cast<size_t>(config.vocab);
  EXPECT_EQ(std::memcmp(rest.data(), whole.data() + 65 * vocab, rest.size() * sizeof(float)), 0);
}

TEST_F(DeviceExecutorTest, AnotherProcessGoesOnFromTheHostsPages) {
  GoOnFromAnothersPages(PlainConfigs()[0], {}, pages_);
  GoOnFromAnothersPages(HopperLatents(), {.kv_dtype = "fp8", .unproven_kernels = true}, pages_);
}

TEST_F(DeviceExecutorTest, LayersAreDoneInOrderWithTheirRowsOnTheHost) {
  Device device({.model_dir = TestModel(PlainConfigs()[0], {.dtype = "bf16"})});
  const std::vector<int32_t> tokens = RandomTokens(3, PlainConfigs()[0].vocab, 8);
  const std::vector<StepItem> items = {{tokens, 0, pages_, true}};
  const kv::KvFormat& format = device.executor->info().kv_format;
  uint32_t next = 0;
  const auto rows_of = [&](uint32_t layer) {
    const uint8_t* segment =
        device.pool.data() + 5 * format.block_bytes() + layer * format.segment_bytes();
    return std::any_of(segment, segment + format.segment_bytes(), [](uint8_t b) { return b != 0; });
  };
  ASSERT_TRUE(device.executor
                  ->Run(items,
                        [&](uint32_t layer) {
                          EXPECT_EQ(layer, next++);
                          EXPECT_TRUE(rows_of(layer));
                        })
                  .ok());
  EXPECT_EQ(next, format.layers);
}

// What takes long on the emulated device is done before the first layer is kept.
TEST_F(DeviceExecutorTest, LayersGiveSignsOfLifeAsTheyAreQueued) {
  Device device({.model_dir = TestModel(PlainConfigs()[0], {.dtype = "bf16"})});
  const std::vector<int32_t> tokens = RandomTokens(3, PlainConfigs()[0].vocab, 16);
  const std::vector<StepItem> items = {{tokens, 0, pages_, true}};
  uint32_t ticks = 0;
  std::vector<uint32_t> by_layer;
  device.executor->SetTick([&] { ++ticks; });
  ASSERT_TRUE(device.executor->Run(items, [&](uint32_t) { by_layer.push_back(ticks); }).ok());
  EXPECT_GE(by_layer.at(0), device.executor->info().kv_format.layers);
}

// Pages that a step writes whole come with their sums; those that are finished by pieces do not.
TEST_F(DeviceExecutorTest, SegmentsWrittenWholeComeSummed) {
  for (const ModelConfig& config : {PlainConfigs()[0], PlainConfigs()[3]}) {
    Device device({.model_dir = TestModel(config, {.dtype = "bf16"}), .unproven_kernels = true});
    ASSERT_NE(device.executor, nullptr);
    const std::vector<int32_t> tokens = RandomTokens(200, config.vocab, 15);
    const std::vector<int32_t> others = {3, 6};
    const kv::KvFormat& format = device.executor->info().kv_format;
    const auto expect = [&](int32_t page, uint32_t layer, bool whole) {
      const uint8_t* segment =
          device.pool.data() + page * format.block_bytes() + layer * format.segment_bytes();
      const std::optional<uint32_t> part = device.executor->SegmentPart(page, layer);
      ASSERT_EQ(part.has_value(), whole) << page << " " << layer;
      if (whole) EXPECT_EQ(*part, Crc32cPart(segment, format.segment_bytes()));
    };
    uint32_t layers = 0;
    // Two whole pages, one of them of both forms, and the beginning of a third; and another
    // sequence's, which begins within a page.
    const std::vector<StepItem> first = {
        {std::span(tokens).first(140), 0, pages_, true, 100},
        {std::span(tokens).first(5), 0, others, true, 100},
    };
    const std::vector<StepItem> second = {
        {std::span(tokens).subspan(140, 60), 140, pages_, true, 100},
        {std::span(tokens).subspan(5, 123), 5, others, true, 100},
    };
    ASSERT_TRUE(device.executor
                    ->Run(first,
                          [&](uint32_t layer) {
                            expect(5, layer, true);
                            expect(2, layer, true);
                            expect(7, layer, false);
                            expect(3, layer, false);
                            ++layers;
                          })
                    .ok());
    ASSERT_TRUE(device.executor
                    ->Run(second,
                          [&](uint32_t layer) {
                            expect(5, layer, false);
                            expect(7, layer, false);
                            expect(3, layer, false);
                            expect(6, layer, true);
                            ++layers;
                          })
                    .ok());
    EXPECT_EQ(layers, 2 * format.layers);
  }
}

TEST_F(DeviceExecutorTest, WhatDoesNotFitIsRefusedAndSaysWhatWould) {
  const std::string dir = TestModel(PlainConfigs()[0], {.dtype = "bf16"});
  const auto made = DeviceExecutor::Create(
      {.model_dir = dir, .pool_bytes = int64_t{1} << 50, .emulated = kEmulated});
  EXPECT_EQ(made.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(std::string(made.status().message()).find("would fit"), std::string::npos)
      << made.status();
  EXPECT_EQ(DeviceExecutor::Create({.model_dir = dir, .kv_dtype = "f32"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  for (const ModelConfig& config : {PlainConfigs()[0], PlainConfigs()[3]}) {
    const auto fp8 = DeviceExecutor::Create({.model_dir = TestModel(config, {.dtype = "bf16"}),
                                             .kv_dtype = "fp8",
                                             .emulated = kEmulated});
    EXPECT_EQ(fp8.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(fp8.status().message());
    EXPECT_NE(message.find("for latents of 512 with 64 rotated values, the model has "),
              std::string::npos)
        << message;
    EXPECT_NE(message.find(config.latent ? "latents of " + std::to_string(config.latent->kv_rank)
                                         : "key and value heads of "),
              std::string::npos)
        << message;
  }
  EXPECT_EQ(DeviceExecutor::Create({.model_dir = dir, .block_tokens = 16}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DeviceExecutor::Create({.model_dir = dir, .emulated = !kEmulated}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

#if !defined(REPRISE_ON_CARD)
TEST_F(DeviceExecutorTest, AFailedDeviceIsFinal) {
  Device device({.model_dir = TestModel(PlainConfigs()[0], {.dtype = "bf16"})});
  const std::vector<int32_t> tokens = RandomTokens(3, PlainConfigs()[0].vocab, 9);
  const std::vector<StepItem> items = {{tokens, 0, pages_, true}};
  ASSERT_TRUE(device.executor->Run(items, nullptr).ok());
  cuda::emulator::BreakDevice();
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(device.executor->Run(items, nullptr).code(), absl::StatusCode::kUnavailable);
  }
}
#endif

}  // namespace
}  // namespace reprise::worker
