// The stores of a fake cluster, and how workers' words reach them.
#include <algorithm>
#include <utility>

#include "worker/engine/core/fake_cluster.h"

namespace reprise::worker {

void FakeCluster::AddStore(const std::string& name) {
  kv::ChainContext chain;
  chain.format_digest = TimedFormat(model_).Digest();
  chain.block_tokens = static_cast<int>(model_.block_tokens);
  Store& store = stores_[name];
  ++store.incarnation;
  store.core = std::make_unique<FakeStore>(chain, model_.layers, model_.row_bytes);
}

void FakeCluster::KillStore(const std::string& name) {
  const NodeKey key = StoreNode(name).key;
  stores_.at(name).core = nullptr;
  for (const auto& [worker, state] : workers_) {
    After(Delay(), [this, worker = worker, key] {
      Deliver(worker, ReplicaLost{key, absl::UnavailableError("gone")});
    });
  }
}

void FakeCluster::TellStores() {
  LiveStores live;
  for (const auto& [name, store] : stores_) {
    if (store.core) live.stores.push_back({StoreNode(name), name});
  }
  for (const auto& [worker, state] : workers_) {
    After(Delay(), [this, worker = worker, live] { Deliver(worker, live); });
  }
}

NodeRef FakeCluster::StoreNode(const std::string& name) const {
  return NodeRef{{name, stores_.at(name).incarnation}, name, name};
}

FakeStore* FakeCluster::Alive(const NodeKey& key) {
  const auto found = stores_.find(key.name);
  if (found == stores_.end() || found->second.incarnation != key.incarnation) return nullptr;
  return found->second.core.get();
}

TimeNs FakeCluster::Lane(const std::string& worker, const std::string& store) {
  TimeNs& last = lanes_[{worker, store}];
  last = std::max(last, now_ + Delay());
  return last;
}

// The pages are read late, all at once, and the rows reach the store later still.
void FakeCluster::Append(const std::string& name, const AppendRows& order) {
  const TimeNs packed = Lane(name, order.store.key.name);
  const TimeNs arrives = Lane(name, order.store.key.name);
  After(packed - now_, [this, name, order, arrives] {
    const size_t bytes = workers_.at(name).executor->info().kv_format.block_bytes();
    std::vector<std::vector<uint8_t>> pages;
    for (const AppendRows::Entry& entry : order.entries) {
      const uint8_t* const page = Page(name, entry.page);
      pages.emplace_back(page, page + bytes);
    }
    Deliver(name, RowsPacked{order.append});
    if (random_.Chance(faults.lose_append)) return;
    After(arrives - now_, [this, name, order, pages] {
      FakeStore* const store = Alive(order.store.key);
      if (store == nullptr) return;
      for (size_t i = 0; i < order.entries.size(); ++i) {
        const AppendRows::Entry& entry = order.entries[i];
        HeldRows held{entry.key, entry.branch, 0, absl::OkStatus()};
        if (!store->Admit(entry.key)) {
          held.status = absl::AbortedError("a higher attempt is known");
        } else if (random_.Chance(faults.full_store)) {
          held.status = absl::ResourceExhaustedError("full");
        } else {
          held.status = store->Append(entry, pages[i]);
        }
        held.rows = store->Held(entry.key.id, entry.branch).value_or(0);
        Hold(name, order.store.key, held);
      }
    });
  });
}

void FakeCluster::Hold(const std::string& worker, const NodeKey& store, const HeldRows& held) {
  if (random_.Chance(faults.lose_held)) return;
  const int times = faults.lose_held > 0 && random_.Chance(0.2) ? 2 : 1;
  for (int i = 0; i < times; ++i) {
    After(Delay(), [this, worker, store, held] { Deliver(worker, RowsHeld{store, {held}}); });
  }
}

void FakeCluster::Offer(const std::string& name, const OfferBlocks& order) {
  const TimeNs arrives = Lane(name, order.store.key.name);
  if (random_.Chance(faults.lose_append)) return;
  After(arrives - now_, [this, name, order] {
    FakeStore* const store = Alive(order.store.key);
    if (store == nullptr) return;
    HeldRows held{order.key, order.branch, 0, absl::OkStatus()};
    if (!store->Admit(order.key)) {
      held.status = absl::AbortedError("a higher attempt is known");
      return Hold(name, order.store.key, held);
    }
    if (order.leg) {
      for (const kv::BlockId& id : store->OfferForCache(order)) Pull(name, order, id, 100);
      return;
    }
    for (const kv::BlockId& id : store->Offer(order)) Pull(name, order, id, 100);
    held.rows = *store->Held(order.key.id, order.branch);
    Hold(name, order.store.key, held);
  });
}

// As a subscription would, until the block is complete or gone.
void FakeCluster::Pull(const std::string& name, const OfferBlocks& order, kv::BlockId id,
                       int tries) {
  After(5 + Delay(), [this, name, order, id, tries] {
    FakeStore* const store = Alive(order.store.key);
    const auto& directory = workers_.at(name).directory;
    const auto listed = directory.find(id);
    if (store == nullptr || listed == directory.end() || tries == 0) return;
    if (!listed->second.ready) return Pull(name, order, id, tries - 1);
    const PageId page = listed->second.page;
    ++workers_.at(name).pins[page];
    After(Delay(), [this, name, order, id, page] {
      const size_t bytes = workers_.at(name).executor->info().kv_format.block_bytes();
      const uint8_t* const from = Page(name, page);
      if (FakeStore* const store = Alive(order.store.key)) {
        store->Put(id, {from, from + bytes});
        const auto rows = store->Held(order.key.id, order.branch);
        if (rows && !order.leg && store->Admit(order.key)) {
          Hold(name, order.store.key, {order.key, order.branch, *rows, absl::OkStatus()});
        }
      }
      Unpin(name, page);
    });
  });
}

void FakeCluster::Query(const std::string& name, const QueryTails& order) {
  After(Lane(name, order.store.key.name) - now_, [this, name, order] {
    FakeStore* const store = Alive(order.store.key);
    TailsFound found{order.query, absl::UnavailableError("gone"), {}};
    if (store != nullptr && store->Admit(order.key)) {
      found.status = absl::OkStatus();
      found.states = store->States(order.key.id);
    }
    After(Delay(), [this, name, found] { Deliver(name, found); });
  });
}

int64_t FakeCluster::HeldSequences() const {
  int64_t held = 0;
  for (const auto& [name, store] : stores_) held += store.core ? store.core->sequences() : 0;
  return held;
}

std::string FakeCluster::DescribeSequences() const {
  std::string text;
  for (const auto& [name, store] : stores_) {
    if (store.core) absl::StrAppend(&text, name, ": ", store.core->Describe(), "\n");
  }
  return text;
}

}  // namespace reprise::worker
