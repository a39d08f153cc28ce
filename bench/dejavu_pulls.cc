#include "bench/dejavu_pulls.h"

#include <algorithm>

namespace reprise::bench {
namespace {

constexpr TimeNs kPullTimeoutNs = 15 * kMinute;

}  // namespace

class DejavuPulls::Listener : public kv::FetchListener {
 public:
  Listener(DejavuPulls* owner, const StageMessage& order, std::vector<uint32_t> rows,
           std::shared_ptr<DejavuRows::Buffer> buffer)
      : owner_(owner), order_(order), rows_(std::move(rows)), buffer_(std::move(buffer)) {}

  void OnLayer(size_t item, uint32_t, uint32_t) override {
    owner_->rows_->NotePulled(*buffer_, rows_[item]);
  }
  void OnDone(const std::vector<Status>& items) override {
    owner_->Ended(order_,
                  std::all_of(items.begin(), items.end(), [](const Status& s) { return s.ok(); }));
  }

 private:
  DejavuPulls* const owner_;
  const StageMessage order_;
  const std::vector<uint32_t> rows_;                  // of each item
  const std::shared_ptr<DejavuRows::Buffer> buffer_;  // shared: outlives a dropped sequence
};

DejavuPulls::PullKey DejavuPulls::KeyOf(const StageMessage& order) {
  return {{order.space, order.sequence}, order.first};
}

kv::PeerAddress AddressOf(const StagePeer& peer) {
  return {{absl::StrCat("stage-", peer.slot), peer.incarnation}, "127.0.0.1", peer.port};
}

Status DejavuPulls::StartLocked(const StageMessage& order, bool* complete) {
  const RowKey key = KeyOf(order).first;
  std::vector<uint32_t> absent = rows_->Absent(key, order.first, order.count);
  *complete = absent.empty();
  if (absent.empty()) return absl::OkStatus();
  const std::shared_ptr<DejavuRows::Buffer> buffer = rows_->Open(key);
  kv::FetchSpec spec;
  spec.source = AddressOf(order.peer);
  spec.fence.request.id = absl::StrCat("sequence-", order.sequence);
  spec.subscribe = true;
  spec.timeout_ns = kPullTimeoutNs;
  for (const uint32_t row : absent) {
    spec.items.push_back({RowId(key, row), row, buffer->row(row).data()});
  }
  ASSIGN_OR_RETURN(active_[KeyOf(order)].handle,
                   stream_->Fetch(std::move(spec), std::make_shared<Listener>(
                                                       this, order, std::move(absent), buffer)));
  return absl::OkStatus();
}

Status DejavuPulls::Pull(const StageMessage& order) {
  bool complete = false;
  std::optional<kv::FetchHandle> stale;
  {
    MutexLock lock(mu_);
    const auto found = active_.find(KeyOf(order));
    if (found == active_.end()) {
      RETURN_IF_ERROR(StartLocked(order, &complete));
    } else {
      found->second.next = order;
      stale = found->second.handle;
    }
  }
  if (stale.has_value()) stream_->CancelFetch(*stale);
  if (complete) done_(order, true);
  return absl::OkStatus();
}

void DejavuPulls::Ended(const StageMessage& order, bool all_here) {
  bool complete = all_here;
  StageMessage answer = order;
  {
    MutexLock lock(mu_);
    const auto ended = active_.extract(KeyOf(order));
    if (ended.empty()) return;  // forgotten
    if (ended.mapped().next.has_value()) {
      answer = *ended.mapped().next;
      if (StartLocked(answer, &complete).ok() && !complete) return;
    }
  }
  done_(answer, complete);
}

void DejavuPulls::Forget(uint32_t sequence) {
  std::vector<kv::FetchHandle> handles;
  {
    MutexLock lock(mu_);
    for (auto it = active_.begin(); it != active_.end();) {
      if (it->first.first.sequence == sequence) {
        handles.push_back(it->second.handle);
        it = active_.erase(it);
      } else {
        ++it;
      }
    }
  }
  for (const kv::FetchHandle handle : handles) stream_->CancelFetch(handle);
}

}  // namespace reprise::bench
