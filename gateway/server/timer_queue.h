// Wake-ups for thousands of requests on one thread that sleeps until the earliest. Owned by the
// gateway; any thread may schedule; a client is called on the queue's thread with no lock held.
//
// Invariant: a client has at most one wake-up, and is kept alive by its owner, not by the queue.
#ifndef REPRISE_GATEWAY_SERVER_TIMER_QUEUE_H_
#define REPRISE_GATEWAY_SERVER_TIMER_QUEUE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "common/clock.h"
#include "common/mutex.h"
#include "common/thread.h"

namespace reprise::gateway {

class TimerQueue {
 public:
  class Client {
   public:
    virtual ~Client() = default;
    virtual void OnTimer(TimeNs now) = 0;
  };

  TimerQueue();
  ~TimerQueue();

  uint64_t NewKey();
  // Moves the wake-up of `key` from `from` (kNone when it has none) to `to` (kNone: cancels it).
  // The caller keeps the time it gave; a wake-up that has fired is gone already.
  void Move(uint64_t key, TimeNs from, TimeNs to, std::weak_ptr<Client> client);

  static constexpr TimeNs kNone = INT64_MAX;

 private:
  void Loop();

  Mutex mu_;
  CondVar changed_;
  std::map<std::pair<TimeNs, uint64_t>, std::weak_ptr<Client>> due_ GUARDED_BY(mu_);
  uint64_t next_key_ GUARDED_BY(mu_) = 1;
  bool stopping_ GUARDED_BY(mu_) = false;
  Thread thread_;  // last: it uses all of the above
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_TIMER_QUEUE_H_
