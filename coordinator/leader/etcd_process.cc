#include "coordinator/leader/etcd_process.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "coordinator/leader/etcd_client.h"

namespace reprise {
namespace {

constexpr TimeNs kStartNs = 30 * kSecond;

// Two ports free a moment ago: etcd cannot choose them itself.
std::pair<int, int> FreePorts() {
  int ports[2] = {0, 0};
  int sockets[2];
  for (int i = 0; i < 2; ++i) {
    sockets[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    if (bind(sockets[i], reinterpret_cast<sockaddr*>(&at), size) == 0 &&
        getsockname(sockets[i], reinterpret_cast<sockaddr*>(&at), &size) == 0) {
      ports[i] = ntohs(at.sin_port);
    }
  }
  for (const int fd : sockets) close(fd);
  return {ports[0], ports[1]};
}

}  // namespace

bool EtcdProcess::Installed() { return access(kBinary, X_OK) == 0; }

EtcdProcess::EtcdProcess(std::string folder, int client_port, int peer_port)
    : folder_(std::move(folder)),
      address_(absl::StrCat("127.0.0.1:", client_port)),
      peer_(absl::StrCat("http://127.0.0.1:", peer_port)) {}

StatusOr<std::unique_ptr<EtcdProcess>> EtcdProcess::Start(const std::string& folder) {
  const auto [client, peer] = FreePorts();
  std::unique_ptr<EtcdProcess> process(new EtcdProcess(folder, client, peer));
  RETURN_IF_ERROR(process->Restart());
  return process;
}

void EtcdProcess::Kill() { process_ = nullptr; }

Status EtcdProcess::Restart() {
  const std::string door = "http://" + address_;
  const std::string log = folder_ + "/etcd.log";
  SubprocessOptions options;
  options.argv = {kBinary,
                  "--data-dir=" + folder_ + "/etcd",
                  "--listen-client-urls=" + door,
                  "--advertise-client-urls=" + door,
                  "--listen-peer-urls=" + peer_,
                  "--initial-advertise-peer-urls=" + peer_,
                  "--initial-cluster=default=" + peer_,
                  "--heartbeat-interval=20",
                  "--election-timeout=200"};
  options.out = options.err = SubprocessOutput::File(log);
  ASSIGN_OR_RETURN(process_, Subprocess::Spawn(options));
  coordinator::EtcdClient client({.endpoints = {address_}, .key = "ready"});
  const TimeNs until = RealClock().NowNs() + kStartNs;
  while (true) {
    const Status status = client.Read().status();
    if (status.ok()) return status;
    if (process_->Wait(10 * kMillisecond).has_value() || RealClock().NowNs() > until) {
      return absl::UnavailableError(
          absl::StrCat("etcd did not start: ", status.message(), "; see ", log));
    }
  }
}

}  // namespace reprise
