#include "coordinator/leader/leadership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "common/rpc_server.h"
#include "coordinator/leader/etcd_process.h"
#include "tests/cluster/scratch_dir.h"

namespace reprise::coordinator {
namespace {

using ::testing::HasSubstr;

// One member of a group: its part in leadership and the door its peers beat at.
class Member final : public v1::Coordinator::CallbackService {
 public:
  explicit Member(std::string name) : name_(std::move(name)) {
    auto door = RpcServer::Start("127.0.0.1:0", {this});
    EXPECT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
  }
  ~Member() override { Kill(); }

  void Join(const EtcdProcess& etcd, std::vector<std::string> peers, uint64_t seed) {
    LeadershipOptions options;
    options.core = {.name = name_, .address = address(), .seed = seed};
    options.etcd = {.endpoints = {etcd.address()}, .key = "test/leader"};
    options.peers = std::move(peers);
    leadership_ =
        std::make_unique<Leadership>(std::move(options), RealClock(),
                                     [this](const Leadership::View&) { changes_.fetch_add(1); });
    leadership_->Start();
  }
  void Kill() {
    if (leadership_ != nullptr) leadership_->Stop();
    if (door_ != nullptr) door_->Shutdown(0);
    door_ = nullptr;
  }

  grpc::ServerUnaryReactor* Lead(grpc::CallbackServerContext* context,
                                 const v1::LeadRequest* request,
                                 v1::LeadResponse* response) override {
    beats_.fetch_add(1);
    response->set_epoch(
        leadership_->OnBeat({request->epoch(), request->name(), request->grpc_address()}));
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  std::string address() const { return door_->address(); }
  Leadership& leadership() { return *leadership_; }
  Leadership::View view() const { return leadership_->view(); }
  bool leads() const { return view().leads; }
  int beats() const { return beats_.load(); }
  int changes() const { return changes_.load(); }

 private:
  const std::string name_;
  std::unique_ptr<RpcServer> door_;
  std::unique_ptr<Leadership> leadership_;
  std::atomic<int> beats_{0};
  std::atomic<int> changes_{0};
};

class LeadershipTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EtcdProcess::Installed()) {
      GTEST_SKIP() << EtcdProcess::kBinary << " is not installed; run deploy/install.sh";
    }
    auto folder = harness::ScratchDir::Create();
    ASSERT_TRUE(folder.ok()) << folder.status();
    folder_ = *std::move(folder);
    auto etcd = EtcdProcess::Start(folder_->path());
    ASSERT_TRUE(etcd.ok()) << etcd.status();
    etcd_ = *std::move(etcd);
  }
  void Join(Member& a, Member& b) {
    a.Join(*etcd_, {b.address(), a.address()}, 1);  // its own is left out
    b.Join(*etcd_, {a.address()}, 2);
  }
  // Bounded only so that a broken build ends.
  static void Await(const std::function<bool()>& condition) {
    const TimeNs until = RealClock().NowNs() + 60 * kSecond;
    StopSignal never;
    while (!condition()) {
      ASSERT_LT(RealClock().NowNs(), until) << "waited in vain";
      never.WaitFor(5 * kMillisecond);
    }
  }

  std::unique_ptr<harness::ScratchDir> folder_;  // of etcd
  std::unique_ptr<EtcdProcess> etcd_;
};

TEST_F(LeadershipTest, OnlyTheHolderOfTheLatestRevisionWrites) {
  EtcdClient client({.endpoints = {etcd_->address()}, .key = "k"});
  EtcdClient stale({.endpoints = {"127.0.0.1:1", etcd_->address()}, .key = "k"});
  ASSERT_EQ(client.Read()->revision, 0);
  ASSERT_EQ(stale.Read()->revision, 0);  // by its second endpoint
  ASSERT_TRUE(*client.Swap(0, "1 a h:1"));
  EXPECT_FALSE(*stale.Swap(0, "1 b h:2"));
  const auto stored = client.Read();
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(stored->value, "1 a h:1");
  ASSERT_TRUE(*stale.Swap(stored->revision, "2 b h:2"));
  EXPECT_FALSE(*client.Swap(stored->revision, "2 a h:1"));
  EXPECT_EQ(client.Read()->value, "2 b h:2");
  etcd_->Kill();
  EXPECT_THAT(std::string(client.Read().status().message()), HasSubstr(etcd_->address()));
  EXPECT_EQ(client.Swap(1, "x").status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(LeadershipTest, OneIsElectedAndTheOtherTakesOverWhenItGoes) {
  Member a("a"), b("b");
  Join(a, b);
  Await([&] { return a.leads() || b.leads(); });
  Member& first = a.leads() ? a : b;
  Member& second = a.leads() ? b : a;
  Await([&] { return second.view().leader.has_value(); });
  EXPECT_FALSE(second.leads());
  EXPECT_EQ(second.view().epoch, 1u);
  EXPECT_EQ(second.view().leader->address, first.address());
  EXPECT_TRUE(first.leadership().CheckOrders().ok());
  const Status refused = second.leadership().CheckOrders();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(refused.message(), absl::StrCat("not the leader: ", second.view().leader->name, " at ",
                                            first.address(), ", epoch 1"));
  first.Kill();
  Await([&] { return second.leads(); });
  EXPECT_EQ(second.view().epoch, 2u);
  EXPECT_EQ(second.view().elections, 1u);
  Await([&] { return second.changes() >= 2; });  // told just after
  EtcdClient client({.endpoints = {etcd_->address()}, .key = "test/leader"});
  EXPECT_EQ(client.Read()->value, FormatLeader(*second.view().leader));
  // The first was only frozen, and hears what it missed.
  first.leadership().OnEpoch(2);
  EXPECT_FALSE(first.leads());
  EXPECT_EQ(first.view().steps_down, 1u);
}

TEST_F(LeadershipTest, WithEtcdAwayTheLeaderGoesOnAndNobodyIsElectedUntilItIsBack) {
  Member a("a"), b("b");
  Join(a, b);
  Await([&] { return a.leads() || b.leads(); });
  Member& leader = a.leads() ? a : b;
  Member& standby = a.leads() ? b : a;
  etcd_->Kill();
  const int heard = standby.beats();
  Await([&] { return standby.beats() >= heard + 10; });
  EXPECT_TRUE(leader.leads());
  EXPECT_EQ(leader.view().epoch, 1u);
  leader.Kill();
  Await([&] { return standby.view().failed >= 2; });
  EXPECT_FALSE(standby.leads());
  ASSERT_TRUE(etcd_->Restart().ok());
  Await([&] { return standby.leads(); });
  EXPECT_EQ(standby.view().epoch, 2u);
}

TEST_F(LeadershipTest, AKeyThatIsSomebodyElsesIsNeverOverwritten) {
  EtcdClient client({.endpoints = {etcd_->address()}, .key = "test/leader"});
  ASSERT_TRUE(*client.Swap(0, "{\"owner\": \"another program\"}"));
  Member a("a");
  a.Join(*etcd_, {}, 1);
  Await([&] { return a.view().failed >= 2; });
  EXPECT_FALSE(a.leads());
  EXPECT_THAT(client.Read()->value, HasSubstr("another program"));
}

}  // namespace
}  // namespace reprise::coordinator
