// A real etcd of one member for tests and benchmarks, on free loopback ports and a folder of the
// test's own. Owned by the test, on the thread that lives as long as it (see common/subprocess.h).
#ifndef REPRISE_COORDINATOR_LEADER_ETCD_PROCESS_H_
#define REPRISE_COORDINATOR_LEADER_ETCD_PROCESS_H_

#include <memory>
#include <string>

#include "common/status.h"
#include "common/subprocess.h"

namespace reprise {

class EtcdProcess {
 public:
  // Debian's etcd-server, which deploy/install.sh brings.
  static constexpr const char* kBinary = "/usr/bin/etcd";
  static bool Installed();

  // Data and log in `folder`, which exists; answers reads when it returns.
  static StatusOr<std::unique_ptr<EtcdProcess>> Start(const std::string& folder);

  const std::string& address() const { return address_; }  // host:port of its gRPC door
  // As by SIGKILL; Restart brings it back with its data, on the same port.
  void Kill();
  Status Restart();

 private:
  EtcdProcess(std::string folder, int client_port, int peer_port);
  const std::string folder_;
  const std::string address_;
  const std::string peer_;
  std::unique_ptr<Subprocess> process_;
};

}  // namespace reprise

#endif  // REPRISE_COORDINATOR_LEADER_ETCD_PROCESS_H_
