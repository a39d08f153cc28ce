// When a store takes what has arrived: the order of appends, and owners that leave or come back
// while their rows are on the way.
#include "kvstore/stream/replica_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "kvstore/stream/wire.h"

namespace reprise::kv {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kStore = 11;
constexpr size_t kRowBytes = 4;

// Keeps what is sent; nothing ever arrives.
class SendingTransport final : public Transport {
 public:
  void Start(TransportHandler*) override {}
  void Stop(std::function<bool()>) override {}
  int port() const override { return 0; }
  StatusOr<EndpointId> Connect(const std::string&, int) override {
    return absl::UnimplementedError("connects to nobody");
  }
  void Send(EndpointId endpoint, std::string message) override {
    sent.emplace_back(endpoint, std::move(message));
  }
  void SendBulk(EndpointId, const BulkHeader&, std::span<const uint8_t>, Completion) override {}
  void Close(EndpointId) override {}
  StatusOr<std::string> DescribeLanes(EndpointId) override { return std::string(); }
  void Post(std::function<void()>) override {}
  TimeNs NowNs() const override { return 0; }
  Status Register(void*, size_t) override { return absl::OkStatus(); }

  std::vector<std::pair<EndpointId, std::string>> sent;
};

class RecordingSink final : public TailSink {
 public:
  std::vector<HeldRows> OnAppend(const NodeKey&, std::span<const TailEntry> entries,
                                 std::span<const uint8_t> rows) override {
    EXPECT_EQ(rows.size(), entries.size() * kRowBytes);
    std::vector<HeldRows> held;
    for (const TailEntry& entry : entries) {
      taken.push_back(entry.request.id);
      held.push_back({.request = entry.request, .rows = 1, .status = {}});
    }
    return held;
  }
  void OnRelease(const NodeKey&, const RequestKey&) override {}
  StatusOr<std::vector<TailState>> OnQuery(const NodeKey&, const RequestKey&) override {
    return std::vector<TailState>();
  }
  void OnFence(const RequestKey&) override {}
  void OnPeerLost(const NodeKey&) override { ++peers_lost; }

  std::vector<std::string> taken;
  int peers_lost = 0;
};

class ReplicaServerTest : public testing::Test {
 protected:
  static wire::Append AppendOf(uint64_t id, const std::string& request) {
    wire::Append append{.append_id = id};
    append.entries.push_back({.request = {request, {1, 1}}, .parent = {}, .tokens = {7}});
    return append;
  }
  // Whole in its message.
  void AppendInline(EndpointId endpoint, uint64_t id, const std::string& request) {
    wire::Append append = AppendOf(id, request);
    append.rows = std::string(kRowBytes, 'r');
    const Status status = server_.OnAppend(endpoint, worker_, std::move(append));
    EXPECT_TRUE(status.ok()) << status;
  }
  // Announced and being received; what is returned ends the transfer.
  Completion AppendBulk(EndpointId endpoint, uint64_t id, const std::string& request) {
    wire::Append append = AppendOf(id, request);
    append.bulk_bytes = kRowBytes;
    const Status status = server_.OnAppend(endpoint, worker_, std::move(append));
    EXPECT_TRUE(status.ok()) << status;
    StatusOr<Sink> sink = server_.OnBulk(endpoint, {id, kStore}, kRowBytes);
    EXPECT_TRUE(sink.ok() && sink->destination != nullptr);
    return std::move(sink->done);
  }
  // The last append that each message to that endpoint answers.
  std::vector<uint64_t> AnsweredTo(EndpointId endpoint) {
    server_.Flush();
    std::vector<uint64_t> answered;
    for (const auto& [to, message] : transport_.sent) {
      const auto envelope =
          wire::Decode({reinterpret_cast<const uint8_t*>(message.data()), message.size()});
      if (to == endpoint) answered.push_back(std::get<wire::Held>(envelope->message).answered);
    }
    return answered;
  }
  uint64_t staged_bytes() const { return counters_.append_staged_bytes.load(); }

  const NodeKey worker_{"worker", 22};
  SendingTransport transport_;
  StreamCounters counters_;
  RecordingSink sink_;
  const LaneContext context_{.self = {"store", kStore},
                             .segment_bytes = kRowBytes,
                             .layers = 1,
                             .block_tokens = 1,
                             .transport = &transport_,
                             .counters = &counters_};
  ReplicaServer server_{context_, &sink_, [](const RequestKey&) {}};
};

TEST_F(ReplicaServerTest, AnAppendThatIsWholeWaitsForThoseBeforeIt) {
  const Completion first = AppendBulk(1, 1, "first");
  AppendInline(1, 2, "second");
  EXPECT_THAT(sink_.taken, IsEmpty());
  EXPECT_THAT(AnsweredTo(1), IsEmpty());
  EXPECT_EQ(staged_bytes(), 2 * kRowBytes);
  first(absl::OkStatus());
  EXPECT_THAT(sink_.taken, ElementsAre("first", "second"));
  EXPECT_THAT(AnsweredTo(1), ElementsAre(2));
  EXPECT_EQ(staged_bytes(), 0u);
}

TEST_F(ReplicaServerTest, TwoTransfersMayEndInAnyOrder) {
  const Completion first = AppendBulk(1, 1, "first");
  const Completion second = AppendBulk(1, 2, "second");
  second(absl::OkStatus());
  EXPECT_THAT(sink_.taken, IsEmpty());
  first(absl::OkStatus());
  EXPECT_THAT(sink_.taken, ElementsAre("first", "second"));
  EXPECT_THAT(AnsweredTo(1), ElementsAre(2));
}

TEST_F(ReplicaServerTest, RowsThatDidNotArriveAreAnsweredAndHoldUpNothing) {
  const Completion first = AppendBulk(1, 1, "first");
  AppendInline(1, 2, "second");
  first(absl::UnavailableError("broken"));
  EXPECT_THAT(sink_.taken, ElementsAre("second"));
  EXPECT_THAT(AnsweredTo(1), ElementsAre(2));
}

TEST_F(ReplicaServerTest, RowsThatAreWholeAfterTheirOwnerLeftAreLetGo) {
  const Completion first = AppendBulk(1, 1, "first");
  server_.OnGone(1);
  EXPECT_EQ(sink_.peers_lost, 1);
  first(absl::OkStatus());
  EXPECT_THAT(sink_.taken, IsEmpty());
  EXPECT_THAT(AnsweredTo(1), IsEmpty());
  EXPECT_EQ(staged_bytes(), 0u);
}

TEST_F(ReplicaServerTest, RowsOfAnEarlierConnectionOfTheirOwnerAreLetGo) {
  const Completion first = AppendBulk(1, 1, "first");
  AppendInline(2, 1, "again");  // it has come back, the end of its first connection is not known
  EXPECT_EQ(sink_.peers_lost, 1);
  first(absl::OkStatus());
  EXPECT_THAT(sink_.taken, ElementsAre("again"));
  EXPECT_THAT(AnsweredTo(1), IsEmpty());
  EXPECT_THAT(AnsweredTo(2), ElementsAre(1));
  server_.OnGone(1);
  EXPECT_EQ(sink_.peers_lost, 1) << "it is not its latest";
  EXPECT_EQ(staged_bytes(), 0u);
}

}  // namespace
}  // namespace reprise::kv
