// What replication of live sequences costs and how far replicas lie behind, nobody failing.
#include "bench/bench_main.h"
#include "bench/replication_parts.h"

namespace reprise::bench {
namespace {

Status Run(const BenchFlags& flags, Report& report) {
  RETURN_IF_ERROR(MeasureReplicationLevels(flags, report));
  RETURN_IF_ERROR(MeasureReplicationLag(flags, report));
  return MeasureReplicationCost(flags, report);
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("replication", argc, argv, reprise::bench::Run);
}
