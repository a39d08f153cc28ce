#include "coordinator/client/leader_epoch.h"

namespace reprise {

void LeaderEpoch::Raise(uint64_t epoch) {
  uint64_t highest = highest_.load(std::memory_order_acquire);
  while (epoch > highest && !highest_.compare_exchange_weak(highest, epoch)) {
  }
}

bool LeaderEpoch::Take(uint64_t epoch) {
  Raise(epoch);
  if (epoch >= highest()) return true;
  refused_.fetch_add(1, std::memory_order_relaxed);
  return false;
}

void AddLeaderEpochMetrics(const LeaderEpoch* epoch, MetricsRegistry* metrics) {
  metrics->RegisterCallbackGauge("reprise_leader_epoch", "Highest leader epoch seen.",
                                 [epoch] { return static_cast<double>(epoch->highest()); });
  metrics->RegisterCallbackCounter("reprise_stale_leader_refused_total",
                                   "Words of coordinators that lead no more, refused.",
                                   [epoch] { return static_cast<double>(epoch->refused()); });
}

}  // namespace reprise
