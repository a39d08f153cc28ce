// What every back end of the communicator must do, as one parameterized suite. A back end's test
// gives a factory of worlds and instantiates CommunicatorConformance over (back end, ranks).
#ifndef REPRISE_WORKER_PARALLEL_CONFORMANCE_H_
#define REPRISE_WORKER_PARALLEL_CONFORMANCE_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "worker/parallel/communicator.h"

namespace reprise::parallel {

// The processes that a group's ranks run in, one a rank, and spare ones.
class World {
 public:
  virtual ~World() = default;
  // Forms the group of this epoch from processes; the result is by rank. Epochs rise.
  virtual std::vector<std::unique_ptr<Communicator>> Form(uint64_t epoch,
                                                          const std::vector<int>& processes) = 0;
  // The process dies, now or when it has posted that many more messages.
  virtual void Kill(int process) = 0;
  virtual void KillAfter(int process, int messages) = 0;
};

struct BackEnd {
  std::string name;
  std::function<std::unique_ptr<World>(int processes)> make_world;
};

class CommunicatorConformance : public testing::TestWithParam<std::tuple<BackEnd, int>> {
 protected:
  int size() const { return std::get<1>(GetParam()); }
  // Every rank's communicator of epoch 1, in processes 0 to size - 1 of size + 1.
  void SetUp() override;
  void TearDown() override;
  // Runs on a thread a rank; the statuses are by rank.
  using RankCall = std::function<Status(Communicator&)>;
  std::vector<Status> OnAllRanks(const RankCall& call);

  std::unique_ptr<World> world_;
  std::vector<std::unique_ptr<Communicator>> ranks_;
};

inline std::string ConformanceName(const testing::TestParamInfo<std::tuple<BackEnd, int>>& info) {
  return std::get<0>(info.param).name + std::to_string(std::get<1>(info.param));
}
// gtest prints parameters.
inline void PrintTo(const BackEnd& back_end, std::ostream* out) { *out << back_end.name; }

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONFORMANCE_H_
