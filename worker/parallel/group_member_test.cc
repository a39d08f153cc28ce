// A member alone with what a peer says to it: quiet after failure, and peers that break the rules.
#include "worker/parallel/group_member.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/limits.h"

namespace reprise::parallel {
namespace {

constexpr size_t kLarge = 20'000;
const CallTag kTag{.op = Op::kPointToPoint, .call = 0, .step = 0, .call_bytes = 0};

// Keeps what is sent; nothing arrives by itself.
class SilentTransport final : public kv::Transport {
 public:
  void Start(kv::TransportHandler*) override {}
  void Stop(std::function<bool()>) override {}
  int port() const override { return 0; }
  StatusOr<kv::EndpointId> Connect(const std::string&, int) override { return kv::EndpointId{1}; }
  void Send(kv::EndpointId, std::string message) override {
    const auto* bytes = reinterpret_cast<const uint8_t*>(message.data());
    sent.push_back(wire::Decode({bytes, message.size()})->message);
  }
  void SendBulk(kv::EndpointId, const kv::BulkHeader&, std::span<const uint8_t>,
                kv::Completion done) override {
    payloads.push_back(std::move(done));
  }
  void Close(kv::EndpointId) override { ++closed; }
  StatusOr<std::string> DescribeLanes(kv::EndpointId) override { return std::string("silent"); }
  void Post(std::function<void()>) override {}
  TimeNs NowNs() const override { return now_ns; }
  Status Register(void*, size_t) override { return absl::OkStatus(); }

  std::vector<wire::Message> sent;
  std::vector<kv::Completion> payloads;
  int closed = 0;
  TimeNs now_ns = kSecond;
};

class GroupMemberTest : public testing::Test {
 protected:
  GroupMemberTest() { member_->Attach(1, 5); }
  // Rank 0 begins to receive this many bytes from rank 1.
  void Receive(size_t bytes) {
    memory_.assign(bytes, 0);
    Start({.tag = kTag, .out = {}, .in = {{1, memory_}}});
  }
  void SendLarge() { Start({.tag = kTag, .out = {{1, payload_}}, .in = {}}); }
  void Start(const Batch& batch) {
    {
      MutexLock lock(state_->mu);
      state_->unfinished[++batches_] = 1;
    }
    member_->Start(batches_, batch);
  }
  void Hear(wire::Message message) { member_->OnMessage(1, std::move(message)); }
  bool Quiet() {
    MutexLock lock(state_->mu);
    return state_->quiet;
  }
  Status Cause() {
    MutexLock lock(state_->mu);
    return state_->status;
  }
  size_t Unfinished() {
    MutexLock lock(state_->mu);
    return state_->unfinished.size();
  }

  SilentTransport transport_;
  std::shared_ptr<LinkState> state_ = std::make_shared<LinkState>();
  std::shared_ptr<GroupMember> member_ = std::make_shared<GroupMember>(
      GroupMember::Options{.key = {7, 1},
                           .rank = 0,
                           .size = 2,
                           .transport = &transport_,
                           .close = [this](kv::EndpointId id) { transport_.Close(id); }},
      state_);
  BatchId batches_ = 0;
  std::vector<uint8_t> memory_;
  std::vector<uint8_t> payload_ = std::vector<uint8_t>(kLarge, 9);
};

TEST_F(GroupMemberTest, IsNotQuietWhileAPayloadMayStillBeWritten) {
  Receive(kLarge);
  ASSERT_TRUE(std::holds_alternative<wire::Ready>(transport_.sent.at(0)));
  Hear(wire::Data{1, kTag, kLarge, ""});
  const kv::Sink sink = member_->OnBulk(1, 1, kLarge);
  ASSERT_EQ(sink.destination, memory_.data());
  member_->Fail(absl::AbortedError("enough"));
  EXPECT_FALSE(Quiet());
  sink.done(absl::CancelledError("closed"));
  EXPECT_TRUE(Quiet());
}

TEST_F(GroupMemberTest, IsNotQuietWhileAPayloadMayStillBeRead) {
  SendLarge();
  Hear(wire::Ready{1, kTag, kLarge});
  ASSERT_EQ(transport_.payloads.size(), 1u);
  Hear(wire::Abort{absl::StatusCode::kUnavailable, "rank 2 died"});
  EXPECT_EQ(Cause(), absl::UnavailableError("rank 2 died"));
  EXPECT_EQ(transport_.closed, 1);
  EXPECT_FALSE(Quiet());
  transport_.payloads[0](absl::CancelledError("closed"));
  EXPECT_TRUE(Quiet());
}

TEST_F(GroupMemberTest, TakesNoPayloadAfterAFailureNorOneThatIsNotDue) {
  Receive(kLarge);
  EXPECT_EQ(member_->OnBulk(1, 1, kLarge).destination, nullptr) << "not announced";
  Hear(wire::Data{1, kTag, kLarge, ""});
  EXPECT_EQ(member_->OnBulk(1, 2, kLarge).destination, nullptr) << "another sequence";
  EXPECT_EQ(member_->OnBulk(1, 1, kLarge + 1).destination, nullptr) << "another size";
  EXPECT_EQ(member_->OnBulk(1, 1, kLarge).destination, memory_.data());
  EXPECT_EQ(member_->OnBulk(1, 1, kLarge).destination, nullptr) << "a second time";
  member_->Fail(absl::AbortedError("enough"));
  Hear(wire::Data{2, kTag, kLarge, ""});
  EXPECT_EQ(member_->OnBulk(1, 1, kLarge).destination, nullptr);
}

TEST_F(GroupMemberTest, ASilentPeersConnectionIsCutAfterTheFarewell) {
  Receive(kLarge);
  Hear(wire::Data{1, kTag, kLarge, ""});
  const kv::Sink sink = member_->OnBulk(1, 1, kLarge);
  member_->Fail(absl::AbortedError("enough"));
  EXPECT_TRUE(std::holds_alternative<wire::Abort>(transport_.sent.back()));
  EXPECT_EQ(member_->OnWake(transport_.now_ns), transport_.now_ns + kFarewellNs);
  EXPECT_EQ(transport_.closed, 0);
  member_->OnWake(transport_.now_ns + kFarewellNs);
  EXPECT_EQ(transport_.closed, 1);
  EXPECT_FALSE(member_->gone()) << "a payload is under way";
  sink.done(absl::CancelledError("closed"));
  EXPECT_TRUE(member_->gone());
}

TEST_F(GroupMemberTest, ALostPayloadWaitsForItsCause) {
  SendLarge();
  Hear(wire::Ready{1, kTag, kLarge});
  transport_.payloads[0](absl::AbortedError("refused"));
  EXPECT_TRUE(Cause().ok());
  Hear(wire::Abort{absl::StatusCode::kDeadlineExceeded, "rank 1 waited in vain for ranks 2"});
  EXPECT_EQ(Cause().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(GroupMemberTest, ALostPayloadWithoutACauseIsALostRank) {
  SendLarge();
  Hear(wire::Ready{1, kTag, kLarge});
  transport_.payloads[0](absl::AbortedError("refused"));
  member_->OnWake(transport_.now_ns + kFarewellNs);
  EXPECT_EQ(Cause().code(), absl::StatusCode::kUnavailable) << Cause();
}

TEST_F(GroupMemberTest, MessagesOutOfOrderBreakTheGroup) {
  Hear(wire::Data{2, kTag, 1, "x"});
  EXPECT_THAT(std::string(Cause().message()), testing::HasSubstr("message 2, expected 1"));
}

TEST_F(GroupMemberTest, MoreMessagesThanTheWindowBreakTheGroup) {
  for (uint64_t i = 1; i <= limits::kGroupWindow; ++i) Hear(wire::Data{i, kTag, 1, "x"});
  EXPECT_TRUE(Cause().ok()) << Cause();
  Hear(wire::Data{limits::kGroupWindow + 1, kTag, 1, "x"});
  EXPECT_THAT(std::string(Cause().message()), testing::HasSubstr("64 wait, the limit is 64"));
}

TEST_F(GroupMemberTest, SendsBeyondTheWindowWaitForTheReceiver) {
  payload_.resize(1);
  for (uint64_t i = 0; i <= limits::kGroupWindow; ++i) SendLarge();
  EXPECT_EQ(transport_.sent.size(), limits::kGroupWindow);
  EXPECT_EQ(Unfinished(), 1u);
  Hear(wire::Consumed{1});
  EXPECT_EQ(transport_.sent.size(), limits::kGroupWindow + 1);
  EXPECT_EQ(Unfinished(), 0u);
  Hear(wire::Consumed{1'000});
  EXPECT_THAT(std::string(Cause().message()), testing::HasSubstr("taken message 1000 of 65"));
}

TEST_F(GroupMemberTest, MoreReadinessThanTheWindowAllowsBreaksTheGroup) {
  for (uint64_t i = 1; i <= 2 * limits::kGroupWindow; ++i) Hear(wire::Ready{i, kTag, kLarge});
  EXPECT_TRUE(Cause().ok()) << Cause();
  Hear(wire::Ready{1'000, kTag, kLarge});
  EXPECT_THAT(std::string(Cause().message()), testing::HasSubstr("ready for more than 128"));
}

}  // namespace
}  // namespace reprise::parallel
