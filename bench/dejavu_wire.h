// What the controller of the paper-mode benchmark and its stage processes tell each other: fixed
// records over a local SOCK_SEQPACKET socket, which keeps their boundaries. Both ends are one
// binary. Functions are safe on any thread; a socket may be written by several.
#ifndef REPRISE_BENCH_DEJAVU_WIRE_H_
#define REPRISE_BENCH_DEJAVU_WIRE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "common/clock.h"
#include "common/status.h"

namespace reprise::bench {

enum class StageVerb : uint32_t {
  // To a stage.
  kRun,        // work for work_ns, then hold rows [first, first + count) of (space, sequence)
  kPull,       // fetch those rows from peer; rows not there yet are waited for
  kReplicate,  // append the sequence's rows to peer, those there and those to come
  kQuery,      // how many rows from the first on are held?
  kDrop,       // forget the sequence
  // From a stage.
  kHello,        // peer: where it serves
  kDone,         // of kRun; at_ns is its nominal end
  kPulled,       // of kPull, once all rows are here
  kPullFailed,   // of kPull: the connection was lost, by the death of the source or otherwise
  kReplicaLost,  // of kReplicate: the connection was lost, as above
  kHave,         // of kQuery: count
  kDropped,      // of kDrop: count rows that came from peers, `wrong` of them not as they should be
};

struct StagePeer {
  uint64_t incarnation = 0;
  int32_t slot = 0;  // names the node
  int32_t port = 0;
};

// Rows of a sequence belong to a space: 1 + x for what stage x computes, 0 for whole prompts.
struct StageMessage {
  StageVerb verb = StageVerb::kRun;
  uint32_t epoch = 0;  // of the sequence; answers repeat it
  uint32_t space = 0;
  uint32_t sequence = 0;
  uint32_t first = 0;
  uint32_t count = 0;
  uint32_t wrong = 0;
  uint32_t reserved = 0;
  TimeNs at_ns = 0;  // CLOCK_MONOTONIC, one for all processes of the host: when the work arrived
  TimeNs work_ns = 0;
  StagePeer peer;
};

// An abstract local address: no file to clean up.
StatusOr<int> ListenForStages(const std::string& name);
StatusOr<int> ConnectToController(const std::string& name);

// The calling thread runs before others that are ready, where the system allows it: a machine that
// is shared with other work then keeps the times of one that is not. Not inherited.
bool RunOnTime();

Status SendMessage(int fd, const StageMessage& message);
// Empty: the other end is gone.
StatusOr<std::optional<StageMessage>> ReceiveMessage(int fd);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_DEJAVU_WIRE_H_
