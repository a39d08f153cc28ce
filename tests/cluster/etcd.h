// A one-member etcd of the system's package as a child process, for groups of coordinators. Owned
// by the cluster under test; the thread that starts it must live as long as it.
//
// Invariant: it listens on loopback only, keeps its ports and data over Restart, and is killed by
// the destructor.
#ifndef REPRISE_TESTS_CLUSTER_ETCD_H_
#define REPRISE_TESTS_CLUSTER_ETCD_H_

#include <signal.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "common/subprocess.h"

namespace reprise::harness {

class Etcd {
 public:
  // Returns when it answers and leads itself. Data and log go below `dir`. NOT_FOUND when etcd is
  // not installed.
  static StatusOr<std::unique_ptr<Etcd>> Start(const std::string& dir);

  const std::string& address() const { return client_; }  // host:port of its gRPC API
  Status Kill();
  Status Freeze() { return process_->Kill(SIGSTOP); }
  Status Thaw() { return process_->Kill(SIGCONT); }
  Status Restart();

 private:
  Etcd(std::string dir, std::string client, std::string peer)
      : dir_(std::move(dir)), client_(std::move(client)), peer_(std::move(peer)) {}
  Status Spawn();

  const std::string dir_;
  const std::string client_;
  const std::string peer_;
  std::unique_ptr<Subprocess> process_;
};

// Loopback ports that were free a moment ago, for processes that must know each other's before
// they start.
StatusOr<std::vector<uint16_t>> FreePorts(int count);

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_ETCD_H_
