// Replication between streams over the fake network: every race here is a fixed order of events.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "common/limits.h"
#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/stream_over.h"
#include "kvstore/stream/stream_test_blocks.h"
#include "kvstore/stream/tail_pack.h"
#include "kvstore/transport/fake_transport.h"

namespace reprise::kv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Takes every entry whose checksum matches and answers with the number of rows it has taken.
class FakeSink : public TailSink {
 public:
  std::vector<HeldRows> OnAppend(const NodeKey& from, std::span<const TailEntry> entries,
                                 std::span<const uint8_t> rows) override {
    std::vector<HeldRows> held;
    size_t at = 0;
    for (const TailEntry& entry : entries) {
      const size_t bytes = PackedBytes(TestFormat(), entry.tokens.size());
      std::vector<uint8_t> slot(TestFormat().block_bytes());
      std::vector<uint32_t> parts;
      const Status status = unpacker_.Unpack({.packed = rows.subspan(at, bytes),
                                              .checksum = entry.checksum,
                                              .seed = TailSeed(entry),
                                              .rows = static_cast<uint32_t>(entry.tokens.size())},
                                             0, slot, &parts);
      at += bytes;
      if (status.ok()) taken[entry.request.id] += static_cast<int64_t>(entry.tokens.size());
      held.push_back({entry.request, entry.branch, taken[entry.request.id], status});
    }
    EXPECT_EQ(at, rows.size());
    peers.push_back(from.name);
    return held;
  }
  void OnRelease(const NodeKey&, const RequestKey& request) override {
    released.push_back(request.id);
  }
  StatusOr<std::vector<TailState>> OnQuery(const NodeKey&, const RequestKey& request) override {
    if (request.attempt.n == 0) return absl::AbortedError("fenced");
    return std::vector<TailState>{{.branch = 1,
                                   .blocks_held = 2,
                                   .parent = TestId('p', 1),
                                   .first_position = 32,
                                   .tokens = {5, 6}}};
  }
  void OnFence(const RequestKey& request) override { fenced.push_back(request); }
  void OnPeerLost(const NodeKey& peer) override { lost.push_back(peer.name); }

  std::map<std::string, int64_t> taken;
  std::vector<std::string> peers, released, lost;
  std::vector<RequestKey> fenced;

 private:
  const TailUnpacker unpacker_{TestFormat()};
};

class ReplicaTest : public testing::Test {
 protected:
  ReplicaTest() { Listen(worker_.get()); }

  std::unique_ptr<KvStream> Make(const std::string& name, uint64_t incarnation, TailSink* tails) {
    StreamOptions options;
    options.self = {name, incarnation};
    options.format = TestFormat();
    std::vector<std::unique_ptr<Transport>> transports;
    transports.push_back(network_.NewTransport());
    return StreamOver(std::move(transports), options, nullptr, tails);
  }
  void Listen(KvStream* stream) {
    stream->OnHeld([this](const NodeKey& store, std::vector<HeldRows> held) {
      EXPECT_EQ(store.name, "store");
      for (HeldRows& rows : held) held_.push_back(std::move(rows));
    });
    stream->OnReplicaLost(
        [this](const NodeKey&, const Status& status) { lost_.push_back(status); });
  }
  // `rows` rows for each of `requests`, with bytes that follow from the first token.
  static TailAppend AppendOf(const std::vector<std::string>& requests, int rows, int first = 0) {
    TailAppend append;
    const size_t bytes = PackedBytes(TestFormat(), static_cast<size_t>(rows));
    auto packed = std::make_shared<PackedRows>(bytes * requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      TailEntry entry{.request = {requests[i], {1, 1}}, .parent = {}, .first_position = first};
      entry.tokens.resize(static_cast<size_t>(rows));
      std::iota(entry.tokens.begin(), entry.tokens.end(), first);
      const auto checksum = PackTail(TestFormat(), TestBlock(TestId('t', static_cast<uint8_t>(i))),
                                     {0, static_cast<uint32_t>(rows)}, TailSeed(entry),
                                     packed->writable().subspan(i * bytes, bytes));
      EXPECT_TRUE(checksum.ok());
      entry.checksum = *checksum;
      append.entries.push_back(std::move(entry));
    }
    append.rows = packed;
    return append;
  }
  void Append(const std::vector<std::string>& requests, int rows) {
    worker_->Append(store_->address(), AppendOf(requests, rows));
  }
  std::vector<absl::StatusCode> codes() const {
    std::vector<absl::StatusCode> codes;
    for (const HeldRows& held : held_) codes.push_back(held.status.code());
    return codes;
  }
  int StorePort() const { return store_->address().port; }

  FakeNetwork network_;
  FakeSink sink_;
  std::vector<HeldRows> held_;
  std::vector<Status> lost_;
  std::unique_ptr<KvStream> store_ = Make("store", 11, &sink_);
  std::unique_ptr<KvStream> worker_ = Make("worker", 22, nullptr);
};

constexpr auto kOk = absl::StatusCode::kOk;
constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnavailable = absl::StatusCode::kUnavailable;

// One row is 1 KiB: 4 layers of 256 bytes.
TEST_F(ReplicaTest, SmallAppendsRideInTheMessageAndLargeOnesApart) {
  Append({"a", "b"}, 1);
  network_.RunUntilIdle();
  EXPECT_EQ(worker_->stats().append_bytes_sent, 0u) << "inline";
  Append({"a", "b"}, 16);
  network_.RunUntilIdle();
  EXPECT_EQ(worker_->stats().append_bytes_sent, 32u << 10);
  EXPECT_EQ(store_->stats().append_bytes_received, 34u << 10);
  EXPECT_THAT(codes(), ElementsAre(kOk, kOk, kOk, kOk));
  ASSERT_EQ(held_.size(), 4u);
  EXPECT_EQ(held_[3].request.id, "b");
  EXPECT_EQ(held_[3].rows, 17);
  EXPECT_EQ(worker_->stats().append_posted_bytes, 0u);
  EXPECT_EQ(store_->stats().append_staged_bytes, 0u);
  EXPECT_EQ(sink_.peers[0], "worker");
}

TEST_F(ReplicaTest, ASmallAppendWaitsForTheLargeOneBeforeIt) {
  network_.HoldBulk(true);
  Append({"a"}, 16);
  Append({"b"}, 1);
  network_.RunUntilIdle();
  EXPECT_THAT(held_, IsEmpty());
  EXPECT_GT(store_->stats().append_staged_bytes, 16u << 10);
  network_.HoldBulk(false);
  network_.ReleaseHeld();
  network_.RunUntilIdle();
  ASSERT_EQ(held_.size(), 2u);
  EXPECT_EQ(held_[0].request.id, "a");
  EXPECT_EQ(held_[1].request.id, "b");
}

TEST_F(ReplicaTest, ADamagedEntryIsRefusedAloneAndCounted) {
  network_.CorruptBulk(1);
  Append({"a", "b", "c"}, 8);
  network_.RunUntilIdle();
  EXPECT_THAT(codes(), ElementsAre(kOk, kDataLoss, kOk));
  EXPECT_EQ(store_->stats().checksum_failures, 1u);
  EXPECT_EQ(held_[1].rows, 0);
}

TEST_F(ReplicaTest, AnnouncementsThatComeTwiceEndTheConnection) {
  network_.DuplicateBulk(true);
  Append({"a"}, 16);
  network_.RunUntilIdle();
  EXPECT_EQ(store_->stats().malformed_refused, 1u);
  EXPECT_EQ(lost_.size(), 1u);
  EXPECT_EQ(store_->stats().append_staged_bytes, 0u);
  network_.DuplicateBulk(false);
  Append({"a"}, 16);
  network_.RunUntilIdle();
  EXPECT_EQ(store_->stats().append_bytes_received, 32u << 10) << "over a new connection";
}

TEST_F(ReplicaTest, MangledMessagesEndTheConnectionAndNothingElse) {
  for (size_t flip = 0; flip < 90; ++flip) {
    network_.TamperWith([flip](std::string message) {
      message[flip % message.size()] = static_cast<char>(message[flip % message.size()] ^ 0x55);
      return message;
    });
    Append({"a"}, 1);
    Append({"a"}, 16);
    worker_->Release(store_->address(), {"a", {1, 1}});
    network_.Advance(30 * kSecond);
  }
  network_.TamperWith(nullptr);
  held_.clear();
  Append({"z"}, 16);
  network_.RunUntilIdle();
  EXPECT_THAT(codes(), ElementsAre(kOk));
  EXPECT_EQ(worker_->stats().append_posted_bytes, 0u);
  EXPECT_EQ(store_->stats().append_staged_bytes, 0u);
}

TEST_F(ReplicaTest, MalformedAppendsAreAnsweredAndNotSent) {
  TailAppend none;
  worker_->Append(store_->address(), none);
  TailAppend odd = AppendOf({"a"}, 2);
  odd.entries[0].tokens.pop_back();
  worker_->Append(store_->address(), std::move(odd));
  TailAppend branch = AppendOf({"a"}, 2);
  branch.entries[0].branch = limits::kBranchesMax;
  worker_->Append(store_->address(), std::move(branch));
  network_.RunUntilIdle();
  EXPECT_THAT(codes(), ElementsAre(kInvalid, kInvalid));  // nothing to answer for `none`
  EXPECT_THAT(held_[0].status.message(), HasSubstr("1 rows take 1024 bytes, found 2048"));
  EXPECT_EQ(held_[0].rows, -1);
  EXPECT_EQ(worker_->stats().appends_sent, 0u);
}

TEST_F(ReplicaTest, ANodeWithoutTailsRefusesByName) {
  const auto plain = Make("store", 12, nullptr);
  worker_->Append(plain->address(), AppendOf({"a"}, 1));
  worker_->Append(plain->address(), AppendOf({"a"}, 16));
  network_.RunUntilIdle();
  EXPECT_THAT(codes(), ElementsAre(absl::StatusCode::kFailedPrecondition,
                                   absl::StatusCode::kFailedPrecondition));
}

// ---- A store that goes away. ----

TEST_F(ReplicaTest, AKilledStoreIsReportedAndItsPayloadsLetGo) {
  network_.HoldBulk(true);
  TailAppend append = AppendOf({"a"}, 16);
  const std::weak_ptr<const TailPayload> rows = append.rows;
  worker_->Append(store_->address(), std::move(append));
  network_.RunUntilIdle();
  EXPECT_FALSE(rows.expired());
  network_.Kill(StorePort());
  network_.RunUntilIdle();
  ASSERT_EQ(lost_.size(), 1u);
  EXPECT_EQ(lost_[0].code(), kUnavailable);
  EXPECT_TRUE(rows.expired());
  EXPECT_EQ(worker_->stats().append_posted_bytes, 0u);
  EXPECT_EQ(store_->stats().append_staged_bytes, 0u);
  EXPECT_THAT(sink_.lost, ElementsAre("worker"));
  EXPECT_THAT(sink_.taken, IsEmpty());
}

TEST_F(ReplicaTest, AFrozenStoreIsLostAndItsPayloadsStayUntilItThaws) {
  Append({"a"}, 1);
  network_.RunUntilIdle();
  network_.Freeze(StorePort());
  TailAppend append = AppendOf({"a"}, 16);
  const std::weak_ptr<const TailPayload> rows = append.rows;
  worker_->Append(store_->address(), std::move(append));
  network_.Advance(kAppendAnswerTimeoutNs - kMillisecond);
  EXPECT_THAT(lost_, IsEmpty());
  network_.Advance(2 * kMillisecond);
  ASSERT_EQ(lost_.size(), 1u);
  EXPECT_THAT(lost_[0].message(), HasSubstr("unanswered for 1500 ms"));
  network_.Advance(kMinute);
  EXPECT_FALSE(rows.expired()) << "a frozen peer may still read it";
  EXPECT_EQ(worker_->stats().append_posted_bytes, 16u << 10);
  network_.Thaw(StorePort());
  network_.RunUntilIdle();
  EXPECT_TRUE(rows.expired());
  EXPECT_EQ(worker_->stats().append_posted_bytes, 0u);
  EXPECT_EQ(held_.size(), 1u) << "answers over the lost link do not count";
  Append({"b"}, 1);
  network_.RunUntilIdle();
  EXPECT_EQ(held_.back().request.id, "b");
}

TEST_F(ReplicaTest, BytesForAFrozenStoreStayBounded) {
  Append({"a"}, 1);
  network_.RunUntilIdle();
  held_.clear();
  network_.Freeze(StorePort());
  const size_t bytes = PackedBytes(TestFormat(), 16);
  const size_t fit = std::min(limits::kAppendsPerPeerMax, limits::kAppendBytesPerPeerMax / bytes);
  for (size_t i = 0; i < fit + 5; ++i) Append({"a"}, 16);
  network_.RunUntilIdle();
  EXPECT_LE(worker_->stats().append_posted_bytes, limits::kAppendBytesPerPeerMax);
  EXPECT_THAT(codes(), ElementsAre(kExhausted, kExhausted, kExhausted, kExhausted, kExhausted));
  network_.Thaw(StorePort());
  network_.RunUntilIdle();
  EXPECT_EQ(held_.size(), 5u + 1u) << "good words about one sequence are merged";
  EXPECT_EQ(held_.back().rows, 1 + 16 * static_cast<int64_t>(fit));
}

TEST_F(ReplicaTest, AStoreThatCannotBeReachedIsLostAtOnce) {
  const PeerAddress nobody{{"store", 5}, "127.0.0.1", 9999};
  worker_->Append(nobody, AppendOf({"a"}, 1));
  network_.RunUntilIdle();
  worker_->Append(nobody, AppendOf({"a"}, 1));
  network_.RunUntilIdle();
  ASSERT_EQ(lost_.size(), 2u);
  EXPECT_THAT(lost_[1].message(), HasSubstr("next try in"));
}

TEST_F(ReplicaTest, AnAddressOfAnEarlierIncarnationIsLost) {
  PeerAddress earlier = store_->address();
  earlier.key.incarnation = 10;
  worker_->Append(earlier, AppendOf({"a"}, 1));
  network_.RunUntilIdle();
  ASSERT_EQ(lost_.size(), 1u);
  EXPECT_EQ(lost_[0].code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ReplicaTest, TheStoreHearsThatAnOwnerIsGone) {
  Append({"a"}, 1);
  network_.RunUntilIdle();
  EXPECT_THAT(sink_.lost, IsEmpty());
  worker_ = nullptr;
  network_.RunUntilIdle();
  EXPECT_THAT(sink_.lost, ElementsAre("worker"));
}

// Else what it held over the first would be taken for held over the second, though the word that
// it is over may have been lost between them.
TEST_F(ReplicaTest, AnOwnerThatConnectsAnewIsLostBeforeItsFirstWord) {
  Append({"a"}, 1);
  network_.RunUntilIdle();
  auto twin = Make("worker", worker_->address().key.incarnation, nullptr);
  twin->Append(store_->address(), AppendOf({"b"}, 1));
  network_.RunUntilIdle();
  EXPECT_THAT(sink_.lost, ElementsAre("worker"));
  EXPECT_EQ(sink_.taken["b"], 1);
  // A late word over the first connection is not taken for one over the second.
  Append({"a"}, 1);
  network_.RunUntilIdle();
  EXPECT_EQ(sink_.taken["a"], 1);
  EXPECT_THAT(sink_.lost, ElementsAre("worker"));
}

// ---- The rest of the conversation. ----

TEST_F(ReplicaTest, ReleasesFollowTheAppendsBeforeThem) {
  Append({"a"}, 1);
  worker_->Release(store_->address(), {"a", {1, 1}});
  network_.RunUntilIdle();
  EXPECT_THAT(sink_.released, ElementsAre("a"));
  EXPECT_EQ(held_.size(), 1u);
}

TEST_F(ReplicaTest, QueriesAreAnsweredOnceWhateverHappens) {
  struct Answer {
    Status status;
    std::vector<TailState> states;
  };
  std::vector<Answer> answers;
  const auto query = [&](const PeerAddress& store, uint32_t n) {
    worker_->QueryTails(store, {"a", {1, n}}, kSecond,
                        [&](const Status& status, std::vector<TailState> states) {
                          answers.push_back({status, std::move(states)});
                        });
    network_.RunUntilIdle();
  };
  query(store_->address(), 1);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_TRUE(answers[0].status.ok());
  ASSERT_EQ(answers[0].states.size(), 1u);
  EXPECT_EQ(answers[0].states[0].first_position, 32);
  EXPECT_THAT(answers[0].states[0].tokens, ElementsAre(5, 6));
  query(store_->address(), 0);
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(answers[1].status.code(), absl::StatusCode::kAborted);
  query({{"store", 5}, "127.0.0.1", 9999}, 1);
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[2].status.code(), kUnavailable);
  network_.Freeze(StorePort());
  query(store_->address(), 1);
  network_.Advance(kSecond + kMillisecond);
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_EQ(answers[3].status.code(), absl::StatusCode::kDeadlineExceeded);
  query(store_->address(), 1);
  worker_ = nullptr;
  ASSERT_EQ(answers.size(), 5u);
  EXPECT_EQ(answers[4].status.code(), absl::StatusCode::kCancelled);
}

TEST_F(ReplicaTest, TheStoreTellsByItselfAndOnlyWhoKnowsIt) {
  store_->TellHeld({"worker", 22}, {{.request = {"a", {1, 1}}, .rows = 5, .status = {}}});
  network_.RunUntilIdle();
  EXPECT_THAT(held_, IsEmpty());
  worker_->Offer(store_->address(), {.source = worker_->address(),
                                     .fence = {{"a", {1, 1}}, 0},
                                     .parent = {},
                                     .tokens = {1},
                                     .branch = 0});
  network_.RunUntilIdle();
  store_->TellHeld({"worker", 22}, {{.request = {"a", {1, 1}}, .rows = 5, .status = {}}});
  network_.RunUntilIdle();
  ASSERT_EQ(held_.size(), 1u);
  EXPECT_EQ(held_[0].rows, 5);
}

TEST_F(ReplicaTest, AFetchTellsTheSinkItsAttemptAndAppendsFenceFetches) {
  auto listener = std::make_shared<RecordingListener>();
  std::vector<uint8_t> memory(TestFormat().block_bytes());
  FetchSpec spec{.source = store_->address(), .timeout_ns = kSecond};
  spec.fence.request = {"a", {1, 0}};
  spec.items.push_back({TestId('x', 1), 0, memory.data()});
  ASSERT_TRUE(worker_->Fetch(spec, listener).ok());
  network_.RunUntilIdle();
  ASSERT_EQ(sink_.fenced.size(), 1u);
  EXPECT_EQ(sink_.fenced[0].attempt.n, 0u);
  EXPECT_EQ(listener->AwaitDone(1)->front().code(), absl::StatusCode::kNotFound);
  Append({"a"}, 1);  // attempt (1, 1)
  network_.RunUntilIdle();
  auto late = std::make_shared<RecordingListener>();
  ASSERT_TRUE(worker_->Fetch(spec, late).ok());
  network_.RunUntilIdle();
  EXPECT_EQ(late->AwaitDone(1)->front().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(sink_.fenced.size(), 1u);
}

// ---- Probes. ----

TEST_F(ReplicaTest, EveryStreamAnswersAProbeItselfIncluded) {
  std::vector<Status> answers;
  const auto probe = [&](const PeerAddress& peer) {
    worker_->Probe(peer, kSecond, [&](const Status& status) { answers.push_back(status); });
    network_.RunUntilIdle();
  };
  probe(store_->address());
  probe(worker_->address());
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_TRUE(answers[0].ok()) << answers[0];
  EXPECT_TRUE(answers[1].ok()) << answers[1];
  EXPECT_EQ(worker_->stats().bytes_received, 2 * TestFormat().block_bytes());
  network_.CorruptBulk(1);
  probe(store_->address());
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[2].code(), kDataLoss);
  PeerAddress earlier = store_->address();
  earlier.key.incarnation = 10;
  probe(earlier);
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_EQ(answers[3].code(), absl::StatusCode::kFailedPrecondition);
  network_.Freeze(StorePort());
  probe(store_->address());
  network_.Advance(3 * kSecond);
  ASSERT_EQ(answers.size(), 5u);
  EXPECT_EQ(answers[4].code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace reprise::kv
