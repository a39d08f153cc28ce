#include "coordinator/client/reporter_group.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>

#include "common/rpc_server.h"

namespace reprise {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A coordinator that answers as it is told.
class FakeCoordinator final : public v1::Coordinator::CallbackService {
 public:
  FakeCoordinator() {
    answer_.set_report_interval_ms(10);
    auto door = RpcServer::Start("127.0.0.1:0", {this});
    EXPECT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
  }
  ~FakeCoordinator() override { door_->Shutdown(0); }

  grpc::ServerUnaryReactor* Report(grpc::CallbackServerContext* context,
                                   const v1::ReportRequest* request,
                                   v1::ReportResponse* response) override {
    MutexLock lock(mu_);
    last_ = *request;
    ++reports_;
    heard_.NotifyAll();
    *response = answer_;
    // Lists go out as by the real one: when the node knows another version.
    if (request->stores_version() == answer_.stores_version()) response->clear_stores_version();
    auto* reactor = context->DefaultReactor();
    reactor->Finish(refusal_);
    return reactor;
  }

  void Answer(uint64_t epoch, bool standby, uint64_t stores_version) {
    MutexLock lock(mu_);
    answer_.set_leader_epoch(epoch);
    answer_.set_standby(standby);
    answer_.set_stores_version(stores_version);
  }
  void Restart() {
    MutexLock lock(mu_);
    answer_.set_coordinator_incarnation(answer_.coordinator_incarnation() + 1);
  }
  void Refuse(grpc::Status status) {
    MutexLock lock(mu_);
    refusal_ = std::move(status);
  }
  // Two more: the second one was sent after the first was answered as it is now.
  v1::ReportRequest AfterTwoMore() {
    MutexLock lock(mu_);
    const int until = reports_ + 2;
    while (reports_ < until) heard_.Wait(mu_);
    return last_;
  }
  std::string address() const { return door_->address(); }

 private:
  Mutex mu_;
  CondVar heard_;
  v1::ReportResponse answer_ GUARDED_BY(mu_);
  grpc::Status refusal_ GUARDED_BY(mu_);
  v1::ReportRequest last_ GUARDED_BY(mu_);
  int reports_ GUARDED_BY(mu_) = 0;
  std::unique_ptr<RpcServer> door_;
};

class ReporterGroupTest : public ::testing::Test {
 protected:
  void Start() {
    v1::NodeInfo node;
    node.mutable_ref()->set_name("w");
    node.mutable_ref()->set_incarnation(5);
    group_ = std::make_unique<ReporterGroup>(
        ReporterGroupOptions{.coordinators = {a_.address(), b_.address()}, .node = node},
        ReporterGroupHandlers{
            .fill =
                [](size_t index, v1::ReportRequest* request) {
                  request->mutable_load()->set_running(static_cast<int32_t>(index) + 1);
                },
            .answered = [](size_t, const v1::ReportResponse&) { return false; },
            .ordered =
                [this](size_t index, const v1::ReportResponse& word) {
                  MutexLock lock(mu_);
                  words_.push_back({index, word.leader_epoch(), word.stores_version()});
                  changed_.NotifyAll();
                },
            .fenced =
                [this](const Status& status) {
                  MutexLock lock(mu_);
                  fenced_ = status;
                  changed_.NotifyAll();
                }},
        epoch_);
  }
  struct Word {
    size_t index;
    uint64_t epoch;
    uint64_t stores_version;
  };
  // The first one behind `skip` words.
  Word AwaitWordOf(size_t index, uint64_t epoch, uint64_t stores_version, size_t skip = 0) {
    MutexLock lock(mu_);
    while (true) {
      for (size_t i = skip; i < words_.size(); ++i) {
        const Word& word = words_[i];
        if (word.index == index && word.epoch == epoch && word.stores_version == stores_version) {
          return word;
        }
      }
      changed_.Wait(mu_);
    }
  }
  size_t words() {
    MutexLock lock(mu_);
    return words_.size();
  }

  FakeCoordinator a_, b_;
  Mutex mu_;
  CondVar changed_;
  std::vector<Word> words_ GUARDED_BY(mu_);
  Status fenced_ GUARDED_BY(mu_);
  LeaderEpoch epoch_;
  std::unique_ptr<ReporterGroup> group_;
};

TEST_F(ReporterGroupTest, AllHearTheNodeAndOnlyTheLeaderIsListenedTo) {
  a_.Answer(3, /*standby=*/false, 11);
  b_.Answer(3, /*standby=*/true, 0);
  Start();
  AwaitWordOf(0, 3, 11);
  const v1::ReportRequest to_leader = a_.AfterTwoMore();
  EXPECT_EQ(to_leader.load().running(), 1);
  EXPECT_EQ(to_leader.stores_version(), 11u);
  EXPECT_EQ(to_leader.leader_epoch(), 3u);
  EXPECT_EQ(to_leader.node().ref().incarnation(), 5u);
  EXPECT_EQ(b_.AfterTwoMore().load().running(), 2);
  EXPECT_EQ(group_->leader(), 0u);
  EXPECT_TRUE(group_->connected());
  MutexLock lock(mu_);
  for (const Word& word : words_) EXPECT_EQ(word.index, 0u);
}

TEST_F(ReporterGroupTest, ALeaderThatWasReplacedIsCountedAndNotHeard) {
  a_.Answer(3, false, 11);
  b_.Answer(3, true, 0);
  Start();
  AwaitWordOf(0, 3, 11);
  b_.Answer(4, false, 22);
  AwaitWordOf(1, 4, 22);
  a_.AfterTwoMore();
  EXPECT_EQ(epoch_.highest(), 4u);
  EXPECT_EQ(group_->leader(), 1u);
  EXPECT_GT(epoch_.refused(), 0u);
  EXPECT_EQ(a_.AfterTwoMore().leader_epoch(), 4u);  // so it learns
  MutexLock lock(mu_);
  bool replaced = false;
  for (const Word& word : words_) {
    replaced = replaced || word.index == 1;
    EXPECT_FALSE(replaced && word.index == 0);
  }
}

TEST_F(ReporterGroupTest, AStandbysEpochCountsThoughItsWordDoesNot) {
  a_.Answer(3, false, 11);
  b_.Answer(9, true, 0);
  Start();
  b_.AfterTwoMore();
  const size_t before = words();
  a_.AfterTwoMore();
  EXPECT_EQ(words(), before);
  EXPECT_EQ(epoch_.highest(), 9u);
}

TEST_F(ReporterGroupTest, WhoeverLeadsAgainSendsItsListsAgain) {
  a_.Answer(3, false, 11);
  b_.Answer(3, true, 0);
  Start();
  AwaitWordOf(0, 3, 11);
  b_.Answer(4, false, 22);
  AwaitWordOf(1, 4, 22);
  a_.Answer(5, false, 11);  // unchanged since, and the node heard others
  AwaitWordOf(0, 5, 11);
}

TEST_F(ReporterGroupTest, AFencedNodeIsTold) {
  a_.Answer(3, false, 11);
  a_.Refuse({grpc::StatusCode::ABORTED, "STALE_INCARNATION: incarnation 5 has been replaced"});
  b_.Refuse({grpc::StatusCode::ABORTED, "something else"});
  Start();
  MutexLock lock(mu_);
  while (fenced_.ok()) changed_.Wait(mu_);
  EXPECT_EQ(fenced_.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(fenced_.message()), HasSubstr("STALE_INCARNATION"));
}

TEST_F(ReporterGroupTest, PlacementsOfAReplacedLeaderAreRefused) {
  a_.Answer(3, false, 11);
  b_.Answer(3, true, 0);
  Start();
  AwaitWordOf(0, 3, 11);
  EXPECT_TRUE(epoch_.Take(4));  // by a placement
  b_.AfterTwoMore();
  const uint64_t before = epoch_.refused();
  a_.AfterTwoMore();
  EXPECT_GT(epoch_.refused(), before);
  EXPECT_EQ(a_.AfterTwoMore().leader_epoch(), 4u);
}

TEST_F(ReporterGroupTest, ARestartedCoordinatorIsNotTakenForTheFormerOne) {
  a_.Answer(0, false, 11);
  Start();
  AwaitWordOf(0, 0, 11);
  a_.AfterTwoMore();
  const size_t before = words();
  a_.Restart();  // its lists happen to have the same version
  AwaitWordOf(0, 0, 11, before);
}

TEST(LeaderEpoch, ALowerOneIsRefusedAndCounted) {
  LeaderEpoch epoch;
  EXPECT_TRUE(epoch.Take(0)) << "a coordinator without a group";
  EXPECT_TRUE(epoch.Take(4));
  EXPECT_TRUE(epoch.Take(4));
  EXPECT_FALSE(epoch.Take(3));
  EXPECT_FALSE(epoch.Take(0));
  EXPECT_EQ(epoch.refused(), 2u);
  epoch.Raise(9);
  epoch.Raise(5);
  EXPECT_EQ(epoch.highest(), 9u);
  EXPECT_EQ(epoch.refused(), 2u);
}

TEST(ParseCoordinators, TakesAListAndRefusesWhatIsNone) {
  EXPECT_THAT(*ParseCoordinators("h:1,h:2"), ElementsAre("h:1", "h:2"));
  EXPECT_FALSE(ParseCoordinators("").ok());
  EXPECT_FALSE(ParseCoordinators("h:1,").ok());
  EXPECT_FALSE(ParseCoordinators("h:1,h:1").ok());
  EXPECT_FALSE(ParseCoordinators("a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1,i:1").ok());
}

}  // namespace
}  // namespace reprise
