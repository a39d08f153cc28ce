// A TCP proxy on loopback that stands between two processes and misbehaves on order: it holds
// bytes back, delays or throttles them, cuts connections or closes half of them, each direction by
// itself. Owned by the test; any thread.
//
// Invariants:
// 1. Bytes are never changed, reordered or invented. A black hole keeps what it has swallowed, as
//    TCP does across a broken path, and gives it when it is healed.
// 2. At most kHeldBytesMax of a direction are held; then the sender feels it.
#ifndef REPRISE_TESTS_CLUSTER_FAULT_PROXY_H_
#define REPRISE_TESTS_CLUSTER_FAULT_PROXY_H_

#include <poll.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/bind_address.h"
#include "common/clock.h"
#include "common/event_fd.h"
#include "common/mutex.h"
#include "common/status.h"
#include "common/thread.h"
#include "tests/cluster/fault_relay.h"

namespace reprise::harness {

class FaultProxy {
 public:
  // Listens at once; connections wait in the kernel's queue until SetTarget.
  static StatusOr<std::unique_ptr<FaultProxy>> Start();
  ~FaultProxy();

  std::string address() const { return address_.ToString(); }
  Status SetTarget(const std::string& host_port);

  // For all connections, present and later.
  void Set(Direction direction, const Fault& fault);
  void SetBoth(const Fault& fault);
  // RST to both sides of every present connection.
  void Reset();
  // The receiver of `direction` sees the end of the stream after what is on its way.
  void HalfClose(Direction direction);

  int connections() const;                   // now
  int64_t bytes(Direction direction) const;  // delivered so far

 private:
  FaultProxy(int listener, HostPort address, EventFd wake);
  void Loop();
  void Accept() REQUIRES(mu_);
  void Serve(const std::vector<pollfd>& polled) REQUIRES(mu_);

  const int listener_;
  const HostPort address_;
  EventFd wake_;
  mutable Mutex mu_;
  HostPort target_ GUARDED_BY(mu_);  // port 0: none yet
  std::array<Fault, 2> faults_ GUARDED_BY(mu_);
  std::vector<std::unique_ptr<Relay>> relays_ GUARDED_BY(mu_);
  std::array<int64_t, 2> bytes_ GUARDED_BY(mu_) = {};
  bool stop_ GUARDED_BY(mu_) = false;
  Thread thread_;
};

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_FAULT_PROXY_H_
