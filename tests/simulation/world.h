// The simulated universe: virtual time, one queue of events, one seeded source of chance and a
// running hash of everything that happened, so that a seed names one history exactly. Owned by the
// cluster under test; one thread.
//
// Invariants:
// 1. Events run in order of (time, number of scheduling), so equal seeds give equal histories.
// 2. An event for a dead process never runs; one for a frozen process runs when it thaws.
// 3. After the first failure nothing runs any more.
#ifndef REPRISE_TESTS_SIMULATION_WORLD_H_
#define REPRISE_TESTS_SIMULATION_WORLD_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/random.h"
#include "tests/simulation/faults.h"

namespace reprise::sim {

// A process incarnation. 0 is the environment: clients and the one who breaks things.
using Pid = uint32_t;

// Order-sensitive 64-bit digest of an event's contents.
class Digest {
 public:
  Digest& U64(uint64_t value);
  Digest& Text(absl::string_view text);
  Digest& Bytes(std::span<const uint8_t> bytes);
  Digest& Key(const RequestKey& key) {
    return Text(key.id).U64(key.attempt.owner_epoch).U64(key.attempt.n);
  }
  uint64_t value() const { return state_; }

 private:
  uint64_t state_ = 0xcbf29ce484222325u;
};

struct Label {
  const char* kind = "";
  Pid from = 0;
  Pid to = 0;
  uint64_t digest = 0;
};

class World {
 public:
  World(uint64_t seed, bool verbose) : seed_(seed), verbose_(verbose), random_(seed) {}

  uint64_t seed() const { return seed_; }
  TimeNs now() const { return now_; }
  SplitMix64& random() { return random_; }
  uint64_t hash() const { return hash_.value(); }
  uint64_t events() const { return events_; }

  Pid Spawn(std::string name);
  void Kill(Pid pid);
  bool Alive(Pid pid) const { return pid == 0 || processes_[pid].alive; }
  // SIGSTOP: what is meant for the process waits. Never thaws earlier than it was told before, or
  // what waits would be overtaken.
  void Freeze(Pid pid, TimeNs until) {
    processes_[pid].frozen_until = std::max(processes_[pid].frozen_until, until);
  }
  // What the process's own monotonic clock shows; it may jump ahead, never back.
  TimeNs Clock(Pid pid) const { return now_ + processes_[pid].clock_ahead; }
  void Jump(Pid pid, TimeNs ahead) { processes_[pid].clock_ahead += ahead; }
  const std::string& name(Pid pid) const { return processes_[pid].name; }

  void After(TimeNs delay, Label label, std::function<void()> work);
  // Runs the next event; false when there is none or something failed.
  bool RunOne();
  void RunUntil(TimeNs until);

  // What was done to this history.
  void Note(Injected what) { tally_.Note(what); }
  const FaultTally& tally() const { return tally_; }

  // Called after every event with the process it was for.
  void SetChecker(std::function<void(Pid)> checker) { checker_ = std::move(checker); }

  // The first failure counts.
  void Fail(const std::string& what);
  const std::optional<std::string>& failure() const { return failure_; }

  template <typename... Parts>
  void Trace(const Parts&... parts) {
    if (verbose_) Print(absl::StrCat(parts...));
  }

 private:
  struct Process {
    std::string name;
    bool alive = true;
    TimeNs frozen_until = 0;
    TimeNs clock_ahead = 0;
  };
  struct Event {
    Label label;
    std::function<void()> work;
  };
  void Print(const std::string& line) const;

  const uint64_t seed_;
  const bool verbose_;
  SplitMix64 random_;
  TimeNs now_ = 0;
  uint64_t scheduled_ = 0;
  uint64_t events_ = 0;
  Digest hash_;
  std::map<std::pair<TimeNs, uint64_t>, Event> queue_;
  std::vector<Process> processes_ = {Process{"environment"}};
  std::function<void(Pid)> checker_;
  std::optional<std::string> failure_;
  FaultTally tally_;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_WORLD_H_
