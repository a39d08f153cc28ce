// An in-process network for tests: any number of transports, one virtual clock, one thread. Nothing
// happens until the test runs it, so every race is a fixed order of events; faults are switched on
// by name. Owned by the test; that one thread only.
#ifndef REPRISE_KVSTORE_TRANSPORT_FAKE_TRANSPORT_H_
#define REPRISE_KVSTORE_TRANSPORT_FAKE_TRANSPORT_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "kvstore/transport/transport.h"

namespace reprise::kv {

class FakeTransport;

// Outlives its transports.
class FakeNetwork {
 public:
  // Listens on a port of its own, unless `port` asks for one.
  std::unique_ptr<Transport> NewTransport(int port = 0);

  // Runs until nothing is left to do at this instant.
  void RunUntilIdle();
  // Nobody runs for that long: the clock jumps, what was due comes late.
  void Sleep(TimeNs by_ns) { now_ns_ += by_ns; }
  // Moves the clock in steps that no timer can fall between.
  void Advance(TimeNs by_ns);
  bool RunOne();
  TimeNs now_ns() const { return now_ns_; }

  // ---- Faults. ----
  // Both ends of every connection to this port hear that it is lost; posted payloads complete with
  // UNAVAILABLE.
  void Kill(int port);
  // Whoever listens there neither hears nor sends until thawed: nothing is lost, nothing reported.
  void Freeze(int port) { frozen_.insert(port); }
  void Thaw(int port) { frozen_.erase(port); }
  // Flips one bit of the nth payload from now (1: the next).
  void CorruptBulk(int nth) { corrupt_in_ = nth; }
  // Accepted payloads wait until released.
  void HoldBulk(bool hold) { hold_bulk_ = hold; }
  void ReleaseHeld();
  size_t held() const { return held_.size(); }
  // Rewrites messages on their way; returning nothing drops them.
  void TamperWith(std::function<std::string(std::string)> tamper) { tamper_ = std::move(tamper); }
  // Delivers payload announcements twice.
  void DuplicateBulk(bool duplicate) { duplicate_bulk_ = duplicate; }

 private:
  friend class FakeTransport;
  // A payload on its way. Completed once, by its delivery or by the sender's Close.
  struct Posted {
    explicit Posted(Completion on_done) : done(std::move(on_done)) {}
    Completion done;
    bool completed = false;
    void Complete(const Status& status) {
      if (!std::exchange(completed, true)) std::exchange(done, nullptr)(status);
    }
  };
  // One side's half of a connection is named by the other side's transport and endpoint.
  struct End {
    FakeTransport* owner = nullptr;
    EndpointId peer = 0;  // 0: refused
    int port = 0;         // of the listening side
    bool dialed = false;  // this side connected
    bool open = true;
    std::vector<std::weak_ptr<Posted>> posted;  // from here; those not completed are alive
  };
  struct Event {
    int from_port = 0;  // 0, or the frozen side waits with it
    int to_port = 0;
    std::function<void()> run;
  };

  void Later(int from_port, int to_port, std::function<void()> run) {
    events_.push_back({from_port, to_port, std::move(run)});
  }
  bool Blocked(const Event& event) const {
    return frozen_.contains(event.from_port) || frozen_.contains(event.to_port);
  }
  void Deliver(EndpointId to, const BulkHeader& header, std::span<const uint8_t> payload,
               const std::shared_ptr<Posted>& posted);
  void Fail(EndpointId end, const Status& status);
  // Completes what is held for an end that was just closed.
  void AbandonHeld(EndpointId end);

  TimeNs now_ns_ = kSecond;
  int next_port_ = 1;
  EndpointId next_end_ = 1;
  std::deque<Event> events_;
  std::map<int, FakeTransport*> listeners_;
  std::set<FakeTransport*> transports_;
  std::map<EndpointId, End> ends_;
  std::deque<std::pair<EndpointId, std::function<void()>>> held_;  // by receiving end
  std::set<int> frozen_;
  int corrupt_in_ = 0;
  bool hold_bulk_ = false;
  bool duplicate_bulk_ = false;
  std::function<std::string(std::string)> tamper_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_TRANSPORT_FAKE_TRANSPORT_H_
