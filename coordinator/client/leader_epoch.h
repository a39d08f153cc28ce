// The highest leader epoch a process has seen. Orders, placements and answers of a lower one come
// from a coordinator that leads no more, and are refused (never by lease time). One per process,
// shared by everything that hears a coordinator's word. Any thread.
#ifndef REPRISE_COORDINATOR_CLIENT_LEADER_EPOCH_H_
#define REPRISE_COORDINATOR_CLIENT_LEADER_EPOCH_H_

#include <atomic>
#include <cstdint>

#include "common/metrics.h"

namespace reprise {

class LeaderEpoch {
 public:
  uint64_t highest() const { return highest_.load(std::memory_order_acquire); }
  // A word of `epoch` came, meant to be obeyed. False, and counted, when it is below the highest.
  // A coordinator without a group says 0.
  bool Take(uint64_t epoch);
  // `epoch` was heard of, e.g. from a standby; nothing is judged by it.
  void Raise(uint64_t epoch);
  uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> highest_{0};
  std::atomic<uint64_t> refused_{0};
};

// reprise_leader_epoch and reprise_stale_leader_refused_total. `epoch` outlives the scrapes.
void AddLeaderEpochMetrics(const LeaderEpoch* epoch, MetricsRegistry* metrics);

}  // namespace reprise

#endif  // REPRISE_COORDINATOR_CLIENT_LEADER_EPOCH_H_
