#include "worker/parallel/in_process.h"

#include <list>

#include "worker/parallel/conformance.h"

namespace reprise::parallel {
namespace {

class ThreadsWorld final : public World {
 public:
  std::vector<std::unique_ptr<Communicator>> Form(uint64_t,
                                                  const std::vector<int>& processes) override {
    groups_.emplace_back(static_cast<int>(processes.size()));
    processes_ = processes;
    std::vector<std::unique_ptr<Communicator>> ranks;
    for (size_t r = 0; r < processes.size(); ++r) {
      ranks.push_back(groups_.back().MakeCommunicator(static_cast<int>(r)));
    }
    return ranks;
  }
  void Kill(int process) override { KillAfter(process, 0); }
  void KillAfter(int process, int messages) override {
    for (size_t r = 0; r < processes_.size(); ++r) {
      if (processes_[r] == process) groups_.back().KillAfter(static_cast<int>(r), messages);
    }
  }

 private:
  std::list<InProcessGroup> groups_;
  std::vector<int> processes_;  // of the latest group, by rank
};

INSTANTIATE_TEST_SUITE_P(
    InProcess, CommunicatorConformance,
    testing::Combine(testing::Values(BackEnd{"Threads",
                                             [](int) { return std::make_unique<ThreadsWorld>(); }}),
                     testing::Values(1, 2, 3, 4, 5, 8)),
    ConformanceName);

}  // namespace
}  // namespace reprise::parallel
