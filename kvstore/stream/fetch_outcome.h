// A fetch whose end somebody waits for, blocking: self-checks, tests, benchmarks. Shared with the
// stream, as every listener; Wait from any thread but the stream's own.
#ifndef REPRISE_KVSTORE_STREAM_FETCH_OUTCOME_H_
#define REPRISE_KVSTORE_STREAM_FETCH_OUTCOME_H_

#include <vector>

#include "common/mutex.h"
#include "common/status.h"
#include "kvstore/stream/kv_stream.h"

namespace reprise::kv {

class FetchOutcome final : public FetchListener {
 public:
  void OnLayer(size_t, uint32_t, uint32_t) override {}
  void OnDone(const std::vector<Status>& items) override {
    MutexLock lock(mu_);
    items_ = items;
    done_ = true;
    changed_.NotifyAll();
  }

  // Of the items, in their order.
  std::vector<Status> Wait() {
    MutexLock lock(mu_);
    while (!done_) changed_.Wait(mu_);
    return items_;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool done_ GUARDED_BY(mu_) = false;
  std::vector<Status> items_ GUARDED_BY(mu_);
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_FETCH_OUTCOME_H_
