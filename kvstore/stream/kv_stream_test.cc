// The stream's state machine over the fake network: every race here is a fixed order of events.
#include "kvstore/stream/kv_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kvstore/block/checksum.h"
#include "kvstore/stream/stream_over.h"
#include "kvstore/stream/stream_test_blocks.h"
#include "kvstore/transport/fake_transport.h"

namespace reprise::kv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FakeSource : public SegmentSource {
 public:
  Block Find(const BlockId& id) override {
    const auto found = blocks.find(id);
    if (found == blocks.end()) return {};
    ++pins;
    const Entry& entry = found->second;
    return {.state = entry.pending ? State::kPending : State::kReady,
            .layers_ready = entry.layers_ready,
            .first_position = entry.first_position,
            .data = entry.data.data(),
            .summed = !entry.checksums.empty() && !entry.made_here,
            .checksums = entry.checksums,
            .pin = SegmentPin([this] { --pins; })};
  }
  struct Entry {
    std::vector<uint8_t> data;
    bool pending = false;
    uint32_t layers_ready = 4;
    int64_t first_position = 0;
    std::vector<uint32_t> checksums;
    bool made_here = false;  // else summed when it has checksums
  };
  Entry& Add(const BlockId& id, bool pending = false) {
    Entry& entry = blocks[id];
    entry.data = TestBlock(id);
    entry.pending = pending;
    if (pending) entry.layers_ready = 0;
    return entry;
  }
  std::map<BlockId, Entry> blocks;
  int pins = 0;
};

class KvStreamTest : public testing::Test {
 protected:
  static constexpr uint64_t kSourceIncarnation = 11;
  static constexpr uint64_t kSinkIncarnation = 22;

  std::unique_ptr<KvStream> Make(const std::string& name, uint64_t incarnation,
                                 SegmentSource* source, StreamOptions options = {}) {
    options.self = {name, incarnation};
    if (options.format.layers == 0) options.format = TestFormat();
    std::vector<std::unique_ptr<Transport>> transports;
    transports.push_back(network_.NewTransport());
    return StreamOver(std::move(transports), options, source);
  }
  void StartSource(StreamOptions options = {}) {
    source_stream_ = Make("source", kSourceIncarnation, &source_, std::move(options));
  }

  struct Running {
    std::shared_ptr<RecordingListener> listener = std::make_shared<RecordingListener>();
    std::vector<std::vector<uint8_t>> memory;
    FetchHandle handle = 0;
    bool ended() const { return listener->done_calls() > 0; }
    std::vector<absl::StatusCode> codes() const {
      std::vector<absl::StatusCode> codes;  // empty: not ended
      EXPECT_EQ(listener->done_calls(), 1);
      const auto items = listener->AwaitDone(1);
      if (!items.has_value()) return codes;
      for (const Status& status : *items) codes.push_back(status.code());
      return codes;
    }
    std::string message() const {
      const auto items = listener->AwaitDone(1);
      return items.has_value() ? std::string(items->front().message()) : "";
    }
  };
  std::unique_ptr<Running> Fetch(KvStream* sink, const std::vector<BlockId>& ids,
                                 FetchSpec spec = {}) {
    auto running = std::make_unique<Running>();
    if (spec.source.port == 0) spec.source = source_stream_->address();
    spec.subscribe = true;
    if (spec.timeout_ns == 0) spec.timeout_ns = 10 * kSecond;
    for (const BlockId& id : ids) {
      running->memory.emplace_back(TestFormat().block_bytes());
      spec.items.push_back({id, 0, running->memory.back().data()});
    }
    const auto handle = sink->Fetch(spec, running->listener);
    EXPECT_TRUE(handle.ok()) << handle.status();
    running->handle = *handle;
    return running;
  }
  std::unique_ptr<Running> FetchNow(const std::vector<BlockId>& ids, FetchSpec spec = {}) {
    auto running = Fetch(sink_.get(), ids, std::move(spec));
    network_.RunUntilIdle();
    return running;
  }
  static FetchSpec ForAttempt(uint64_t epoch, uint32_t n) {
    FetchSpec spec;
    spec.fence.request = {"request", {epoch, n}};
    return spec;
  }

  FakeNetwork network_;
  FakeSource source_;
  std::unique_ptr<KvStream> source_stream_ = Make("source", kSourceIncarnation, &source_);
  std::unique_ptr<KvStream> sink_ = Make("sink", kSinkIncarnation, nullptr);
  const BlockId a_ = TestId('a', 1);
  const BlockId b_ = TestId('b', 2);
};

constexpr auto kOk = absl::StatusCode::kOk;
constexpr auto kNotFound = absl::StatusCode::kNotFound;
constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr auto kCancelled = absl::StatusCode::kCancelled;
constexpr auto kDeadline = absl::StatusCode::kDeadlineExceeded;
constexpr auto kUnavailable = absl::StatusCode::kUnavailable;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

// ---- Delivery. ----

TEST_F(KvStreamTest, DeliversReadyBlocksAndReportsMissingOnes) {
  source_.Add(a_);
  const auto fetch = FetchNow({a_, b_});
  EXPECT_THAT(fetch->codes(), ElementsAre(kOk, kNotFound));
  EXPECT_EQ(fetch->memory[0], TestBlock(a_));
  EXPECT_THAT(fetch->listener->layers(0), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(source_.pins, 0);
  EXPECT_EQ(sink_->stats().bytes_received, TestFormat().block_bytes());
}

TEST_F(KvStreamTest, DeliversEveryLayerWhenItIsPublished) {
  source_.Add(a_, true);
  const auto fetch = FetchNow({a_});
  for (uint32_t layer = 1; layer <= 4; ++layer) {
    EXPECT_FALSE(fetch->ended());
    source_stream_->Publish(a_, layer, {});
    network_.RunUntilIdle();
    EXPECT_EQ(fetch->listener->layers(0).size(), layer);
  }
  EXPECT_THAT(fetch->codes(), ElementsAre(kOk));
  EXPECT_EQ(fetch->memory[0], TestBlock(a_));
}

TEST_F(KvStreamTest, TwoItemsMayNameOneBlock) {
  source_.Add(a_, true);
  const auto fetch = FetchNow({a_, a_});
  source_stream_->Publish(a_, 4, {});
  network_.RunUntilIdle();
  EXPECT_THAT(fetch->codes(), ElementsAre(kOk, kOk));
  EXPECT_EQ(fetch->memory[1], TestBlock(a_));
}

TEST_F(KvStreamTest, WithdrawnBlocksAreNotFound) {
  source_.Add(a_, true).layers_ready = 2;
  const auto fetch = FetchNow({a_, a_});
  EXPECT_THAT(fetch->listener->layers(0), ElementsAre(0, 1));
  source_stream_->Withdraw(a_);
  network_.RunUntilIdle();
  EXPECT_THAT(fetch->codes(), ElementsAre(kNotFound, kNotFound));
  EXPECT_EQ(source_.pins, 0);
}

TEST_F(KvStreamTest, APendingBlockIsMissingWithoutASubscription) {
  source_.Add(a_, true).layers_ready = 2;
  auto listener = std::make_shared<RecordingListener>();
  std::vector<uint8_t> memory(TestFormat().block_bytes());
  FetchSpec spec{.source = source_stream_->address(), .timeout_ns = kSecond};
  spec.items.push_back({a_, 0, memory.data()});
  ASSERT_TRUE(sink_->Fetch(spec, listener).ok());
  network_.RunUntilIdle();
  EXPECT_EQ(listener->AwaitDone(1)->front().code(), kNotFound);
}

TEST_F(KvStreamTest, ABlockAtAnotherPositionIsNotTheBlock) {
  source_.Add(a_).first_position = 64;
  EXPECT_THAT(FetchNow({a_})->codes(), ElementsAre(kNotFound));
}

TEST_F(KvStreamTest, AThrottledLinkTakesTheTimeItsRateSays) {
  StartSource({.throttle_bytes_per_s = 1 << 20});
  source_.Add(a_);  // 16 KiB: 15.6 ms
  const auto fetch = FetchNow({a_});
  network_.Advance(14 * kMillisecond);
  EXPECT_FALSE(fetch->ended());
  EXPECT_EQ(fetch->listener->layers(0).size(), 3u);
  network_.Advance(2 * kMillisecond);
  EXPECT_THAT(fetch->codes(), ElementsAre(kOk));
}

// ---- Damage. ----

TEST_F(KvStreamTest, AFlippedBitEndsItsItemOnly) {
  source_.Add(a_);
  source_.Add(b_);
  network_.CorruptBulk(1);
  const auto fetch = FetchNow({a_, b_});
  EXPECT_THAT(fetch->codes(), ElementsAre(kDataLoss, kOk));
  EXPECT_TRUE(fetch->listener->layers(0).empty());
  EXPECT_EQ(sink_->stats().checksum_failures, 1u);
  EXPECT_EQ(source_.pins, 0);
}

TEST_F(KvStreamTest, AFlippedBitInALaterLayerKeepsTheEarlierOnes) {
  source_.Add(a_, true).layers_ready = 1;
  const auto fetch = FetchNow({a_});
  network_.CorruptBulk(1);
  source_stream_->Publish(a_, 2, {});
  network_.RunUntilIdle();
  EXPECT_THAT(fetch->codes(), ElementsAre(kDataLoss));
  EXPECT_THAT(fetch->listener->layers(0), ElementsAre(0));
}

TEST_F(KvStreamTest, ASwappedBlockNeverVerifies) {
  FakeSource::Entry& entry = source_.Add(a_);
  entry.data = TestBlock(b_);
  const size_t n = TestFormat().segment_bytes();
  for (uint32_t layer = 0; layer < 4; ++layer) {
    entry.checksums.push_back(SegmentChecksum(b_, layer, 0, entry.data.data() + layer * n, n));
  }
  EXPECT_THAT(FetchNow({a_})->codes(), ElementsAre(kDataLoss));
}

// A source that passes on what it received has its sums from there, and gives them with each layer.
TEST_F(KvStreamTest, LayersOfASummedBlockAreSentUnderTheSumsTheyWerePublishedWith) {
  const auto sums_of = [](const FakeSource::Entry& entry, const BlockId& id, uint32_t layers) {
    const size_t n = TestFormat().segment_bytes();
    std::vector<uint32_t> sums;
    for (uint32_t layer = 0; layer < layers; ++layer) {
      sums.push_back(SegmentChecksum(id, layer, 0, entry.data.data() + layer * n, n));
    }
    return sums;
  };
  for (const bool damaged : {false, true}) {
    const BlockId& id = damaged ? b_ : a_;
    FakeSource::Entry& entry = source_.Add(id, true);
    entry.layers_ready = 1;
    entry.checksums = sums_of(entry, id, 1);
    const std::vector<uint32_t> sums = sums_of(entry, id, 4);
    const auto fetch = FetchNow({id});
    EXPECT_THAT(fetch->listener->layers(0), ElementsAre(0));
    source_stream_->Publish(id, 4, {sums.begin(), sums.begin() + 2});
    network_.RunUntilIdle();
    EXPECT_THAT(fetch->listener->layers(0), ElementsAre(0, 1))
        << "a layer without a sum is not sent";
    if (damaged) entry.data.back() ^= 1;  // of the last layer
    source_stream_->Publish(id, 4, sums);
    network_.RunUntilIdle();
    EXPECT_THAT(fetch->codes(), ElementsAre(damaged ? kDataLoss : kOk));
  }
}

// A source that made the bytes may have summed some, and what changes afterwards is not data.
TEST_F(KvStreamTest, SumsThatTheMakerOfABlockHasAreTaken) {
  const size_t n = TestFormat().segment_bytes();
  for (const uint32_t changed : {1U, 2U}) {
    const BlockId& id = changed == 1 ? a_ : b_;
    FakeSource::Entry& entry = source_.Add(id, true);
    entry.made_here = true;
    std::vector<uint32_t> sums;
    for (uint32_t layer = 0; layer < 2; ++layer) {
      sums.push_back(SegmentChecksum(id, layer, 0, entry.data.data() + layer * n, n));
    }
    entry.data[changed * n] ^= 1;
    const auto fetch = FetchNow({id});
    source_stream_->Publish(id, 4, sums);
    network_.RunUntilIdle();
    EXPECT_THAT(fetch->codes(), ElementsAre(changed == 1 ? kDataLoss : kOk));
  }
}

TEST_F(KvStreamTest, AnAnnouncementThatComesTwiceIsRefused) {
  source_.Add(a_, true);
  const auto fetch = FetchNow({a_});
  network_.DuplicateBulk(true);
  source_stream_->Publish(a_, 2, {});
  network_.RunUntilIdle();
  EXPECT_THAT(fetch->codes(), ElementsAre(kUnavailable));
  EXPECT_EQ(sink_->stats().malformed_refused, 1u);
}

TEST_F(KvStreamTest, MangledMessagesEndTheConnectionAndNothingElse) {
  source_.Add(a_);
  for (size_t flip = 0; flip < 60; ++flip) {
    network_.TamperWith([flip](std::string message) {
      message[flip % message.size()] = static_cast<char>(message[flip % message.size()] ^ 0x55);
      return message;
    });
    const auto mangled = FetchNow({a_});
    network_.Advance(30 * kSecond);
    EXPECT_TRUE(mangled->ended()) << flip;
  }
  network_.TamperWith(nullptr);
  EXPECT_THAT(FetchNow({a_})->codes(), ElementsAre(kOk));
  EXPECT_EQ(source_.pins, 0);
}

// ---- Ending early. ----

TEST_F(KvStreamTest, ACancelWaitsForTheReceiveInFlight) {
  source_.Add(a_);
  network_.HoldBulk(true);
  const auto fetch = FetchNow({a_});
  ASSERT_EQ(network_.held(), 1u);
  sink_->CancelFetch(fetch->handle);
  network_.Advance(500 * kMillisecond);
  EXPECT_FALSE(fetch->ended());
  EXPECT_EQ(source_.pins, 1);
  EXPECT_GT(source_stream_->stats().posted_bytes, 0u);
  network_.ReleaseHeld();
  network_.RunUntilIdle();
  EXPECT_THAT(fetch->codes(), ElementsAre(kCancelled));
  EXPECT_TRUE(fetch->listener->layers(0).empty());
  EXPECT_EQ(source_.pins, 0);
  EXPECT_EQ(source_stream_->stats().posted_bytes, 0u);
}

TEST_F(KvStreamTest, ACancelBeforeTheHandshakeEndsAtOnce) {
  network_.Freeze(source_stream_->address().port);
  const auto fetch = FetchNow({a_});
  sink_->CancelFetch(fetch->handle);
  network_.RunUntilIdle();
  EXPECT_THAT(fetch->codes(), ElementsAre(kCancelled));
}

TEST_F(KvStreamTest, CancellingAnEndedFetchHasNoEffect) {
  source_.Add(a_);
  const auto fetch = FetchNow({a_});
  sink_->CancelFetch(fetch->handle);
  sink_->CancelFetch(fetch->handle + 100);
  network_.Advance(2 * kSecond);
  EXPECT_THAT(fetch->codes(), ElementsAre(kOk));
}

TEST_F(KvStreamTest, ACancelEndsEvenWhenTheSourceIsFrozen) {
  source_.Add(a_, true);
  const auto fetch = FetchNow({a_});
  network_.Freeze(source_stream_->address().port);
  sink_->CancelFetch(fetch->handle);
  network_.Advance(900 * kMillisecond);
  EXPECT_FALSE(fetch->ended());
  network_.Advance(200 * kMillisecond);
  EXPECT_THAT(fetch->codes(), ElementsAre(kCancelled));
  network_.Thaw(source_stream_->address().port);
  network_.Advance(kSecond);
  EXPECT_EQ(source_.pins, 0);
}

TEST_F(KvStreamTest, TheDeadlineEndsASubscriptionAndTellsTheSource) {
  source_.Add(a_, true);
  FetchSpec spec;
  spec.timeout_ns = 100 * kMillisecond;
  const auto fetch = FetchNow({a_}, spec);
  EXPECT_EQ(source_.pins, 1);
  network_.Advance(101 * kMillisecond);
  EXPECT_THAT(fetch->codes(), ElementsAre(kDeadline));
  EXPECT_EQ(source_.pins, 0);
}

// On a starved machine the acknowledgement waits in the same queue as the judge.
TEST_F(KvStreamTest, ACancelIsNotJudgedByTimeInWhichNobodyRan) {
  source_.Add(a_, true);
  const auto fetch = FetchNow({a_});
  network_.Freeze(source_stream_->address().port);
  sink_->CancelFetch(fetch->handle);
  network_.Advance(900 * kMillisecond);
  network_.Sleep(5 * kSecond);
  network_.RunUntilIdle();
  EXPECT_FALSE(fetch->ended());
  EXPECT_EQ(sink_->stats().peers, 1u);
  network_.Thaw(source_stream_->address().port);
  network_.RunUntilIdle();
  EXPECT_THAT(fetch->codes(), ElementsAre(kCancelled));
  EXPECT_EQ(sink_->stats().peers, 1u) << "the link was kept";
}

TEST_F(KvStreamTest, ASourceDropsTheSubscriptionOfAFrozenClientAfterItsDeadline) {
  source_.Add(a_, true);
  FetchSpec spec;
  spec.timeout_ns = 100 * kMillisecond;
  // Nothing of the sink's cancel ever arrives.
  const auto fetch = FetchNow({a_}, spec);
  network_.TamperWith([](std::string) { return std::string(); });
  network_.Advance(90 * kMillisecond);
  EXPECT_EQ(source_.pins, 1);
  network_.Advance(6 * kSecond);
  EXPECT_EQ(source_.pins, 0);
  EXPECT_THAT(fetch->codes(), ElementsAre(kDeadline));
}

TEST_F(KvStreamTest, TheDeathOfTheSourceEndsItsFetchesWhenTheyAreQuiet) {
  source_.Add(a_);
  source_.Add(b_, true);
  network_.HoldBulk(true);
  const auto fetch = FetchNow({a_, b_});
  ASSERT_EQ(network_.held(), 1u);
  network_.Kill(source_stream_->address().port);
  network_.RunUntilIdle();
  EXPECT_THAT(fetch->codes(), ElementsAre(kUnavailable, kUnavailable));
  EXPECT_EQ(source_.pins, 0);
  network_.HoldBulk(false);
  EXPECT_THAT(FetchNow({a_})->codes(), ElementsAre(kOk));  // over a new connection, at once
}

TEST_F(KvStreamTest, DestroyingAStreamCancelsItsFetches) {
  source_.Add(a_, true);
  const auto fetch = FetchNow({a_});
  sink_.reset();
  EXPECT_THAT(fetch->codes(), ElementsAre(kCancelled));
  network_.RunUntilIdle();
  EXPECT_EQ(source_.pins, 0);
}

TEST_F(KvStreamTest, DestroyingTheSourceEndsTheFetchesOfOthers) {
  source_.Add(a_, true);
  const auto fetch = FetchNow({a_});
  source_stream_.reset();
  network_.RunUntilIdle();
  EXPECT_THAT(fetch->codes(), ElementsAre(kUnavailable));
  EXPECT_EQ(source_.pins, 0);
}

// ---- Who is meant. ----

TEST_F(KvStreamTest, AnAddressOfAnEarlierIncarnationIsRefused) {
  source_.Add(a_);
  FetchSpec spec;
  spec.source = source_stream_->address();
  spec.source.key.incarnation = kSourceIncarnation - 1;
  const auto fetch = FetchNow({a_}, spec);
  EXPECT_THAT(fetch->codes(), ElementsAre(kPrecondition));
  EXPECT_EQ(source_stream_->stats().stale_refused, 1u);
}

TEST_F(KvStreamTest, DifferentFormatsAreRefusedByName) {
  source_.Add(a_);
  StreamOptions other;
  other.format = TestFormat();
  other.format.layers = 5;
  const auto sink = Make("other", 33, nullptr, other);
  const auto fetch = Fetch(sink.get(), {a_});
  fetch->memory[0].resize(other.format.block_bytes());
  network_.RunUntilIdle();
  EXPECT_THAT(fetch->codes(), ElementsAre(kPrecondition));
  EXPECT_THAT(fetch->message(), HasSubstr(TestFormat().CanonicalText()));
  EXPECT_THAT(fetch->message(), HasSubstr(other.format.CanonicalText()));
}

TEST_F(KvStreamTest, AnUnreachablePeerIsNotTriedAgainBeforeItsBackOff) {
  FetchSpec spec;
  spec.source = {{"nobody", 1}, "127.0.0.1", 9999};
  EXPECT_THAT(FetchNow({a_}, spec)->codes(), ElementsAre(kUnavailable));
  const auto again = FetchNow({a_}, spec);
  EXPECT_THAT(again->codes(), ElementsAre(kUnavailable));
  EXPECT_THAT(again->message(), HasSubstr("next try in"));
  network_.Advance(100 * kMillisecond);
  EXPECT_THAT(FetchNow({a_}, spec)->message(), HasSubstr("unreachable"));
}

TEST_F(KvStreamTest, ALowerAttemptIsRefused) {
  source_.Add(a_);
  EXPECT_THAT(FetchNow({a_}, ForAttempt(2, 1))->codes(), ElementsAre(kOk));
  EXPECT_THAT(FetchNow({a_}, ForAttempt(2, 0))->codes(), ElementsAre(kPrecondition));
  EXPECT_THAT(FetchNow({a_}, ForAttempt(1, 9))->codes(), ElementsAre(kPrecondition));
  EXPECT_THAT(FetchNow({a_}, ForAttempt(2, 1))->codes(), ElementsAre(kOk));
  EXPECT_EQ(source_stream_->stats().stale_refused, 2u);
}

TEST_F(KvStreamTest, ARaisedAttemptEndsTheSubscriptionsOfLowerOnes) {
  source_.Add(a_, true);
  const auto old = FetchNow({a_}, ForAttempt(1, 0));
  const auto other = FetchNow({a_});
  source_stream_->FenceRequest({"request", {1, 1}});
  network_.RunUntilIdle();
  EXPECT_THAT(old->codes(), ElementsAre(kPrecondition));
  EXPECT_FALSE(other->ended());
  EXPECT_THAT(FetchNow({a_}, ForAttempt(1, 0))->codes(), ElementsAre(kPrecondition));
}

// ---- Neighbours. ----

TEST_F(KvStreamTest, APeerThatStoppedReadingKeepsItsPinsAndStarvesNobody) {
  StartSource({.inflight_bytes_max = 8 * TestFormat().block_bytes()});
  std::vector<BlockId> many;
  for (uint8_t i = 0; i < 40; ++i) {
    many.push_back(TestId('m', i));
    source_.Add(many.back());
  }
  network_.HoldBulk(true);
  const auto stuck = FetchNow(many);
  const size_t held = network_.held();
  EXPECT_GT(held, 0u);
  EXPECT_LE(source_stream_->stats().posted_bytes, 8 * TestFormat().block_bytes());
  network_.HoldBulk(false);
  const auto other_sink = Make("other", 33, nullptr);
  const auto neighbour = Fetch(other_sink.get(), many);
  network_.RunUntilIdle();
  EXPECT_THAT(neighbour->codes(), testing::Each(kOk));
  EXPECT_FALSE(stuck->ended());
  EXPECT_EQ(source_.pins, 40);
  network_.ReleaseHeld();
  network_.RunUntilIdle();
  EXPECT_THAT(stuck->codes(), testing::Each(kOk));
  EXPECT_EQ(source_.pins, 0);
}

// ---- Offers. ----

BlockOffer OfferOf(const PeerAddress& source) {
  return {.source = source,
          .fence = {{"request", {1, 0}}, 0},
          .parent = TestId('p', 1),
          .first_position = 16,
          .tenant_salt = "salt",
          .tokens = {1, 2, 3}};
}

TEST_F(KvStreamTest, OffersArriveWithTheirTokens) {
  std::vector<BlockOffer> offers;
  source_stream_->OnOffer([&](BlockOffer offer) { offers.push_back(std::move(offer)); });
  sink_->Offer(source_stream_->address(), OfferOf(sink_->address()));
  network_.RunUntilIdle();
  ASSERT_EQ(offers.size(), 1u);
  EXPECT_EQ(offers[0].source.key.name, "sink");
  EXPECT_THAT(offers[0].tokens, ElementsAre(1, 2, 3));
  EXPECT_EQ(offers[0].parent, TestId('p', 1));
}

TEST_F(KvStreamTest, OffersOfOthersAndOfLowerAttemptsAreRefused) {
  int offers = 0;
  source_stream_->OnOffer([&](const BlockOffer&) { ++offers; });
  source_stream_->FenceRequest({"request", {1, 1}});
  sink_->Offer(source_stream_->address(), OfferOf(sink_->address()));
  network_.RunUntilIdle();
  EXPECT_EQ(source_stream_->stats().stale_refused, 1u);
  sink_->Offer(source_stream_->address(), OfferOf(source_stream_->address()));
  network_.RunUntilIdle();
  EXPECT_EQ(source_stream_->stats().malformed_refused, 1u);
  EXPECT_EQ(offers, 0);
}

TEST_F(KvStreamTest, RefusesMalformedSpecs) {
  auto listener = std::make_shared<RecordingListener>();
  FetchSpec spec{.source = source_stream_->address(), .timeout_ns = kSecond};
  EXPECT_FALSE(sink_->Fetch(spec, listener).ok());  // no items
  spec.items.push_back({a_, 0, nullptr});
  EXPECT_FALSE(sink_->Fetch(spec, listener).ok());  // no destination
  std::vector<uint8_t> memory(TestFormat().block_bytes());
  spec.items[0].destination = memory.data();
  spec.timeout_ns = 0;
  EXPECT_FALSE(sink_->Fetch(spec, listener).ok());
}

}  // namespace
}  // namespace reprise::kv
