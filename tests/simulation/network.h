// Messages between simulated processes: unordered datagrams that may be lost, doubled or late,
// unary calls that end once, and streams that keep order until they break. Owned by the cluster;
// one thread.
//
// Invariants:
// 1. A call ends exactly once at its caller: with the reply, UNAVAILABLE or DEADLINE_EXCEEDED.
// 2. A stream's messages arrive in order, each once; after one end was told that the stream broke,
//    nothing arrives at either.
// 3. Both living ends of a broken stream are told, each once.
#ifndef REPRISE_TESTS_SIMULATION_NETWORK_H_
#define REPRISE_TESTS_SIMULATION_NETWORK_H_

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "common/status.h"
#include "tests/simulation/faults.h"
#include "tests/simulation/world.h"

namespace reprise::sim {

using StreamId = uint64_t;

class Network {
 public:
  Network(World& world, const Faults& faults) : world_(world), faults_(faults) {}

  // From here on the network behaves.
  void StopFaults() { quiet_ = true; }

  // Nothing passes from the one to the other until then; not even StopFaults heals it sooner.
  // Datagrams and calls are lost, streams stall.
  void Partition(Pid from, Pid to, TimeNs until) {
    TimeNs& parted = parted_[{from, to}];
    parted = std::max(parted, until);
  }

  void Datagram(Label label, std::function<void()> deliver);

  using Reply = std::function<void()>;  // runs at the caller
  struct UnaryCall {
    Label label;
    TimeNs timeout = kSecond;
    bool repeatable = false;       // a network that doubles messages may double it
    std::function<Reply()> serve;  // runs at the callee
    std::function<void(const Status&)> failed;
  };
  void Call(UnaryCall call);

  struct End {
    Pid pid = 0;
    std::function<void()> broken;
  };
  // `kind` lives for ever.
  StreamId Connect(const char* kind, End a, End b);
  void Send(StreamId stream, Label label, std::function<void()> deliver);
  void Break(StreamId stream) { BreakAt(stream, 0); }
  // One end gives it up: that end knows at once, the other when word reaches it.
  void BreakAt(StreamId stream, Pid by);
  // Both ends are done with it.
  void Close(StreamId stream) { streams_.erase(stream); }
  // Everything the dead process was connected to breaks.
  void BreakAllOf(Pid pid);
  // Streams with both ends alive, for whoever breaks them.
  std::vector<StreamId> Open(absl::string_view kind) const;

  uint64_t broken() const { return broken_; }

 private:
  struct Side {
    End end;
    bool told = false;
    TimeNs last_delivery = 0;
    std::deque<std::function<void()>> inbox;  // in flight towards this side
  };
  struct Stream {
    const char* kind = "";
    Side sides[2];
    bool broken = false;
  };
  TimeNs Delay();
  // May overtake, and be overtaken.
  void Deliver(Label label, std::function<void()> deliver);
  bool Happens(bool enabled, double probability);
  void Tell(StreamId id, int side);
  TimeNs PartedUntil(Pid from, Pid to) const;  // 0: they are not
  bool Parted(Pid from, Pid to) const { return world_.now() < PartedUntil(from, to); }
  void EndCall(uint64_t call, const std::function<void()>& how);

  World& world_;
  const Faults faults_;
  bool quiet_ = false;
  StreamId next_stream_ = 1;
  std::map<StreamId, std::shared_ptr<Stream>> streams_;
  uint64_t next_call_ = 1;
  std::map<uint64_t, UnaryCall> calls_;  // not ended
  std::map<std::pair<Pid, Pid>, TimeNs> parted_;
  struct Lane {
    uint64_t sent = 0;
    uint64_t latest = 0;  // delivered
  };
  std::map<std::pair<Pid, Pid>, Lane> lanes_;
  uint64_t broken_ = 0;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_NETWORK_H_
