// Which coordinator of a group leads, as a state machine: beats, etcd's answers and the passing of
// time go in, commands come out. Owned by Leadership (and by the model in its test).
//
// Threads: one at a time; the owner locks. Deterministic: no clock, no I/O; randomness by a seed.
//
// Invariants:
// 1. Whoever leads under epoch E has replaced the group's key in etcd by a compare-and-swap from an
//    older revision to (E, itself), so no two ever lead under one epoch.
// 2. A leader that hears of a higher epoch, from anybody, leads no more.
// 3. Nothing rests on time: a leader that was frozen may believe itself one until it hears of the
//    next, and receivers refuse its lower epoch. Time decides only when to try.
// 4. With etcd away the sitting leader goes on and nobody is elected.
#ifndef REPRISE_COORDINATOR_LEADER_LEADER_CORE_H_
#define REPRISE_COORDINATOR_LEADER_LEADER_CORE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "common/random.h"
#include "common/status.h"
#include "coordinator/leader/leader_record.h"

namespace reprise::coordinator {

struct LeaderOptions {
  std::string name;
  std::string address;  // host:port of its gRPC door, as its peers and nodes reach it
  uint64_t seed = 1;
  TimeNs tick_interval_ns = 50 * kMillisecond;  // how often the owner promises to call OnTick
  TimeNs late_tick_ns = 50 * kMillisecond;      // lateness below this is not compensated
  TimeNs beat_interval_ns = 150 * kMillisecond;
  TimeNs missed_after_ns = 600 * kMillisecond;  // silence after which the leader is taken for dead
  // A try waits a random part of this longer; doubled with every failed one.
  TimeNs backoff_ns = 150 * kMillisecond;
  TimeNs backoff_max_ns = 1200 * kMillisecond;
};

// What the owner does, one after the other; Read and Take are answered by OnRead and OnTaken, and
// at most one of them is under way.
struct ReadKey {};
struct TakeKey {
  int64_t revision = 0;  // only if the key is still of this one; 0: if there is none
  LeaderRecord record;
};
struct BeatPeers {
  LeaderRecord record;
};
using LeaderCommand = std::variant<ReadKey, TakeKey, BeatPeers>;

// The key as etcd has it.
struct StoredLeader {
  int64_t revision = 0;  // 0: there is none
  LeaderRecord record;
};

class LeaderCore {
 public:
  enum class State { kFollower, kCandidate, kLeader };

  LeaderCore(const LeaderOptions& options, TimeNs now);

  void OnTick(TimeNs now);
  // A peer says that it leads. The highest epoch known afterwards, for the answer.
  uint64_t OnBeat(const LeaderRecord& leader, TimeNs now);
  // Somebody (a peer's answer, a node's report) has seen `epoch`.
  void OnEpoch(uint64_t epoch, TimeNs now);
  void OnRead(const StatusOr<StoredLeader>& stored, TimeNs now);
  // True: the key was taken. False: another was faster. An error: unknown, it may have been taken.
  void OnTaken(const StatusOr<bool>& taken, TimeNs now);

  std::vector<LeaderCommand> TakeCommands();

  State state() const { return state_; }
  uint64_t epoch() const { return epoch_; }  // the highest known
  // Who leads under epoch(); absent while that is not known.
  const std::optional<LeaderRecord>& leader() const { return leader_; }
  // It leads, and has not just missed so much time that another may lead unheard.
  bool MayOrder(TimeNs now) const;

  uint64_t elections() const { return elections_; }    // won
  uint64_t steps_down() const { return steps_down_; }  // from leading
  uint64_t failed() const { return failed_; }          // tries that etcd did not answer

 private:
  void Follow(uint64_t epoch, std::optional<LeaderRecord> leader, TimeNs now);
  void Retry(TimeNs now);
  void Beat(TimeNs now);
  bool IsSelf(const LeaderRecord& record) const;

  const LeaderOptions options_;
  SplitMix64 random_;
  State state_ = State::kFollower;
  uint64_t epoch_ = 0;
  std::optional<LeaderRecord> leader_;
  bool asking_ = false;             // a ReadKey or TakeKey is under way
  std::optional<uint64_t> wanted_;  // epoch of the TakeKey under way
  TimeNs heard_ns_;                 // of a leader
  TimeNs try_ns_ = 0;               // not before
  TimeNs jitter_ns_;                // of the next try
  int failed_tries_ = 0;
  TimeNs beat_ns_ = 0;         // last sent
  TimeNs quiet_until_ns_ = 0;  // a leader that thawed gives no orders before
  TimeNs last_tick_ns_;
  std::vector<LeaderCommand> commands_;
  uint64_t elections_ = 0;
  uint64_t steps_down_ = 0;
  uint64_t failed_ = 0;
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_LEADER_LEADER_CORE_H_
