#include "tests/cluster/etcd.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/role.h"
#include "common/scrape.h"

namespace reprise::harness {
namespace {

constexpr TimeNs kReadyTimeoutNs = 30 * kSecond;
constexpr TimeNs kPollNs = 50 * kMillisecond;

std::string Loopback(uint16_t port) { return absl::StrCat("127.0.0.1:", port); }

}  // namespace

StatusOr<std::vector<uint16_t>> FreePorts(int count) {
  std::vector<int> sockets;
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

StatusOr<std::unique_ptr<Etcd>> Etcd::Start(const std::string& dir) {
  ASSIGN_OR_RETURN(const std::vector<uint16_t> ports, FreePorts(2));
  std::unique_ptr<Etcd> etcd(new Etcd(dir, Loopback(ports[0]), Loopback(ports[1])));
  RETURN_IF_ERROR(etcd->Spawn());
  return etcd;
}

Status Etcd::Spawn() {
  const std::string client = "http://" + client_;
  const std::string peer = "http://" + peer_;
  SubprocessOptions run;
  run.argv = {"etcd",
              "--name=etcd",
              "--data-dir=" + dir_ + "/etcd",
              "--listen-client-urls=" + client,
              "--advertise-client-urls=" + client,
              "--listen-peer-urls=" + peer,
              "--initial-advertise-peer-urls=" + peer,
              "--initial-cluster=etcd=" + peer};
  run.out = SubprocessOutput::File(dir_ + "/etcd.log");
  run.err = run.out;
  ASSIGN_OR_RETURN(process_, Subprocess::Spawn(run));
  StopSignal never;
  const TimeNs until = RealClock().NowNs() + kReadyTimeoutNs;
  while (true) {
    const auto page = ScrapeMetrics(client_);  // etcd has the same door at its clients' port
    if (page.ok() && SumOfFamily(*page, "etcd_server_has_leader").value_or(0) == 1) {
      return absl::OkStatus();
    }
    if (!process_->running() || RealClock().NowNs() > until) {
      return absl::UnavailableError(
          absl::StrCat("etcd did not become ready at ", client_, "; see ", dir_, "/etcd.log"));
    }
    never.WaitFor(kPollNs);
  }
}

Status Etcd::Kill() {
  RETURN_IF_ERROR(process_->Kill(SIGKILL));
  process_->Wait();
  return absl::OkStatus();
}

Status Etcd::Restart() {
  process_ = nullptr;
  return Spawn();
}

}  // namespace reprise::harness
