// The communicator over the fake network and over UCX in one process, by the conformance suite.
#include <gmock/gmock.h>

#include <stop_token>
#include <thread>

#include "kvstore/transport/ucx_transport.h"
#include "worker/parallel/conformance.h"
#include "worker/parallel/group_host.h"
#include "worker/parallel/test_transport.h"

namespace reprise::parallel {
namespace {

constexpr TimeNs kPatience = 60 * kSecond;
TimeNs Later() { return RealClock().NowNs() + kPatience; }

// A process of the group: its transport belongs to its host.
struct Process {
  TestTransport* transport = nullptr;
  std::unique_ptr<GroupHost> host;
  explicit Process(std::unique_ptr<TestTransport> made) : transport(made.get()) {
    host = std::make_unique<GroupHost>(std::move(made));
  }
};

class TransportWorld final : public World {
 public:
  TransportWorld(bool real, int processes) {
    for (int i = 0; i < processes; ++i) {
      processes_.emplace_back(real ? std::make_unique<TestTransport>(*kv::CreateUcxTransport({}))
                                   : std::make_unique<TestTransport>(&network_));
    }
  }
  std::vector<std::unique_ptr<Communicator>> Form(uint64_t epoch,
                                                  const std::vector<int>& processes) override {
    GroupSpec spec{.group = 7, .epoch = epoch, .rank = 0, .addresses = {}};
    for (const int process : processes) {
      spec.addresses.push_back({"127.0.0.1", of(process).host->port()});
    }
    std::vector<std::unique_ptr<Communicator>> ranks(processes.size());
    std::vector<std::thread> threads;
    for (size_t r = 0; r < processes.size(); ++r) {
      threads.emplace_back([&, r, mine = spec]() mutable {
        mine.rank = static_cast<int>(r);
        auto joined = of(processes[r]).host->Join(mine, Later());
        EXPECT_TRUE(joined.ok()) << joined.status();
        if (joined.ok()) ranks[r] = std::move(*joined);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return ranks;
  }
  void Kill(int process) override { of(process).transport->Kill(); }
  void KillAfter(int process, int messages) override { of(process).transport->KillAfter(messages); }
  Process& of(int process) { return processes_[static_cast<size_t>(process)]; }

 private:
  DrivenNetwork network_;
  std::vector<Process> processes_;
};

BackEnd Over(const std::string& name, bool real) {
  return {name,
          [real](int processes) { return std::make_unique<TransportWorld>(real, processes); }};
}

INSTANTIATE_TEST_SUITE_P(FakeNetwork, CommunicatorConformance,
                         testing::Combine(testing::Values(Over("Fake", false)),
                                          testing::Values(1, 2, 3, 4, 5)),
                         ConformanceName);
INSTANTIATE_TEST_SUITE_P(Ucx, CommunicatorConformance,
                         testing::Combine(testing::Values(Over("Ucx", true)),
                                          testing::Values(1, 2, 3, 4, 5)),
                         ConformanceName);

// ---- Joining, over the fake network. ----

class GroupHostTest : public testing::Test {
 protected:
  GroupSpec Spec(uint64_t epoch, int rank, int size = 2) {
    GroupSpec spec{.group = 7, .epoch = epoch, .rank = rank, .addresses = {}};
    for (int r = 0; r < size; ++r) spec.addresses.push_back({"fake", world_.of(r).host->port()});
    return spec;
  }
  // Rank 0 on its own thread with the spec of the test's choice, rank 1 here.
  std::pair<Status, Status> JoinBoth(const GroupSpec& zero, const GroupSpec& one,
                                     TimeNs patience_ns = kPatience) {
    const TimeNs deadline_ns = RealClock().NowNs() + patience_ns;
    Status first;
    std::thread other([&] { first = world_.of(0).host->Join(zero, deadline_ns).status(); });
    const Status second = world_.of(1).host->Join(one, deadline_ns).status();
    other.join();
    return {first, second};
  }
  TransportWorld world_{false, 3};
};

TEST_F(GroupHostTest, ARankOfAnEarlierEpochIsRefused) {
  world_.Form(2, {0, 1});
  const Status stale = world_.of(2).host->Join(Spec(1, 1), Later()).status();
  EXPECT_EQ(stale.code(), absl::StatusCode::kFailedPrecondition) << stale;
  EXPECT_THAT(std::string(stale.message()),
              testing::HasSubstr("epoch 1 of group 7 is over, now it is 2"));
}

TEST_F(GroupHostTest, AnEpochCannotBeJoinedTwice) {
  world_.Form(2, {0, 1});
  const Status again = world_.of(0).host->Join(Spec(2, 0), Later()).status();
  EXPECT_EQ(again.code(), absl::StatusCode::kFailedPrecondition) << again;
}

TEST_F(GroupHostTest, ANewEpochEndsTheCommunicatorsOfTheOld) {
  const auto old = world_.Form(1, {0, 1});
  const auto next = world_.Form(2, {0, 1});
  for (const auto& rank : old) EXPECT_FALSE(rank->Barrier(Later()).ok());
  std::thread other([&] { EXPECT_TRUE(next[0]->Barrier(Later()).ok()); });
  EXPECT_TRUE(next[1]->Barrier(Later()).ok());
  other.join();
}

TEST_F(GroupHostTest, ADifferentSizeIsNamed) {
  const auto [zero, one] = JoinBoth(Spec(1, 0, 2), Spec(1, 1, 3));
  EXPECT_EQ(zero.code(), absl::StatusCode::kInvalidArgument) << zero;
  EXPECT_EQ(one.code(), absl::StatusCode::kInvalidArgument) << one;
  EXPECT_THAT(std::string(zero.message()),
              testing::HasSubstr("rank 0 of 3 here, which is rank 0 of 2"));
}

TEST_F(GroupHostTest, AnotherGroupIsNotJoined) {
  GroupSpec other = Spec(1, 1);
  other.group = 8;
  const auto [zero, one] = JoinBoth(Spec(1, 0), other, 200 * kMillisecond);
  EXPECT_EQ(zero.code(), absl::StatusCode::kDeadlineExceeded) << zero;
  EXPECT_EQ(one.code(), absl::StatusCode::kDeadlineExceeded) << one;
  EXPECT_THAT(std::string(one.message()), testing::HasSubstr("ranks 0 to join"));
}

TEST_F(GroupHostTest, AJoinThatIsToldToStopEndsAndSoDoesItsPeers) {
  const TimeNs deadline_ns = RealClock().NowNs() + 60 * kMinute;  // rank 2 never comes
  std::stop_source stop;
  Status zero;
  std::thread first([&] {
    zero = world_.of(0).host->Join(Spec(1, 0, 3), deadline_ns, stop.get_token()).status();
  });
  Status one;
  std::thread second([&] { one = world_.of(1).host->Join(Spec(1, 1, 3), deadline_ns).status(); });
  stop.request_stop();
  first.join();
  second.join();
  EXPECT_EQ(zero.code(), absl::StatusCode::kAborted) << zero;
  EXPECT_THAT(std::string(zero.message()), testing::HasSubstr("rank 0 was told to stop joining"));
  EXPECT_FALSE(one.ok());
  EXPECT_NE(one.code(), absl::StatusCode::kDeadlineExceeded) << one;
}

TEST_F(GroupHostTest, ASpecThatIsWrongInItselfIsRefused) {
  for (const GroupSpec& spec : {Spec(1, 2), Spec(1, -1), Spec(0, 0), Spec(1, 0, 0)}) {
    EXPECT_EQ(world_.of(0).host->Join(spec, Later()).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace reprise::parallel
