// Totals of counters over processes that come and go: what a process had counted when it was last
// asked is kept when it dies. Owned by the test; one thread.
#ifndef REPRISE_TESTS_CLUSTER_COUNTERS_H_
#define REPRISE_TESTS_CLUSTER_COUNTERS_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/cluster/cluster.h"

namespace reprise::harness {

class Counters {
 public:
  Counters(const Cluster& cluster, std::vector<std::string> families)
      : cluster_(cluster), families_(std::move(families)) {}

  // Asks a process, best just before it is killed; one that does not answer keeps its last word.
  void Ask(const std::string& name);
  void AskAll();
  double Total(const std::string& family) const;

 private:
  const Cluster& cluster_;
  const std::vector<std::string> families_;
  std::map<std::string, std::map<std::pair<std::string, pid_t>, double>> last_;  // by family
};

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_COUNTERS_H_
