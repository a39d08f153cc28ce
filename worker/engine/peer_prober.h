// Whether this node's stream still moves blocks: twice a second (once, while the node has nothing
// to do) it fetches and verifies a block from itself and from one peer in turn. Owned by the
// engine; any thread.
//
// Invariants:
// 1. One probe of itself and one of each peer are under way at most.
// 2. A peer is unreachable from the end of a probe that failed until one succeeds or it is no peer
//    any more. Only a probe beside which the own stream moved a block in time says anything against
//    a peer.
// 3. A node that no peer has answered for a while names itself: it, or all of them, are cut off,
//    which the coordinator can tell apart.
// 4. A stream that has not moved its own block in kStuckRounds rounds of probes that this process
//    really made is stuck, and stays so: rounds in which the process was stopped do not count.
#ifndef REPRISE_WORKER_ENGINE_PEER_PROBER_H_
#define REPRISE_WORKER_ENGINE_PEER_PROBER_H_

#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "common/thread.h"
#include "kvstore/stream/kv_stream.h"
#include "worker/engine/core/types.h"

namespace reprise::worker {

class PeerProber {
 public:
  static constexpr TimeNs kPeriod = 500 * kMillisecond;
  static constexpr int kStuckRounds = 20;

  // `stream` outlives Stop and answers every probe before it is gone.
  explicit PeerProber(kv::KvStream* stream, TimeNs period_ns = kPeriod)
      : stream_(stream), period_ns_(period_ns) {}
  ~PeerProber() { Stop(); }

  // A block has just gone through the own stream.
  void Start();
  void Stop();
  void SetPeers(const std::vector<StoreNode>& peers);
  // Whether the node has requests.
  void SetIdle(bool idle);

  int64_t AgeMs() const;
  // The stream will not carry anything any more: only a new process helps.
  bool Stuck() const;
  // Peers, and the node itself by invariant 3.
  std::vector<std::string> Unreachable() const;

 private:
  void Loop();
  TimeNs Period() const REQUIRES(mu_) { return idle_ ? 2 * period_ns_ : period_ns_; }
  void ProbeSelf();
  void ProbeNext(TimeNs round_ns);

  kv::KvStream* const stream_;
  const TimeNs period_ns_;
  mutable Mutex mu_;
  CondVar wake_;
  std::map<NodeKey, kv::PeerAddress> peers_ GUARDED_BY(mu_);
  std::map<NodeKey, bool> failed_ GUARDED_BY(mu_);  // by the latest probe of each peer
  std::set<NodeKey> open_ GUARDED_BY(mu_);          // probes of peers under way
  NodeKey last_ GUARDED_BY(mu_);                    // probed
  TimeNs verified_ns_ GUARDED_BY(mu_) = 0;          // of the own stream
  TimeNs own_took_ns_ GUARDED_BY(mu_) = 0;          // by the probe that verified it
  TimeNs reached_ns_ GUARDED_BY(mu_) = 0;           // some peer, or when they became peers
  bool self_open_ GUARDED_BY(mu_) = false;
  int unverified_rounds_ GUARDED_BY(mu_) = 0;
  bool idle_ GUARDED_BY(mu_) = false;
  bool stopping_ GUARDED_BY(mu_) = false;
  Thread thread_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_PEER_PROBER_H_
