#include "common/bind_address.h"

#include <arpa/inet.h>

#include <atomic>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"

namespace reprise {
namespace {

std::atomic<bool> plaintext_allowed = false;

Status BadAddress(absl::string_view text, absl::string_view reason) {
  return absl::InvalidArgumentError(
      absl::StrCat("address \"", text, "\" is not HOST:PORT: ", reason));
}

std::optional<uint16_t> ParsePort(absl::string_view text) {
  uint32_t port = 0;
  if (text.empty() || text.size() > 5) return std::nullopt;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    port = 10 * port + static_cast<uint32_t>(c - '0');
  }
  if (port > 65535) return std::nullopt;
  return static_cast<uint16_t>(port);
}

}  // namespace

std::string HostPort::ToString() const {
  if (absl::StrContains(host, ':')) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

StatusOr<HostPort> ParseHostPort(absl::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return BadAddress(text, "no colon");
  absl::string_view host = text.substr(0, colon);
  if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) {
    host = host.substr(1, host.size() - 2);
  } else if (absl::StrContains(host, ':')) {
    return BadAddress(text, "an IPv6 address needs brackets");
  }
  if (host.empty()) return BadAddress(text, "the host is empty");
  const std::optional<uint16_t> port = ParsePort(text.substr(colon + 1));
  if (!port) return BadAddress(text, "the port must be a number from 0 to 65535");
  return HostPort{std::string(host), *port};
}

Status CheckLoopback(absl::string_view host) {
  const std::string name(host);
  in_addr v4;
  in6_addr v6;
  const bool is_v4 = inet_pton(AF_INET, name.c_str(), &v4) == 1;
  const bool is_v6 = inet_pton(AF_INET6, name.c_str(), &v6) == 1;
  const bool allowed = name == "localhost" || (is_v4 && (ntohl(v4.s_addr) >> 24) == 127) ||
                       (is_v6 && IN6_IS_ADDR_LOOPBACK(&v6)) ||
                       ((is_v4 || is_v6) && plaintext_allowed.load());
  // The C functions above stop at a NUL.
  if (allowed && !absl::StrContains(host, '\0')) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("refusing to listen on ", host,
                   ": TLS is not available, so only loopback addresses are allowed"));
}

void AllowPlaintextBeyondLoopback();  // declared to others in bind_policy.h
void AllowPlaintextBeyondLoopback() { plaintext_allowed = true; }

}  // namespace reprise
