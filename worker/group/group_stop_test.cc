// A driver or a rank that is told to stop while its group is being formed ends then and there.
// Every deadline here is an hour: only the stop can end the wait.
#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/bind_address.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/role.h"
#include "common/rpc_server.h"
#include "common/thread.h"
#include "worker/group/group_executor.h"
#include "worker/group/rank_server.h"
#include "worker/group/silent_door.h"
#include "worker/model/test_models.h"
#include "worker/parallel/group_shape.h"
#include "worker/parallel/ucx_group.h"

namespace reprise::worker {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr TimeNs kHour = 60 * kMinute;
constexpr char kShape[] = "tp2";  // joined in two parts: all ranks, then the tensor ranks
TimeNs Later() { return RealClock().NowNs() + kHour; }

ModelExecutorOptions Model() {
  return {.model_dir = TestModel(WidePreset("tiny")), .block_tokens = 16};
}

std::unique_ptr<parallel::GroupHost> MakeHost() {
  auto host = parallel::MakeUcxGroupHost({});
  EXPECT_TRUE(host.ok()) << host.status();
  return *std::move(host);
}

std::string AddressOf(const parallel::GroupHost& host) {
  return absl::StrCat("127.0.0.1:", host.port());
}

// Of the part that all ranks join.
parallel::GroupSpec WorldOf(const v1::JoinRequest& request, int rank) {
  parallel::GroupSpec world{
      .group = request.group(), .epoch = request.epoch(), .rank = rank, .addresses = {}};
  for (const std::string& address : request.addresses()) {
    const HostPort at = *ParseHostPort(address);
    world.addresses.push_back({at.host, at.port});
  }
  return world;
}

// A driver in its first step, which forms the group.
class Driver {
 public:
  explicit Driver(const std::string& rank, StopSignal* process_stop = nullptr) {
    auto executor = GroupExecutor::Create({.owner = "worker",
                                           .split = *parallel::ParseGroupShape(kShape),
                                           .ranks = {rank},
                                           .model = Model(),
                                           .form_ns = kHour,
                                           .look_ns = kHour,
                                           .connect_ns = kHour,
                                           .stop = process_stop},
                                          nullptr);
    EXPECT_TRUE(executor.ok()) << executor.status();
    executor_ = *std::move(executor);
    pool_.resize(2 * executor_->info().kv_format.block_bytes());
    executor_->AttachPool(pool_.data(), 2);
    step_ = Thread("step", [this] { ended_ = Run(); });
  }
  ~Driver() { executor_->Stop(); }
  void Stop() { executor_->Stop(); }
  // Of the first step.
  Status Wait() {
    step_.Join();
    return ended_;
  }
  Status Run() {
    const std::vector<int32_t> tokens = {1};
    const std::vector<int32_t> pages = {0};
    const StepItem item{tokens, 0, pages, true};
    return executor_->Run({&item, 1}, nullptr);
  }

 private:
  std::unique_ptr<GroupExecutor> executor_;
  std::vector<uint8_t> pool_;
  Status ended_;
  Thread step_;  // last: it uses all of the above
};

void ExpectStopped(const Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("the group's driver stops"));
}

// Whoever had come knows that somebody has given up: is told, or, where the end of the connection
// overtakes the word, sees that.
void ExpectTold(parallel::Communicator& world) {
  EXPECT_THAT(std::string(world.Barrier(Later()).message()),
              AnyOf(HasSubstr("was told to stop joining"), HasSubstr("lost rank")));
}

// A rank that leaves one kind of call, or none, without an answer.
class FakeRank final : public v1::GroupRank::CallbackService {
 public:
  enum class Ignores { kLook, kJoin, kNothing };
  explicit FakeRank(Ignores ignores, std::string group_address = "127.0.0.1:1")
      : group_address_(std::move(group_address)), ignores_(ignores) {
    auto door = RpcServer::Start("127.0.0.1:0", {this});
    EXPECT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
  }
  // Its callers have gone.
  ~FakeRank() override {
    {
      MutexLock lock(mu_);
      for (grpc::ServerUnaryReactor* reactor : held_) reactor->Finish(grpc::Status::CANCELLED);
    }
    door_ = nullptr;
  }
  std::string address() const { return door_->address(); }
  void WaitForLook() { looked_.Wait(); }
  v1::JoinRequest WaitForJoin() {
    joined_.Wait();
    MutexLock lock(mu_);
    return request_;
  }

  grpc::ServerUnaryReactor* Look(grpc::CallbackServerContext* context, const v1::LookRequest*,
                                 v1::LookResponse* response) override {
    response->set_group_address(group_address_);
    looked_.Stop();
    return AnswerUnless(Ignores::kLook, context);
  }
  grpc::ServerUnaryReactor* Join(grpc::CallbackServerContext* context,
                                 const v1::JoinRequest* request, v1::JoinResponse*) override {
    {
      MutexLock lock(mu_);
      request_ = *request;
    }
    joined_.Stop();
    return AnswerUnless(Ignores::kJoin, context);
  }

 private:
  grpc::ServerUnaryReactor* AnswerUnless(Ignores call, grpc::CallbackServerContext* context) {
    if (ignores_ != call) return Answer(context, absl::OkStatus());
    MutexLock lock(mu_);
    held_.push_back(context->DefaultReactor());
    return held_.back();
  }

  const std::string group_address_;
  const Ignores ignores_;
  StopSignal looked_;
  StopSignal joined_;
  Mutex mu_;
  v1::JoinRequest request_ GUARDED_BY(mu_);
  std::vector<grpc::ServerUnaryReactor*> held_ GUARDED_BY(mu_);
  std::unique_ptr<RpcServer> door_;
};

TEST(GroupStop, ADriverThatNoRankAnswers) {
  Driver driver("127.0.0.1:1");
  driver.Stop();
  ExpectStopped(driver.Wait());
  ExpectStopped(driver.Run());  // and every later step
}

TEST(GroupStop, ADriverWhoseRankAcceptsAndSaysNothing) {
  SilentDoor rank;
  Driver driver(rank.address());
  rank.WaitForCaller();
  driver.Stop();
  ExpectStopped(driver.Wait());
}

TEST(GroupStop, ADriverWhoseRankDoesNotSayWhetherItLives) {
  FakeRank rank(FakeRank::Ignores::kLook);
  Driver driver(rank.address());
  rank.WaitForLook();
  driver.Stop();
  ExpectStopped(driver.Wait());
}

TEST(GroupStop, ADriverWhoseRankDoesNotAnswerTheJoin) {
  FakeRank rank(FakeRank::Ignores::kJoin);
  Driver driver(rank.address());
  rank.WaitForJoin();
  driver.Stop();
  ExpectStopped(driver.Wait());
}

TEST(GroupStop, ADriverThatWaitsForARankToConnect) {
  const auto host = MakeHost();
  FakeRank rank(FakeRank::Ignores::kNothing, AddressOf(*host));
  Driver driver(rank.address());
  // Of the two parts the rank joins the first.
  auto world = host->Join(WorldOf(rank.WaitForJoin(), 1), Later());
  ASSERT_TRUE(world.ok()) << world.status();
  driver.Stop();
  ExpectStopped(driver.Wait());
  ExpectTold(**world);
}

TEST(GroupStop, TheProcesssOwnStopEndsTheFirstEpochsForming) {
  StopSignal process;
  SilentDoor rank;
  Driver driver(rank.address(), &process);
  rank.WaitForCaller();
  process.Stop();
  ExpectStopped(driver.Wait());
}

class RankStop : public testing::Test {
 protected:
  RankStop() : host_(MakeHost()) {
    auto server = RankServer::Start({.name = "rank",
                                     .split = *parallel::ParseGroupShape(kShape),
                                     .rank = 1,
                                     .model = Model(),
                                     .connect_ns = kHour},
                                    nullptr);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto door = RpcServer::Start("127.0.0.1:0", {server_.get()});
    EXPECT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
    stub_ = v1::GroupRank::NewStub(ClusterChannel(door_->address()));
  }
  v1::JoinRequest Order(uint64_t epoch) {
    const kv::GroupSplit split = *parallel::ParseGroupShape(kShape);
    v1::JoinRequest request;
    request.set_owner("worker");
    request.set_generation(1);
    request.set_group(7);
    request.set_epoch(epoch);
    request.set_rank(1);
    request.set_shape(parallel::GroupShapeText(split));
    request.set_stripe_leaves(split.stripe_leaves);
    request.add_addresses(AddressOf(*host_));
    request.add_addresses(server_->group_address());
    const GroupTerms terms = (*RankModel::Load(Model(), {}, split, 0))->TermsOf(2);
    request.set_format_text(terms.format_text);
    request.mutable_tensor_sums()->Add(terms.tensor_sums.begin(), terms.tensor_sums.end());
    request.set_pages(terms.pages);
    return request;
  }
  Status Join(const v1::JoinRequest& request) {
    grpc::ClientContext context;
    v1::JoinResponse response;
    return FromGrpc(stub_->Join(&context, request, &response));
  }
  // The driver joins the first of two parts, so that the rank waits for it in the second.
  std::unique_ptr<parallel::Communicator> JoinWorld(const v1::JoinRequest& request) {
    auto world = host_->Join(WorldOf(request, 0), Later());
    EXPECT_TRUE(world.ok()) << world.status();
    return *std::move(world);
  }

  const std::unique_ptr<parallel::GroupHost> host_;
  std::unique_ptr<RankServer> server_;
  std::unique_ptr<RpcServer> door_;
  std::unique_ptr<v1::GroupRank::Stub> stub_;
};

TEST_F(RankStop, ARankThatWaitsForItsDriverToConnect) {
  const v1::JoinRequest order = Order(1);
  ASSERT_TRUE(Join(order).ok());
  const auto world = JoinWorld(order);
  server_->Stop();
  ExpectTold(*world);
}

TEST_F(RankStop, ALaterEpochEndsTheWaitForAnEarlierOne) {
  const v1::JoinRequest order = Order(1);
  ASSERT_TRUE(Join(order).ok());
  const auto world = JoinWorld(order);
  // Answered by the thread that waited.
  const Status later = Join(Order(2));
  EXPECT_TRUE(later.ok()) << later;
  ExpectTold(*world);
  server_->Stop();
}

}  // namespace
}  // namespace reprise::worker
