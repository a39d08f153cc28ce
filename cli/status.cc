// reprise status: what the coordinator knows of every process.
#include "cli/status.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstdio>

#include "cli/coordinators.h"
#include "common/scrape.h"
#include "reprise/v1/cluster.grpc.pb.h"
#include "worker/parallel/group_shape.h"

namespace reprise::cli {
namespace {

const char* RoleName(v1::Role role) {
  switch (role) {
    case v1::ROLE_GATEWAY:
      return "gateway";
    case v1::ROLE_WORKER:
      return "worker";
    case v1::ROLE_STORE:
      return "kvstore";
    default:
      return "?";
  }
}

// "pp1,cp4,tp1"; of one process "-".
std::string GroupText(const v1::NodeInfo& node) {
  if (!node.has_group()) return "-";
  const v1::GroupShape& group = node.group();
  return parallel::GroupShapeText(
      {.pipeline = group.pipeline(), .tensor = group.tensor(), .context = group.context()});
}

// Summed over every process that can be reached; negative when none can.
double KvBytesMoved(const v1::ClusterStatus& cluster) {
  double bytes = -1;
  for (const v1::NodeStatus& node : cluster.nodes()) {
    const auto page = ScrapeMetrics(node.node().metrics_address());
    if (!page.ok()) continue;
    const auto received = SumOfFamily(*page, "reprise_kv_bytes_received_total");
    if (received.ok()) bytes = std::max(bytes, 0.0) + *received;
  }
  return bytes;
}

void Print(const v1::ClusterStatus& cluster) {
  if (!cluster.leader().empty()) {
    std::printf("leader %s, epoch %lu%s\n", cluster.leader().c_str(),
                static_cast<unsigned long>(cluster.leader_epoch()),
                cluster.leads() ? "" : " (told by a standby)");
  } else {
    std::printf("no leader is known, epoch %lu\n",
                static_cast<unsigned long>(cluster.leader_epoch()));
  }
  std::printf("coordinator incarnation %016lx: %ld blocks indexed, %ld placements, %ld refusals\n",
              static_cast<unsigned long>(cluster.coordinator_incarnation()),
              static_cast<long>(cluster.indexed_blocks()), static_cast<long>(cluster.placements()),
              static_cast<long>(cluster.refusals()));
  std::printf("%-14s %-8s %-13s %-8s %8s %8s %8s %8s %8s %8s %9s %9s  %s\n", "node", "role",
              "group", "state", "running", "waiting", "blocks", "free", "cached", "quarant.",
              "stranded", "heard ms", "why");
  for (const v1::NodeStatus& node : cluster.nodes()) {
    const v1::Load& load = node.load();
    std::printf("%-14s %-8s %-13s %-8s %8d %8d %8ld %8ld %8ld %8ld %9ld %9ld  %s\n",
                node.node().ref().name().c_str(), RoleName(node.node().role()),
                GroupText(node.node()).c_str(), node.state().c_str(), load.running(),
                load.waiting(), static_cast<long>(load.blocks_total()),
                static_cast<long>(load.blocks_free()), static_cast<long>(load.blocks_cached()),
                static_cast<long>(load.blocks_quarantined()),
                static_cast<long>(load.stranded_bytes()),
                static_cast<long>(node.last_report_ms_ago()), node.reason().c_str());
  }
  if (const double bytes = KvBytesMoved(cluster); bytes >= 0) {
    std::printf("KV moved between processes: %.0f bytes\n", bytes);
  }
}

}  // namespace

int RunStatus(const Args& args) {
  std::string coordinator;
  std::string state_dir = DefaultStateDir();
  bool json = false;
  FlagSet flags("reprise status", "Shows every process of a cluster as its coordinator sees it.");
  flags.Add("coordinator", &coordinator,
            "the coordinators' addresses (host:port,..); else found in --state-dir");
  flags.Add("state-dir", &state_dir, "where `reprise up` keeps its addresses");
  flags.Add("json", &json, "print the whole answer as JSON");
  if (const auto exit = ParseFlags(flags, args, 0, nullptr)) return *exit;
  const auto address = FindCoordinator(coordinator, state_dir);
  if (!address.ok()) return Fail("status", address.status());

  auto coordinators = Coordinators::Connect(*address);
  if (!coordinators.ok()) return Fail("status", coordinators.status());
  const auto cluster = coordinators->GetStatus();
  if (!cluster.ok()) return Fail("status", cluster.status());
  if (!json) {
    Print(*cluster);
    return 0;
  }
  std::string text;
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  if (!google::protobuf::util::MessageToJsonString(*cluster, &text, options).ok()) return 1;
  std::printf("%s\n", text.c_str());
  return 0;
}

}  // namespace reprise::cli
