// Parts of blocks between two streams over the fake network: what is sent, what is refused, and
// what a wrong part on the wire comes to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "common/bytes.h"
#include "kvstore/block/checksum.h"
#include "kvstore/stream/stream_over.h"
#include "kvstore/stream/stream_test_blocks.h"
#include "kvstore/stream/wire.h"
#include "kvstore/transport/fake_transport.h"

namespace reprise::kv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

KvFormat Format() {
  KvFormat format;
  format.fields = {{"k", 4, 8}, {"v", 4, 8}};
  format.layers = 4;
  format.block_tokens = 4;
  format.codec = ElementCodec::kOpaque8;
  return format;
}
constexpr size_t kHead = size_t{4} * 8;  // bytes of a head of a field in one segment

class OneBlock : public SegmentSource {
 public:
  OneBlock(const KvFormat& format, bool summed) : summed_(summed), bytes_(format.block_bytes()) {
    for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<uint8_t>(i * 7 + i / 251);
    for (uint32_t layer = 0; layer < format.layers; ++layer) {
      checksums_.push_back(SegmentChecksum(TestId('a', 1), layer, 0,
                                           &bytes_[layer * format.segment_bytes()],
                                           format.segment_bytes()));
    }
  }
  Block Find(const BlockId& id) override {
    if (!(id == TestId('a', 1))) return {};
    return {.state = pending ? State::kPending : State::kReady,
            .layers_ready = layers_ready,
            .first_position = 0,
            .data = bytes_.data(),
            .summed = summed_,
            .checksums = summed_ ? checksums_ : std::vector<uint32_t>(),
            .pin = SegmentPin()};
  }
  // Of the canonical layers, some of whose heads this block has.
  const uint8_t* At(uint32_t layer, size_t head) const {
    return &bytes_[(layer * 8 + head) * kHead];
  }
  std::vector<uint8_t>& bytes() { return bytes_; }

  bool pending = false;
  uint32_t layers_ready = 0;

 private:
  const bool summed_;
  std::vector<uint8_t> bytes_;
  std::vector<uint32_t> checksums_;
};

class StreamPartTest : public testing::TestWithParam<bool> {
 protected:
  std::unique_ptr<KvStream> Make(const std::string& name, uint64_t incarnation,
                                 SegmentSource* source, std::optional<KvPart> part = {}) {
    std::vector<std::unique_ptr<Transport>> transports;
    transports.push_back(network_.NewTransport());
    return StreamOver(std::move(transports),
                      {.self = {name, incarnation}, .format = Format(), .part = part}, source);
  }
  Status Fetch(std::optional<KvPart> part, std::optional<KvPart> into = {}) {
    FetchSpec spec{.source = source_->address(),
                   .fence = {},
                   .items = {{TestId('a', 1), 0, memory_.data()}},
                   .subscribe = true,
                   .timeout_ns = kSecond,
                   .part = part,
                   .into = into};
    listener_ = std::make_shared<RecordingListener>();
    const auto started = sink_->Fetch(std::move(spec), listener_);
    if (!started.ok()) return started.status();
    network_.RunUntilIdle();
    const auto done = listener_->AwaitDone(1);
    return done.has_value() ? done->front() : absl::UnknownError("not ended");
  }

  FakeNetwork network_;
  OneBlock block_{Format(), GetParam()};
  std::unique_ptr<KvStream> source_ = Make("source", 11, &block_);
  std::unique_ptr<KvStream> sink_ = Make("sink", 22, nullptr);
  std::vector<uint8_t> memory_ = std::vector<uint8_t>(Format().block_bytes());
  std::shared_ptr<RecordingListener> listener_;
};

INSTANTIATE_TEST_SUITE_P(Sums, StreamPartTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "OfTheSource" : "WhenSent"; });

TEST_P(StreamPartTest, BringsTheLayersAndHeadsAskedForAndNoOtherByte) {
  ASSERT_TRUE(Fetch(KvPart{{1, 3}, {2, 4}}).ok());
  EXPECT_THAT(listener_->layers(0), ElementsAre(1, 2));
  for (uint32_t layer = 0; layer < 2; ++layer) {
    const uint8_t* const got = &memory_[layer * 4 * kHead];  // two heads of two fields
    EXPECT_EQ(std::memcmp(got, block_.At(layer + 1, 2), 2 * kHead), 0);
    EXPECT_EQ(std::memcmp(got + 2 * kHead, block_.At(layer + 1, 4 + 2), 2 * kHead), 0);
  }
  EXPECT_EQ(source_->stats().bytes_sent, 2 * 4 * kHead);
  EXPECT_EQ(sink_->stats().bytes_received, 2 * 4 * kHead);
}

TEST_P(StreamPartTest, WritesIntoALargerPartAndNothingAroundIt) {
  memory_.assign(memory_.size(), 0xEE);
  ASSERT_TRUE(Fetch(KvPart{{3, 4}, {1, 2}}, KvPart{{2, 4}, {0, 2}}).ok());
  std::vector<uint8_t> expected(memory_.size(), 0xEE);
  std::memcpy(&expected[4 * kHead + kHead], block_.At(3, 1), kHead);
  std::memcpy(&expected[4 * kHead + 3 * kHead], block_.At(3, 4 + 1), kHead);
  EXPECT_EQ(memory_, expected);
}

TEST_P(StreamPartTest, AFlippedBitOfAPartIsDataLoss) {
  network_.CorruptBulk(1);
  EXPECT_EQ(Fetch(KvPart{{0, 4}, {1, 2}}).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(listener_->layers(0).empty());
}

// A Fetch whose heads were changed on the way asks for as many other heads.
TEST_P(StreamPartTest, OtherHeadsThanThoseAskedForNeverVerify) {
  network_.TamperWith([](std::string message) {
    auto envelope = wire::Decode(AsBytes(message));
    auto* fetch = envelope.ok() ? std::get_if<wire::Fetch>(&envelope->message) : nullptr;
    if (fetch == nullptr) return message;
    fetch->part.heads = {2, 3};
    return wire::Encode(*envelope);
  });
  EXPECT_EQ(Fetch(KvPart{{0, 4}, {1, 2}}).code(), absl::StatusCode::kDataLoss);
}

TEST_P(StreamPartTest, LayersOfAPendingBlockComeAsTheyAreReady) {
  block_.pending = true;
  block_.layers_ready = 2;
  EXPECT_TRUE(Fetch(KvPart{{0, 2}, {0, 1}}).ok()) << "its layers are there";
  EXPECT_EQ(Fetch(KvPart{{1, 4}, {0, 1}}).code(), absl::StatusCode::kUnknown);
  EXPECT_THAT(listener_->layers(0), ElementsAre(1));
  source_->Publish(TestId('a', 1), 3, {});
  network_.RunUntilIdle();
  EXPECT_THAT(listener_->layers(0), ElementsAre(1, 2));
  source_->Publish(TestId('a', 1), 4, {});
  network_.RunUntilIdle();
  EXPECT_THAT(listener_->layers(0), ElementsAre(1, 2, 3));
  EXPECT_EQ(listener_->done_calls(), 1);
}

TEST_P(StreamPartTest, WhatANodeDoesNotHoldIsRefusedByName) {
  KvFormat held = Format();
  held.layers = 2;
  for (RowField& field : held.fields) field.heads = 2;
  OneBlock half(held, false);
  source_ = Make("half", 33, &half, KvPart{{2, 4}, {2, 4}});
  const Status refused = Fetch(KvPart{{1, 4}, {2, 4}});
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.ToString(), HasSubstr("asked for layers [1, 4) heads [2, 4), this node holds "
                                            "layers [2, 4) heads [2, 4)"));
  EXPECT_FALSE(Fetch(std::nullopt).ok()) << "the whole";
  EXPECT_TRUE(Fetch(KvPart{{3, 4}, {2, 4}}).ok());
  EXPECT_EQ(std::memcmp(memory_.data(), &half.bytes()[4 * kHead], 4 * kHead), 0);
}

TEST_P(StreamPartTest, PartsThatDoNotFitAreRefusedBeforeAnythingIsSent) {
  EXPECT_THAT(Fetch(KvPart{{0, 5}, {0, 4}}).ToString(), HasSubstr("is not one of"));
  EXPECT_THAT(Fetch(KvPart{{0, 4}, {0, 4}}, KvPart{{0, 4}, {0, 2}}).ToString(),
              HasSubstr("have no room for"));
  EXPECT_THAT(Fetch(std::nullopt, KvPart{{1, 4}, {0, 4}}).ToString(),
              HasSubstr("have no room for"));
}

TEST_P(StreamPartTest, ARankAsksForWhatItHolds) {
  sink_ = Make("rank", 33, nullptr, KvPart{{2, 4}, {3, 4}});
  memory_.assign(2 * 2 * kHead + 1, 0xEE);
  ASSERT_TRUE(Fetch(std::nullopt).ok());
  for (uint32_t layer = 0; layer < 2; ++layer) {
    const uint8_t* const got = &memory_[layer * 2 * kHead];
    EXPECT_EQ(std::memcmp(got, block_.At(layer + 2, 3), kHead), 0);
    EXPECT_EQ(std::memcmp(got + kHead, block_.At(layer + 2, 4 + 3), kHead), 0);
  }
  EXPECT_EQ(memory_.back(), 0xEE);
}

TEST_P(StreamPartTest, ARankProbesItselfAndWhoeverHoldsSomethingElse) {
  source_ = Make("half", 33, nullptr, KvPart{{2, 4}, {2, 4}});
  const auto other = Make("other", 44, nullptr, KvPart{{0, 2}, {0, 4}});
  for (KvStream* prober : {source_.get(), other.get(), sink_.get()}) {
    for (KvStream* probed : {source_.get(), other.get(), sink_.get()}) {
      Status answer = absl::UnknownError("not ended");
      prober->Probe(probed->address(), kSecond, [&](const Status& status) { answer = status; });
      network_.RunUntilIdle();
      EXPECT_TRUE(answer.ok()) << answer;
    }
  }
}

class StoreMemoryTest : public StreamPartTest {};
INSTANTIATE_TEST_SUITE_P(Sums, StoreMemoryTest, testing::Values(true),
                         [](const auto&) { return "OfTheSource"; });

TEST_P(StoreMemoryTest, BytesThatNoLongerGiveTheirSumAreNotSent) {
  block_.bytes()[8 * kHead] ^= 1;  // layer 1, first head; others are asked for
  EXPECT_EQ(Fetch(KvPart{{0, 4}, {2, 3}}).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(source_->stats().checksum_failures, 1u);
  EXPECT_EQ(source_->stats().posted_bytes, 0u);
}

}  // namespace
}  // namespace reprise::kv
