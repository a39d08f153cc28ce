// The fetches of a stage process: rows of a neighbour, subscribed to until they are computed, into
// DejavuRows. Owned by the stage; Pull and Forget from its reader, callbacks on stream threads.
//
// Invariant: one fetch per (space, sequence, first row); an order that comes while one runs ends
// it and starts then.
#ifndef REPRISE_BENCH_DEJAVU_PULLS_H_
#define REPRISE_BENCH_DEJAVU_PULLS_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bench/dejavu_rows.h"
#include "bench/dejavu_wire.h"
#include "common/mutex.h"
#include "kvstore/stream/kv_stream.h"

namespace reprise::bench {

class DejavuPulls {
 public:
  // Gets the order back when its fetch has ended, with whether all rows are here; on any thread.
  // Not called for an order that another has replaced or whose sequence was forgotten.
  using Done = std::function<void(StageMessage order, bool all_here)>;
  DejavuPulls(kv::KvStream* stream, DejavuRows* rows, Done done)
      : stream_(stream), rows_(rows), done_(std::move(done)) {}

  Status Pull(const StageMessage& order);
  void Forget(uint32_t sequence);

 private:
  struct Active {
    kv::FetchHandle handle = 0;
    std::optional<StageMessage> next;
  };
  using PullKey = std::pair<RowKey, uint32_t>;  // and the first row
  class Listener;
  static PullKey KeyOf(const StageMessage& order);

  Status StartLocked(const StageMessage& order, bool* complete) REQUIRES(mu_);
  void Ended(const StageMessage& order, bool all_here);

  kv::KvStream* const stream_;
  DejavuRows* const rows_;
  const Done done_;
  Mutex mu_;
  std::map<PullKey, Active> active_ GUARDED_BY(mu_);
};

// The address of a stage's stream.
kv::PeerAddress AddressOf(const StagePeer& peer);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_DEJAVU_PULLS_H_
