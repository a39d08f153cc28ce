// The engine's words to replica stores, in order: offers, appends, releases and questions. Packs
// the rows of an append in one pass on its own thread, so that the step thread pays for nothing but
// the order. Owned by the engine; Send from the step thread, everything is posted from other
// threads.
//
// Invariants:
// 1. What is sent about one store reaches the stream in the order of the calls.
// 2. Every append is answered by one RowsPacked, after which its pages are not read any more; every
//    question by one TailsFound. Neither once Stop has been called.
#ifndef REPRISE_WORKER_ENGINE_REPLICATOR_H_
#define REPRISE_WORKER_ENGINE_REPLICATOR_H_

#include <functional>
#include <memory>
#include <utility>
#include <variant>

#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/rows_pool.h"
#include "worker/engine/core/types.h"
#include "worker/engine/order_thread.h"

namespace reprise::worker {

StatusOr<kv::PeerAddress> ToPeer(const NodeRef& node);

class Replicator {
 public:
  using Order = std::variant<OfferBlocks, AppendRows, ReleaseReplicas, QueryTails>;
  struct Pool {
    const uint8_t* base = nullptr;
    kv::KvFormat format;
  };
  // `stream` outlives Stop; `post` takes events from any thread.
  Replicator(Pool pool, kv::KvStream* stream, std::function<void(Event)> post);

  void Send(Order order) { thread_.Send(std::move(order)); }
  void Stop() { thread_.Stop(); }

 private:
  void Do(OfferBlocks& offer);
  void Do(AppendRows& append);
  void Do(ReleaseReplicas& release);
  void Do(QueryTails& query);
  StatusOr<kv::TailAppend> Pack(AppendRows& append) const;

  const Pool pool_;
  const std::shared_ptr<kv::RowsPool> rows_;
  kv::KvStream* const stream_;
  const std::function<void(Event)> post_;
  OrderThread<Order> thread_;  // last: it uses all of the above
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_REPLICATOR_H_
