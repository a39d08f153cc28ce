// Faults drawn from a seed and done to a cluster at their times: SIGKILL and a restart, or SIGSTOP
// and a SIGCONT. Owned by the benchmark; the thread that owns the cluster.
//
// Invariants:
// 1. Of each role at least one process is whole (running, ready, not frozen) or, when a process
//    died unordered, being restarted.
// 2. Role and kind come from a shuffled deck with every pair once, so that no run lacks one; the
//    process is any whole one of the role.
#ifndef REPRISE_BENCH_FAULT_PLAN_H_
#define REPRISE_BENCH_FAULT_PLAN_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/random.h"
#include "common/status.h"
#include "tests/cluster/cluster.h"

namespace reprise::bench {

class FaultPlan {
 public:
  struct Options {
    uint64_t seed = 1;
    TimeNs every_ns = 5 * kSecond;
    TimeNs restart_after_ns = 3 * kSecond;
    TimeNs thaw_min_ns = 4 * kSecond;
    TimeNs thaw_max_ns = 10 * kSecond;
    bool kills_only = false;
  };
  FaultPlan(harness::Cluster& cluster, const Options& options);

  // When Step has something to do next.
  TimeNs NextNs() const;
  // Does what is due: repairs, and a new fault if its time has come and `more` is set.
  // `before_kill` is called with the name of a process that is about to die.
  Status Step(bool more, const std::function<void(const std::string&)>& before_kill);
  // Nothing is dead or frozen.
  bool whole() const { return due_.empty(); }

  int faults() const { return faults_; }
  // Processes that ended without being killed by the plan.
  int unordered_deaths() const { return unordered_deaths_; }
  const std::vector<std::string>& story() const { return story_; }  // a line for each event

 private:
  struct Repair {
    TimeNs at_ns;
    bool restart;  // else a thaw
  };
  struct Card {
    std::string role;
    bool freeze = false;
  };
  // Whole processes by role, of roles that have one to spare.
  std::map<std::string, std::vector<std::string>> Candidates() const;
  // One of the cards whose role is among these; nothing when there is none.
  std::optional<Card> Draw(const std::map<std::string, std::vector<std::string>>& candidates);
  Status Strike(const std::function<void(const std::string&)>& before_kill);
  Status RepairDue(TimeNs now);
  void Tell(const std::string& what);

  harness::Cluster& cluster_;
  const Options options_;
  const TimeNs start_ns_;
  SplitMix64 random_;
  TimeNs next_fault_ns_;
  std::vector<Card> deck_;
  std::map<std::string, Repair> due_;  // by process
  int faults_ = 0;
  int unordered_deaths_ = 0;
  std::vector<std::string> story_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_FAULT_PLAN_H_
