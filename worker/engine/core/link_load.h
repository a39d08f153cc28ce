// What is on the link from one source to this worker and what that link can do, learned from the
// transfers that crossed it. A link is taken to be fair: n transfers get an n-th of it each, which
// is how a source serves its fetches (kvstore/stream/fetch_server.h) and how TCP shares a wire.
// Owned by the worker core; one thread.
//
// Invariants:
// 1. A transfer counts from Begin to End, whatever the estimate of its progress says.
// 2. What is left of a transfer is never negative; the estimates depend on the calls alone.
#ifndef REPRISE_WORKER_ENGINE_CORE_LINK_LOAD_H_
#define REPRISE_WORKER_ENGINE_CORE_LINK_LOAD_H_

#include <cstdint>
#include <map>

#include "common/clock.h"

namespace reprise::worker {

// Amounts over the seconds they took, the latest few samples: a large sample weighs more than a
// small one, whose seconds are mostly fixed costs.
class RateEstimate {
 public:
  // `per_s` holds until something is measured; `keep` is what is left of a sample after the next.
  RateEstimate(double per_s, double keep) : prior_(per_s), keep_(keep) {}
  void Add(double amount, double seconds) {
    amount_ = keep_ * amount_ + amount;
    seconds_ = keep_ * seconds_ + seconds;
  }
  double per_s() const { return seconds_ > 0 ? amount_ / seconds_ : prior_; }

 private:
  double prior_;
  double keep_;
  double amount_ = 0;
  double seconds_ = 0;
};

class LinkLoad {
 public:
  // Both hold until they are measured.
  LinkLoad(double bytes_per_s, TimeNs latency_ns)
      : rate_(bytes_per_s, kKeep), latency_ns_(latency_ns) {}

  void Begin(uint64_t transfer, int64_t bytes, TimeNs now);
  // `arrived` bytes of it; 0: it failed, which says nothing of the link.
  void End(uint64_t transfer, int64_t arrived, TimeNs now);

  bool idle() const { return open_.empty(); }
  double bytes_per_s() const { return rate_.per_s(); }
  TimeNs latency_ns() const { return latency_ns_; }  // of a transfer, beside its bytes
  // Bytes still to come of all transfers.
  int64_t Backlog(TimeNs now);
  // Bytes of others that cross before a transfer of `bytes`, begun now, ends.
  int64_t Contending(int64_t bytes, TimeNs now);

 private:
  static constexpr double kKeep = 0.7;
  struct Open {
    double left = 0;
    double service_s = 0;  // its share of the link so far, in seconds of the whole link
  };
  void Advance(TimeNs now);

  RateEstimate rate_;
  TimeNs latency_ns_;
  std::map<uint64_t, Open> open_;
  TimeNs at_ns_ = 0;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_LINK_LOAD_H_
