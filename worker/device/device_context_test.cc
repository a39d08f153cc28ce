// Context ranks on devices: every way of attending together gives the logits and the rows of one
// device, to the bit.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/half.h"
#include "worker/device/device_test_fixture.h"
#include "worker/device/host_pages.h"
#include "worker/device/loaded_device.h"
#include "worker/parallel/in_process.h"

namespace reprise::worker {
namespace {

using parallel::Merge;
using parallel::Stripes;
using parallel::Way;

constexpr int64_t kStripe = kv::kLeafPositions * kDeviceStripeLeaves;

struct Case {
  std::string name;
  std::string model;
  int ranks = 2;
  parallel::ContextRules rules;
  bool unproven = false;
  std::string kv_dtype = "auto";
  int64_t stripes = 1;  // before the one in which the long sequence goes on
  int64_t layers = 1;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

ModelConfig ConfigOf(const Case& c) {
  ModelConfig config = c.model == "heads"          ? *PresetConfig("tiny-llama3")
                       : c.model == "latents"      ? PlainConfigs()[3]
                       : c.model == "hopper heads" ? HopperHeads()
                                                   : HopperLatents();
  if (c.model == "hopper latents") config.heads = config.kv_heads = 1;
  if (!config.latent) {
    config.heads = 2;
    config.kv_heads = 1;
  }
  config.layers = c.layers;
  if (config.mixture) config.mixture->layers.resize(static_cast<size_t>(c.layers));
  config.context = 8 * kStripe;
  return config;
}

// Bytes that are rows of the format, whatever they say.
std::vector<uint8_t> RandomBlock(const kv::KvFormat& format, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> block(format.block_bytes());
  if (format.codec != kv::ElementCodec::kFp8Mla) {
    auto* const values = reinterpret_cast<uint16_t*>(block.data());
    for (size_t i = 0; i < block.size() / 2; ++i) {
      values[i] = F32ToBf16(std::uniform_real_distribution<float>(-1, 1)(random));
    }
    return block;
  }
  for (size_t row = 0; row < block.size(); row += kernels::kFp8RowBytes) {
    for (size_t i = 0; i < 512; ++i) block[row + i] = static_cast<uint8_t>(random() & 0xF7);
    const float scale = 1.0F / 512;
    for (size_t i = 0; i < 4; ++i) std::memcpy(&block[row + 512 + 4 * i], &scale, 4);
    for (size_t i = 0; i < 64; ++i) {
      const uint16_t value = F32ToBf16(std::uniform_real_distribution<float>(-1, 1)(random));
      std::memcpy(&block[row + 528 + 2 * i], &value, 2);
    }
  }
  return block;
}

// A sequence of which [0, first) was computed by somebody else.
struct Sequence {
  std::vector<int32_t> tokens;  // at positions first, first + 1, ...
  int64_t first = 0;
  int32_t first_page = 0;  // block b is in page first_page + b, on every rank
};

// A device that computes all rows, or those of a context rank.
class Side {
 public:
  Side(const DeviceOptions& options, const kv::GroupSplit& split, int32_t pages)
      : loaded_(*LoadOnDevice(options, split)), pages_(loaded_.model.get(), format()) {
    pool_.resize(static_cast<size_t>(pages) * format().block_bytes());
    EXPECT_TRUE(pages_.Attach(pool_.data(), pages).ok());
  }
  void SetContext(std::unique_ptr<parallel::Communicator> communicator, const Stripes& stripes,
                  const parallel::ContextRules& rules) {
    communicator_ = std::move(communicator);
    auto compute = *DeviceContextCompute::Make(loaded_.model->stream());
    auto* const raw = compute.get();
    context_ =
        std::make_unique<ContextParallel>(*communicator_, std::move(compute), stripes, rules);
    pages_.SetContext(context_.get());
    loaded_.model->SetRanks({.context = context_.get(), .compute = raw});
  }
  ~Side() { loaded_.model->SetRanks({}); }

  const kv::KvFormat& format() const { return loaded_.info.kv_format; }
  const ContextParallel* context() const { return context_.get(); }
  bool Owns(int64_t position) const { return context_ == nullptr || context_->Owns(position); }
  std::span<const uint8_t> Page(int32_t page) const {
    return std::span(pool_).subspan(static_cast<size_t>(page) * format().block_bytes(),
                                    format().block_bytes());
  }

  void Give(const Sequence& s) {
    for (int64_t block = 0; block * 64 < s.first; ++block) {
      if (!Owns(block * 64)) continue;
      const auto page = s.first_page + static_cast<int32_t>(block);
      const std::vector<uint8_t> bytes = RandomBlock(format(), static_cast<uint32_t>(page));
      std::memcpy(pool_.data() + static_cast<size_t>(page) * bytes.size(), bytes.data(),
                  bytes.size());
      pages_.OnReplaced(page);
    }
  }

  struct Part {
    const Sequence* sequence;
    int64_t first;
    int64_t rows;
    int64_t prompt_end = INT64_MAX;
  };
  Status Run(const std::vector<Part>& parts, TimeNs deadline_ns) {
    std::vector<std::vector<int32_t>> tables;
    std::vector<StepItem> items;
    for (const Part& part : parts) {
      std::vector<int32_t>& table = tables.emplace_back();
      for (int64_t block = 0; block * 64 < part.first + part.rows; ++block) {
        if (!Owns(block * 64)) continue;
        table.push_back(part.sequence->first_page + static_cast<int32_t>(block));
      }
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      const Part& part = parts[i];
      items.push_back({std::span(part.sequence->tokens)
                           .subspan(static_cast<size_t>(part.first - part.sequence->first),
                                    static_cast<size_t>(part.rows)),
                       part.first, tables[i], true, part.prompt_end});
    }
    RETURN_IF_ERROR(pages_.GiveReplaced(items));
    RETURN_IF_ERROR(
        loaded_.model->Forward({.items = items, .all_outputs = true}, nullptr, deadline_ns));
    for (uint32_t layer = 0; layer < format().layers; ++layer) {
      RETURN_IF_ERROR(pages_.TakeLayer(layer));
    }
    return loaded_.model->AwaitOutputs();
  }
  std::span<const float> logits(int64_t output) const { return loaded_.model->logits(output); }

 private:
  LoadedDevice loaded_;
  HostPages pages_;
  std::vector<uint8_t> pool_;
  std::unique_ptr<parallel::Communicator> communicator_;
  std::unique_ptr<ContextParallel> context_;
};

class DeviceContext : public cuda::testing::OnDevice, public testing::WithParamInterface<Case> {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    if (!kEmulated) GTEST_SKIP() << "ranks of this test share the host's memory";
    const Case& c = GetParam();
    const DeviceOptions options{.model_dir = TestModel(ConfigOf(c), {.dtype = "bf16"}),
                                .kv_dtype = c.kv_dtype,
                                .emulated = true,
                                .unproven_kernels = c.unproven};
    const auto vocab = ConfigOf(c).vocab;
    long_ = {RandomTokens(6, vocab, 1), c.stripes * kStripe - 2, 0};
    const auto pages = static_cast<int32_t>((c.stripes * kStripe + 64) / 64);
    short_ = {RandomTokens(70, vocab, 2), 0, pages};
    one_ = std::make_unique<Side>(options, kv::GroupSplit{}, pages + 3);
    const kv::GroupSplit split{.context = static_cast<uint32_t>(c.ranks),
                               .stripe_leaves = kDeviceStripeLeaves};
    group_.emplace(c.ranks);
    const Stripes stripes = *Stripes::Make(c.ranks, kDeviceStripeLeaves);
    for (int r = 0; r < c.ranks; ++r) {
      ranks_.push_back(std::make_unique<Side>(options, split, pages + 3));
      ranks_.back()->SetContext(group_->MakeCommunicator(r), stripes, c.rules);
    }
    one_->Give(long_);
    for (const auto& rank : ranks_) rank->Give(long_);
  }

  // Logits of every row, by its owner.
  void ExpectOneDevices(const std::vector<Side::Part>& parts) {
    ASSERT_TRUE(one_->Run(parts, INT64_MAX).ok());
    std::vector<Status> statuses(ranks_.size());
    std::vector<std::thread> threads;
    for (size_t r = 0; r < ranks_.size(); ++r) {
      threads.emplace_back(
          [&, r] { statuses[r] = ranks_[r]->Run(parts, RealClock().NowNs() + 300 * kSecond); });
    }
    for (std::thread& thread : threads) thread.join();
    for (const Status& status : statuses) ASSERT_TRUE(status.ok()) << status;
    int64_t output = 0;
    std::vector<int64_t> given(ranks_.size());
    for (const Side::Part& part : parts) {
      for (int64_t position = part.first; position < part.first + part.rows; ++position) {
        const auto owner =
            static_cast<size_t>(ranks_[0]->context()->stripes().OwnerOfPosition(position));
        const std::span<const float> want = one_->logits(output++);
        const std::span<const float> got = ranks_[owner]->logits(given[owner]++);
        ASSERT_EQ(std::memcmp(got.data(), want.data(), want.size_bytes()), 0)
            << "position " << position << " of rank " << owner;
        const auto page = part.sequence->first_page + static_cast<int32_t>(position / 64);
        ASSERT_TRUE(std::ranges::equal(ranks_[owner]->Page(page), one_->Page(page)))
            << "position " << position << " of rank " << owner;
      }
    }
  }

  Sequence long_, short_;
  std::optional<parallel::InProcessGroup> group_;
  std::unique_ptr<Side> one_;
  std::vector<std::unique_ptr<Side>> ranks_;
};

TEST_P(DeviceContext, LogitsAndRowsAreOneDevices) {
  // Rows of both sides of a stripe's end, and all of a sequence that one rank has alone. Keys of
  // one call come to where those of the one before may still be read.
  ExpectOneDevices({{&long_, long_.first, 1},
                    {&long_, long_.first + 1, 1},
                    {&long_, long_.first + 2, 2},
                    {&short_, 0, 66}});
  if (HasFatalFailure()) return;
  // The other ranks have no row.
  ExpectOneDevices({{&short_, 66, 1}});
  if (HasFatalFailure()) return;
  // Generated rows.
  ExpectOneDevices({{&long_, long_.first + 4, 2, 0}, {&short_, 67, 1, 67}});
}

parallel::ContextRules By(Way way, Merge merge = Merge::kGather) {
  parallel::ContextRules rules;
  rules.way = way;
  rules.merge = merge;
  return rules;
}

INSTANTIATE_TEST_SUITE_P(
    Ways, DeviceContext,
    testing::Values(Case{"HeadsRing", "heads", 2, By(Way::kRing), false, "auto", 1, 2},
                    Case{"HeadsRingOfThree", "heads", 3, By(Way::kRing), false, "auto", 4},
                    Case{"HeadsGather", "heads", 2, By(Way::kGather)},
                    Case{"HeadsQueryTree", "heads", 3, By(Way::kQuery, Merge::kTree), false, "auto",
                         4},
                    Case{"LatentsQuery", "latents", 2, By(Way::kQuery), false, "auto", 1, 2},
                    Case{"Fp8Gather", "hopper latents", 2, By(Way::kGather), false, "fp8"},
                    Case{"HopperHeadsRing", "hopper heads", 2, By(Way::kRing), true},
                    Case{"HopperFp8Query", "hopper latents", 2, By(Way::kQuery), true, "fp8"},
                    Case{"HopperLatentsRing", "hopper latents", 2, By(Way::kRing), true}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace reprise::worker
