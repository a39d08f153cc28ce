// Host and port as flags give them, and the rule that nothing listens beyond loopback without TLS.
// Stateless; any thread.
#ifndef REPRISE_COMMON_BIND_ADDRESS_H_
#define REPRISE_COMMON_BIND_ADDRESS_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise {

struct HostPort {
  std::string host;  // without brackets
  uint16_t port = 0;
  // With brackets around an IPv6 address.
  std::string ToString() const;
  bool operator==(const HostPort&) const = default;
};

// "127.0.0.1:0", "localhost:8080", "[::1]:80".
StatusOr<HostPort> ParseHostPort(absl::string_view text);

// PERMISSION_DENIED unless host is in 127.0.0.0/8, ::1 or localhost.
Status CheckLoopback(absl::string_view host);

}  // namespace reprise

#endif  // REPRISE_COMMON_BIND_ADDRESS_H_
