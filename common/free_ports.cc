#include "common/free_ports.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace reprise {

StatusOr<std::vector<uint16_t>> FreePorts(int count) {
  std::vector<int> sockets;  // all open until the last port is known, so that none comes twice
  std::vector<uint16_t> ports;
  for (int i = 0; i < count; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (fd >= 0) sockets.push_back(fd);
    if (fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0) {
      ports.push_back(ntohs(address.sin_port));
    }
  }
  for (const int fd : sockets) close(fd);
  if (static_cast<int>(ports.size()) == count) return ports;
  return absl::UnavailableError(
      absl::StrCat("only ", ports.size(), " of ", count, " loopback ports could be had"));
}

}  // namespace reprise
