#include "coordinator/leader/etcd_process.h"

#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/free_ports.h"
#include "coordinator/leader/etcd_client.h"

namespace reprise {
namespace {

constexpr TimeNs kStartNs = 30 * kSecond;

}  // namespace

bool EtcdProcess::Installed() { return access(kBinary, X_OK) == 0; }

EtcdProcess::EtcdProcess(std::string folder, int client_port, int peer_port)
    : folder_(std::move(folder)),
      address_(absl::StrCat("127.0.0.1:", client_port)),
      peer_(absl::StrCat("http://127.0.0.1:", peer_port)) {}

StatusOr<std::unique_ptr<EtcdProcess>> EtcdProcess::Start(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<uint16_t> ports, FreePorts(2));
  std::unique_ptr<EtcdProcess> process(new EtcdProcess(folder, ports[0], ports[1]));
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
