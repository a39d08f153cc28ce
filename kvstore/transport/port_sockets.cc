#include "kvstore/transport/port_sockets.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <optional>
#include <vector>

namespace reprise::kv {
namespace {

std::vector<int> OpenDescriptors() {
  std::vector<int> descriptors;
  DIR* const folder = opendir("/proc/self/fd");
  if (folder == nullptr) return descriptors;
  while (const dirent* entry = readdir(folder)) {  // NOLINT(concurrency-mt-unsafe): own stream
    int descriptor = -1;
    const char* const name = entry->d_name;
    const auto [end, error] = std::from_chars(name, name + std::strlen(name), descriptor);
    if (error == std::errc() && *end == '\0') descriptors.push_back(descriptor);
  }
  closedir(folder);
  return descriptors;
}

std::optional<int> Option(int socket, int name) {
  int value = 0;
  socklen_t bytes = sizeof(value);
  if (getsockopt(socket, SOL_SOCKET, name, &value, &bytes) != 0) return std::nullopt;
  return value;
}

std::optional<int> LocalPort(int socket) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return std::nullopt;
  if (address.ss_family == AF_INET) {
    return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
  }
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port);
  }
  return std::nullopt;
}

// Shuts those of which `chosen` says so.
template <typename Chosen>
int Shut(int port, Chosen chosen) {
  int found = 0;
  for (const int descriptor : OpenDescriptors()) {
    if (!Option(descriptor, SO_TYPE).has_value()) continue;  // not a socket
    // A second name for it: the first may be closed, and given to another, at any time.
    const int socket = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    if (socket < 0) continue;
    if (Option(socket, SO_TYPE) == SOCK_STREAM && LocalPort(socket) == port && chosen(socket)) {
      shutdown(socket, SHUT_RDWR);
      ++found;
    }
    close(socket);
  }
  return found;
}

}  // namespace

int ShutListeners(int port) {
  return Shut(port, [](int socket) { return Option(socket, SO_ACCEPTCONN) == 1; });
}

int ShutPort(int port) {
  return Shut(port, [](int) { return true; });
}

}  // namespace reprise::kv
