// Nodes with addresses of their own on this machine: a network namespace each, on two switches, one
// for gRPC and metrics and one for the KV stream. Cables can be pulled, so that frames are lost
// without a word while both ends see their link up. Needs root, iproute2 and util-linux. Owned by
// the test; one thread, which must have started no other before Create.
//
// Everything is inside a namespace of the calling thread and goes with its process: nothing of the
// machine's own network is touched.
#ifndef REPRISE_TESTS_CLUSTER_NETWORK_LAB_H_
#define REPRISE_TESTS_CLUSTER_NETWORK_LAB_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/subprocess.h"

namespace reprise::harness {

class NetworkLab {
 public:
  enum class Net { kOrders, kKv };
  struct Node {
    std::vector<std::string> launcher;  // before a program's own argv: it runs there
    std::string orders_host;
    std::string kv_host;
  };

  // Moves the calling thread and those it starts later into the lab's namespace, for good.
  // UNAVAILABLE says what is not allowed or missing here; the thread then is where it was, or in a
  // namespace without any device.
  static StatusOr<std::unique_ptr<NetworkLab>> Create();

  // The same node for the same name.
  StatusOr<Node> AddNode(const std::string& name);
  // The caller's own address on the orders net.
  std::string host() const;
  // The KV device in every node.
  static const char* kv_device() { return "kv0"; }

  // Pulls the node's cable, or puts it back.
  Status Cut(const std::string& name, Net net);
  Status Heal(const std::string& name, Net net);

 private:
  struct Place {
    int number = 0;
    std::unique_ptr<Subprocess> holder;  // the namespace lives as long as it
  };
  NetworkLab() = default;
  Status Connect(const Place& place, Net net) const;

  std::map<std::string, Place> places_;
};

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_NETWORK_LAB_H_
