#include "tests/cluster/fault_relay.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace reprise::harness {
namespace {

// A throttled direction writes about this often.
constexpr TimeNs kThrottleStepNs = 5 * kMillisecond;
constexpr size_t kReadBytes = size_t{64} << 10;

}  // namespace

void HeldBytes::Add(std::string bytes, TimeNs now, TimeNs delay_ns) {
  size_ += bytes.size();
  chunks_.push_back({std::move(bytes), now + delay_ns});
}

std::string HeldBytes::Due(TimeNs now, const Fault& fault) {
  if (fault.black_hole || chunks_.empty() || chunks_.front().due_ns > now) return "";
  if (fault.bytes_per_s == 0) return chunks_.front().bytes;
  if (now < throttled_until_ns_) return "";
  const auto allowance =
      static_cast<size_t>(std::max<int64_t>(1, fault.bytes_per_s * kThrottleStepNs / kSecond));
  const std::string bytes = chunks_.front().bytes.substr(0, allowance);
  throttled_until_ns_ = now + static_cast<TimeNs>(bytes.size()) * kSecond / fault.bytes_per_s;
  return bytes;
}

void HeldBytes::Written(size_t bytes) {
  size_ -= bytes;
  Chunk& front = chunks_.front();
  if (bytes == front.bytes.size()) {
    chunks_.pop_front();
  } else {
    front.bytes.erase(0, bytes);
  }
}

TimeNs HeldBytes::NextNs(const Fault& fault) const {
  if (fault.black_hole || chunks_.empty()) return INT64_MAX;
  const TimeNs due = chunks_.front().due_ns;
  return fault.bytes_per_s == 0 ? due : std::max(due, throttled_until_ns_);
}

Relay::~Relay() {
  for (const int fd : fds_) close(fd);
}

bool Relay::WantsRead(int side, const Fault& fault) const {
  const Way& way = ways_[static_cast<size_t>(side)];
  return !way.ended && !fault.black_hole && way.held.size() < kHeldBytesMax;
}

bool Relay::WantsWrite(int side, const Fault& fault_to_it, TimeNs now) {
  return ways_[static_cast<size_t>(1 - side)].held.NextNs(fault_to_it) <= now;
}

bool Relay::Read(int side, TimeNs now, const Fault& fault) {
  Way& way = ways_[static_cast<size_t>(side)];
  std::string bytes(kReadBytes, '\0');
  const ssize_t n = recv(fd(side), bytes.data(), bytes.size(), MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
  if (n == 0) {
    way.ended = true;
  } else {
    bytes.resize(static_cast<size_t>(n));
    way.held.Add(std::move(bytes), now, fault.delay_ns);
  }
  CloseWhenEmpty(side);
  return true;
}

bool Relay::Write(int side, TimeNs now, const Fault& fault_to_it, int64_t& written) {
  Way& way = ways_[static_cast<size_t>(1 - side)];
  const std::string bytes = way.held.Due(now, fault_to_it);
  if (!bytes.empty()) {
    const ssize_t n = send(fd(side), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    way.held.Written(static_cast<size_t>(n));
    written += n;
  }
  CloseWhenEmpty(1 - side);
  return true;
}

TimeNs Relay::NextNs(int from, const Fault& fault) const {
  return ways_[static_cast<size_t>(from)].held.NextNs(fault);
}

void Relay::CloseWhenEmpty(int from) {
  Way& way = ways_[static_cast<size_t>(from)];
  if (!way.ended || way.closed || way.held.size() > 0) return;
  way.closed = true;
  shutdown(fd(1 - from), SHUT_WR);
}

void Relay::SendReset() {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  for (const int fd : fds_) setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
}

}  // namespace reprise::harness
