// How many prompt rows a step may hold, so that one layer stays within its time bound. A row's cost
// grows with the keys before it: far into a long context fewer rows fit than at its start. Values;
// any thread. The sizes of chunks change no bit (executor.h).
#ifndef REPRISE_WORKER_ENGINE_CHUNK_BUDGET_H_
#define REPRISE_WORKER_ENGINE_CHUNK_BUDGET_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace reprise::worker {

// In rows at position 0: a row at position p costs 1 + p / doubles_at.
struct ChunkCost {
  double max = 0;  // 0: only the number of rows counts
  double doubles_at = 1;
};

// What is left of both bounds in one step.
class ChunkBudget {
 public:
  ChunkBudget(int64_t rows, const ChunkCost& cost) : rows_(rows), cost_(cost), left_(cost.max) {}

  bool spent() const { return rows_ <= 0 || (cost_.max > 0 && left_ < 1); }
  // How many of `wanted` rows from position `first` on fit; those are taken. At least one, unless
  // it is spent or none is wanted: a chunk always goes on.
  int64_t Take(int64_t first, int64_t wanted) {
    if (spent() || wanted <= 0) return 0;
    const int64_t taken = std::min({wanted, rows_, std::max<int64_t>(Fitting(first), 1)});
    rows_ -= taken;
    left_ -= CostOf(first, taken);
    return taken;
  }

 private:
  // n + (n first + n^2 / 2) / doubles_at
  double CostOf(int64_t first, int64_t rows) const {
    const auto n = static_cast<double>(rows);
    return n * (1 + (static_cast<double>(first) + n / 2) / cost_.doubles_at);
  }
  int64_t Fitting(int64_t first) const {
    if (cost_.max <= 0) return INT64_MAX;
    const double at_first = cost_.doubles_at + static_cast<double>(first);
    return static_cast<int64_t>(std::sqrt(at_first * at_first + 2 * cost_.doubles_at * left_) -
                                at_first);
  }

  int64_t rows_;
  ChunkCost cost_;
  double left_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CHUNK_BUDGET_H_
