#include "common/scrape.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/bind_address.h"

namespace reprise {
namespace {

constexpr int kScrapeTimeoutSeconds = 10;

class Socket {
 public:
  Socket() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace

StatusOr<std::string> ScrapeMetrics(const std::string& address) {
  ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
  const Socket socket;
  const timeval timeout{.tv_sec = kScrapeTimeoutSeconds, .tv_usec = 0};
  setsockopt(socket.fd(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(at.port);
  if (inet_pton(AF_INET, at.host.c_str(), &peer.sin_addr) != 1 ||
      connect(socket.fd(), reinterpret_cast<sockaddr*>(&peer), sizeof peer) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot connect to ", address));
  }
  const std::string request =
      absl::StrCat("GET /metrics HTTP/1.1\r\nHost: ", address, "\r\nConnection: close\r\n\r\n");
  if (send(socket.fd(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return absl::UnavailableError(absl::StrCat("cannot write to ", address));
  }
  std::string answer;
  char buffer[16 << 10];
  for (ssize_t n; (n = recv(socket.fd(), buffer, sizeof buffer, 0)) > 0;) {
    answer.append(buffer, static_cast<size_t>(n));
  }
  const size_t body = answer.find("\r\n\r\n");
  if (!absl::StartsWith(answer, "HTTP/1.1 200") || body == std::string::npos) {
    return absl::UnavailableError(
        absl::StrCat(address, " answered \"", answer.substr(0, 40), "\""));
  }
  return answer.substr(body + 4);
}

StatusOr<double> SumOfFamily(absl::string_view exposition, absl::string_view family) {
  double sum = 0;
  bool found = false;
  for (const absl::string_view line : absl::StrSplit(exposition, '\n')) {
    if (!absl::StartsWith(line, family)) continue;
    const absl::string_view rest = line.substr(family.size());
    if (rest.empty() || (rest[0] != ' ' && rest[0] != '{')) continue;
    double value = 0;
    if (!absl::SimpleAtod(absl::StripAsciiWhitespace(line.substr(line.rfind(' ') + 1)), &value)) {
      return absl::InvalidArgumentError(absl::StrCat("not a sample: ", line));
    }
    sum += value;
    found = true;
  }
  if (!found) return absl::NotFoundError(absl::StrCat("there is no metric ", family));
  return sum;
}

}  // namespace reprise
