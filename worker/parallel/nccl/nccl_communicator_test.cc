// The communicator over NCCL's stand-in by the conformance suite: the control link in process, and
// over a transport.
#include "worker/parallel/nccl/nccl_communicator.h"

#include <gtest/gtest.h>

#include <list>
#include <thread>

#include "worker/parallel/conformance.h"
#include "worker/parallel/group_host.h"
#include "worker/parallel/in_process.h"
#include "worker/parallel/nccl/fake_nccl.h"
#include "worker/parallel/test_transport.h"

namespace reprise::parallel {
namespace {

TimeNs Later() { return RealClock().NowNs() + 60 * kSecond; }

// Where ranks get their control links, and what a death looks like on them.
class ControlWorld {
 public:
  virtual ~ControlWorld() = default;
  virtual StatusOr<std::unique_ptr<PeerLink>> Join(uint64_t epoch, int rank,
                                                   const std::vector<int>& processes) = 0;
  virtual void Begin(const std::vector<int>& processes) = 0;
  virtual void KillAfter(int process, int messages) = 0;
};

class InProcessControl final : public ControlWorld {
 public:
  void Begin(const std::vector<int>& processes) override {
    groups_.emplace_back(static_cast<int>(processes.size()));
    processes_ = processes;
  }
  StatusOr<std::unique_ptr<PeerLink>> Join(uint64_t, int rank, const std::vector<int>&) override {
    return groups_.back().MakeLink(rank);
  }
  void KillAfter(int process, int messages) override {
    for (size_t r = 0; r < processes_.size(); ++r) {
      if (processes_[r] == process) groups_.back().KillAfter(static_cast<int>(r), messages);
    }
  }

 private:
  std::list<InProcessGroup> groups_;
  std::vector<int> processes_;  // of the latest group, by rank
};

class TransportControl final : public ControlWorld {
 public:
  explicit TransportControl(int processes) {
    for (int i = 0; i < processes; ++i) {
      auto transport = std::make_unique<TestTransport>(&network_);
      transports_.push_back(transport.get());
      hosts_.push_back(std::make_unique<GroupHost>(std::move(transport)));
    }
  }
  void Begin(const std::vector<int>&) override {}
  StatusOr<std::unique_ptr<PeerLink>> Join(uint64_t epoch, int rank,
                                           const std::vector<int>& processes) override {
    GroupSpec spec{.group = 7, .epoch = epoch, .rank = rank, .addresses = {}};
    for (const int process : processes) {
      spec.addresses.push_back({"fake", hosts_[static_cast<size_t>(process)]->port()});
    }
    const auto mine = static_cast<size_t>(processes[static_cast<size_t>(rank)]);
    return hosts_[mine]->JoinLink(spec, Later());
  }
  void KillAfter(int process, int messages) override {
    TestTransport* transport = transports_[static_cast<size_t>(process)];
    messages == 0 ? transport->Kill() : transport->KillAfter(messages);
  }

 private:
  DrivenNetwork network_;
  std::vector<TestTransport*> transports_;
  std::vector<std::unique_ptr<GroupHost>> hosts_;
};

class NcclWorld final : public World {
 public:
  NcclWorld(int processes, std::unique_ptr<ControlWorld> control) : control_(std::move(control)) {
    for (int i = 0; i < processes; ++i) devices_.push_back(nccl_.MakeDevice(i));
  }
  ~NcclWorld() override {
    EXPECT_TRUE(nccl_.Violations().empty()) << nccl_.Violations()[0];
    EXPECT_EQ(nccl_.Allocations(), 0u);
  }
  std::vector<std::unique_ptr<Communicator>> Form(uint64_t epoch,
                                                  const std::vector<int>& processes) override {
    control_->Begin(processes);
    std::vector<std::unique_ptr<Communicator>> ranks(processes.size());
    std::vector<std::thread> threads;
    for (size_t r = 0; r < processes.size(); ++r) {
      threads.emplace_back([&, r] {
        auto made = Make(epoch, static_cast<int>(r), processes);
        EXPECT_TRUE(made.ok()) << made.status();
        if (made.ok()) ranks[r] = std::move(*made);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return ranks;
  }
  void Kill(int process) override { control_->KillAfter(process, 0); }
  // What comes first: that many messages of NCCL, or of the control link.
  void KillAfter(int process, int messages) override {
    nccl_.KillAfter(process, messages, [this, process] { Kill(process); });
    control_->KillAfter(process, messages);
  }

 private:
  StatusOr<std::unique_ptr<Communicator>> Make(uint64_t epoch, int rank,
                                               const std::vector<int>& processes) {
    ASSIGN_OR_RETURN(auto link, control_->Join(epoch, rank, processes));
    NcclDevice* device = devices_[static_cast<size_t>(processes[static_cast<size_t>(rank)])].get();
    return MakeNcclCommunicator(device, std::move(link), Later(),
                                {.leave_patience_ns = 10 * kMillisecond});
  }

  const std::unique_ptr<ControlWorld> control_;
  FakeNccl nccl_;
  std::vector<std::unique_ptr<NcclDevice>> devices_;
};

BackEnd InProcess() {
  return {"InProcess", [](int processes) {
            return std::make_unique<NcclWorld>(processes, std::make_unique<InProcessControl>());
          }};
}
BackEnd OverTransport() {
  return {"Transport", [](int processes) {
            return std::make_unique<NcclWorld>(processes,
                                               std::make_unique<TransportControl>(processes));
          }};
}

INSTANTIATE_TEST_SUITE_P(Nccl, CommunicatorConformance,
                         testing::Combine(testing::Values(InProcess()),
                                          testing::Values(1, 2, 3, 4, 5)),
                         ConformanceName);
INSTANTIATE_TEST_SUITE_P(NcclOver, CommunicatorConformance,
                         testing::Combine(testing::Values(OverTransport()), testing::Values(2, 3)),
                         ConformanceName);

}  // namespace
}  // namespace reprise::parallel
