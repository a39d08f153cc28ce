#include <thread>

#include "worker/parallel/conformance.h"

namespace reprise::parallel {

void CommunicatorConformance::SetUp() {
  TearDown();  // a test may begin anew
  world_ = std::get<0>(GetParam()).make_world(size() + 1);
  std::vector<int> processes;
  for (int i = 0; i < size(); ++i) processes.push_back(i);
  ranks_ = world_->Form(1, processes);
  for (const auto& rank : ranks_) ASSERT_NE(rank, nullptr);
}

void CommunicatorConformance::TearDown() {
  ranks_.clear();
  world_.reset();
}

std::vector<Status> CommunicatorConformance::OnAllRanks(const RankCall& call) {
  std::vector<Status> statuses(ranks_.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    threads.emplace_back([&, r] { statuses[r] = call(*ranks_[r]); });
  }
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

}  // namespace reprise::parallel
