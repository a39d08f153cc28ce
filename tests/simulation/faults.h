// What goes wrong in one history, drawn from its seed (swarm testing: each seed enables a random
// subset, so that rare combinations meet), and the bugs a test may plant to prove that the checkers
// can fail. Values.
#ifndef REPRISE_TESTS_SIMULATION_FAULTS_H_
#define REPRISE_TESTS_SIMULATION_FAULTS_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/random.h"

namespace reprise::sim {

struct Faults {
  // The network.
  bool delays = false;       // up to 20 ms instead of 1 ms
  bool stragglers = false;   // some messages take up to 600 ms and are overtaken
  bool drops = false;        // of unordered messages and unary calls
  bool duplicates = false;   // of unordered messages
  bool corruption = false;   // a bit of a segment in flight
  bool kv_breaks = false;    // connections between nodes that move KV
  bool link_breaks = false;  // streams between gateway and worker
  // Processes.
  bool worker_crashes = false;
  bool store_crashes = false;
  bool store_loses_disk = false;
  bool torn_disk = false;  // the last writes before a crash keep their records but not their bytes
  bool disk_full = false;  // writes fail
  bool disk_blocked = false;  // some operations take 2 s
  bool coordinator_restarts = false;
  bool gateway_crashes = false;
  bool drains = false;       // a worker gives its work away and exits
  bool freezes = false;      // 0.1 to 3 s
  bool partitions = false;   // between any two processes, one-way or both ways
  bool clock_jumps = false;  // a process's clock jumps ahead, up to 3 s
  bool slow_worker = false;
  // Clients and sizes.
  bool cancels = false;
  bool departures = false;  // clients leave, for a while or for good
  bool deadlines = false;
  bool few_pages = false;  // preemption
  bool few_slots = false;  // eviction in stores
  bool long_requests = false;

  bool any_process() const {
    return worker_crashes || store_crashes || coordinator_restarts || freezes || partitions ||
           kv_breaks || link_breaks || cancels || gateway_crashes || drains || clock_jumps ||
           departures;
  }
  // Nothing can take an attempt from a request.
  bool calm() const {
    return !(stragglers || drops || corruption || deadlines || slow_worker || few_pages ||
             any_process());
  }
};

inline Faults DrawFaults(SplitMix64& random) {
  Faults faults;
  const bool calm = random.Chance(0.12);
  const double density = random.Uniform() * 0.7;
  for (bool* flag : {&faults.delays,          &faults.stragglers,
                     &faults.drops,           &faults.duplicates,
                     &faults.corruption,      &faults.kv_breaks,
                     &faults.link_breaks,     &faults.worker_crashes,
                     &faults.store_crashes,   &faults.store_loses_disk,
                     &faults.torn_disk,       &faults.disk_full,
                     &faults.disk_blocked,    &faults.coordinator_restarts,
                     &faults.gateway_crashes, &faults.drains,
                     &faults.clock_jumps,     &faults.departures,
                     &faults.freezes,         &faults.partitions,
                     &faults.slow_worker,     &faults.cancels,
                     &faults.deadlines,       &faults.few_pages,
                     &faults.few_slots,       &faults.long_requests}) {
    *flag = random.Chance(density) && !calm;
  }
  return faults;
}

// Every way in which something is done to a history, counted when it is really done.
enum class Injected : uint8_t {
  kWorkerCrash,
  kStoreCrash,
  kGatewayCrash,
  kCoordinatorCrash,
  kRestart,
  kPause,
  kOneWayPartition,
  kTwoWayPartition,
  kDelay,
  kStraggler,
  kReorder,
  kDuplicate,
  kDrop,
  kCorruption,
  kKvBreak,
  kLinkBreak,
  kDiskFull,
  kDiskBlocked,
  kDiskLost,
  kDiskTorn,
  kClockJump,
  kDrain,
  kSlowWorker,
  kCancel,
  kDeparture,
};
inline constexpr std::array kInjectedNames = {
    "worker crashes",
    "store crashes",
    "gateway crashes",
    "coordinator crashes",
    "restarts",
    "pauses",
    "one-way partitions",
    "two-way partitions",
    "delays",
    "stragglers",
    "reorderings",
    "duplicates",
    "drops",
    "flipped bits",
    "broken KV streams",
    "broken links",
    "writes to full disks",
    "blocked disks",
    "lost disks",
    "torn writes",
    "clock jumps",
    "drains",
    "slow workers",
    "cancels",
    "departures",
};

class FaultTally {
 public:
  void Note(Injected what) { ++counts_[static_cast<size_t>(what)]; }
  uint64_t of(Injected what) const { return counts_[static_cast<size_t>(what)]; }
  uint64_t of(size_t what) const { return counts_[what]; }
  void Add(const FaultTally& other) {
    for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  }
  std::string Text() const {
    std::string text;
    for (size_t i = 0; i < counts_.size(); ++i) {
      absl::StrAppend(&text, i == 0 ? "" : ", ", kInjectedNames[i], " ", counts_[i]);
    }
    return text;
  }

 private:
  std::array<uint64_t, kInjectedNames.size()> counts_{};
};

// One line of a shell left out or done wrong.
enum class Mutation : uint8_t {
  kNone,
  kChecksumUnchecked,     // a segment is announced whatever its checksum says
  kFetchDoneBeforeQuiet,  // a cancelled fetch ends while its transfers still write
  kPageQuietAtOnce,       // an unlisted page is handed back while a transfer reads it
  kUnlistForgotten,       // an unlisted page stays findable
  kPublishedEarly,        // a layer is announced before it is written
  kPublicationDropped,    // some layers are never announced
  kLinkLossNotTold,       // a broken stream is not reported to its requests
  kStorePinDropped,       // a slot is unpinned while a transfer reads it
  kFenceRemoved,          // a store takes every message for one of the latest attempt
  kPackedEarly,           // pages count as packed while they are still read
  kWatermarkPlusOne,      // stores are believed to hold a row more than they say
  kTailUnchecked,         // whatever tail a store has is taken for the request's own
  kReleaseForgotten,      // stores are not told of the end of a request
  kStaleLeaderObeyed,     // orders of a leader long replaced are carried out
  kGapAccepted,           // rows that do not follow what is held are acknowledged
  kEpochGoesOn,           // a coordinator counts on in an owner epoch that another began
  kKeyTakenBlindly,       // the leader's key is overwritten whatever its revision
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_FAULTS_H_
