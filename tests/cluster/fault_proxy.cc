#include "tests/cluster/fault_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace reprise::harness {
namespace {

sockaddr_in SocketAddress(const HostPort& at) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(at.port);
  inet_pton(AF_INET, at.host.c_str(), &address.sin_addr);
  return address;
}

// Loopback: the connection stands or is refused at once.
int ConnectTo(const HostPort& target) {
  const sockaddr_in address = SocketAddress(target);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  if (fd >= 0 && connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
  }
  if (fd >= 0) close(fd);
  return -1;
}

constexpr size_t Index(Direction direction) { return static_cast<size_t>(direction); }

}  // namespace

StatusOr<std::unique_ptr<FaultProxy>> FaultProxy::Start() {
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return absl::UnavailableError("no socket for a fault proxy");
  HostPort at{"127.0.0.1", 0};
  sockaddr_in address = SocketAddress(at);
  socklen_t length = sizeof address;
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(fd, 128) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    close(fd);
    return absl::UnavailableError("a fault proxy cannot listen on loopback");
  }
  at.port = ntohs(address.sin_port);
  return std::unique_ptr<FaultProxy>(new FaultProxy(fd, at, std::move(wake)));
}

FaultProxy::FaultProxy(int listener, HostPort address, EventFd wake)
    : listener_(listener), address_(std::move(address)), wake_(std::move(wake)) {
  thread_ = Thread("fault_proxy", [this] { Loop(); });
}

FaultProxy::~FaultProxy() {
  {
    MutexLock lock(mu_);
    stop_ = true;
  }
  wake_.Signal();
  thread_.Join();
  close(listener_);
}

Status FaultProxy::SetTarget(const std::string& host_port) {
  ASSIGN_OR_RETURN(HostPort target, ParseHostPort(host_port));
  {
    MutexLock lock(mu_);
    target_ = std::move(target);
  }
  wake_.Signal();
  return absl::OkStatus();
}

void FaultProxy::Set(Direction direction, const Fault& fault) {
  {
    MutexLock lock(mu_);
    faults_[Index(direction)] = fault;
  }
  wake_.Signal();
}

void FaultProxy::SetBoth(const Fault& fault) {
  Set(Direction::kToServer, fault);
  Set(Direction::kToClient, fault);
}

void FaultProxy::Reset() {
  MutexLock lock(mu_);
  for (const auto& relay : relays_) relay->SendReset();
  relays_.clear();
  wake_.Signal();
}

void FaultProxy::HalfClose(Direction direction) {
  MutexLock lock(mu_);
  for (const auto& relay : relays_) relay->EndReading(static_cast<int>(direction));
  wake_.Signal();
}

int FaultProxy::connections() const {
  MutexLock lock(mu_);
  return static_cast<int>(relays_.size());
}

int64_t FaultProxy::bytes(Direction direction) const {
  MutexLock lock(mu_);
  return bytes_[Index(direction)];
}

void FaultProxy::Accept() {
  const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  if (client < 0) return;
  const int server = ConnectTo(target_);
  if (server < 0) {
    close(client);
    return;
  }
  const int on = 1;
  setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  relays_.push_back(std::make_unique<Relay>(client, server));
}

// Reset may close sockets while poll waits; so the list is made anew each turn, and events count
// only for descriptors of relays that are still there.
void FaultProxy::Loop() {
  std::vector<pollfd> polled;
  while (true) {
    TimeNs next = INT64_MAX;
    {
      MutexLock lock(mu_);
      if (stop_) return;
      polled.assign({{wake_.fd(), POLLIN, 0},
                     {listener_, static_cast<short>(target_.port != 0 ? POLLIN : 0), 0}});
      const TimeNs now = RealClock().NowNs();
      for (const auto& relay : relays_) {
        for (int side = 0; side < 2; ++side) {
          const Fault& from = faults_[static_cast<size_t>(side)];
          const Fault& to = faults_[static_cast<size_t>(1 - side)];
          int events = relay->WantsRead(side, from) ? POLLIN : 0;
          if (relay->WantsWrite(side, to, now)) {
            events |= POLLOUT;
          } else {
            next = std::min(next, relay->NextNs(1 - side, to));
          }
          // Not even an error passes where nothing does.
          polled.push_back({events != 0 ? relay->fd(side) : -1, static_cast<short>(events), 0});
        }
      }
    }
    const TimeNs wait = next == INT64_MAX ? -1 : std::max<TimeNs>(0, next - RealClock().NowNs());
    poll(polled.data(), polled.size(), wait < 0 ? -1 : static_cast<int>(wait / kMillisecond) + 1);
    if (polled[0].revents != 0) (void)wake_.Drain();
    MutexLock lock(mu_);
    if (polled[1].revents != 0) Accept();
    Serve(polled);
  }
}

void FaultProxy::Serve(const std::vector<pollfd>& polled) {
  const auto events_of = [&](int fd) {
    const auto found = std::find_if(polled.begin() + 2, polled.end(),
                                    [fd](const pollfd& p) { return p.fd == fd; });
    return found == polled.end() ? 0 : found->revents;
  };
  const TimeNs now = RealClock().NowNs();
  std::vector<std::unique_ptr<Relay>> kept;
  for (std::unique_ptr<Relay>& relay : relays_) {
    bool alive = true;
    for (int side = 0; side < 2 && alive; ++side) {
      const auto from = static_cast<size_t>(side);
      const int events = events_of(relay->fd(side));
      if ((events & (POLLERR | POLLNVAL)) != 0) alive = false;
      if (alive && (events & (POLLIN | POLLHUP)) != 0 && relay->WantsRead(side, faults_[from])) {
        alive = relay->Read(side, now, faults_[from]);
      }
      if (alive) alive = relay->Write(side, now, faults_[1 - from], bytes_[1 - from]);
    }
    if (!alive) relay->SendReset();
    if (alive && !relay->finished()) kept.push_back(std::move(relay));
  }
  relays_ = std::move(kept);
}

}  // namespace reprise::harness
