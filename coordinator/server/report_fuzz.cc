// Any bytes as reports of nodes, through the parser into the core: refused with a reason, or
// taken without breaking what the core promises. The input is a sequence of messages, each behind
// two length bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "common/limits.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/server/convert.h"

namespace {

void Require(bool holds) {
  if (!holds) std::abort();
}

void RequireParsed(const reprise::coordinator::Report& report) {
  namespace limits = reprise::limits;
  Require(!report.node.ref.key.name.empty() && report.node.ref.key.incarnation != 0);
  Require(report.node.ref.key.name.size() <= limits::kNodeNameBytesMax);
  Require(report.sequence > 0);
  if (report.node.role != reprise::coordinator::Role::kGateway) {
    Require(report.node.model.block_tokens >= 1 && report.node.model.context_tokens >= 1);
  }
  // Each degree first: the product of large ones may overflow to a small one.
  const reprise::kv::GroupSplit& group = report.node.group;
  for (const uint32_t degree : {group.pipeline, group.context, group.tensor, group.ranks()}) {
    Require(degree >= 1 && degree <= limits::kGroupRanksMax);
  }
  Require(group.stripe_leaves >= 1 && group.stripe_leaves <= limits::kStripeLeavesMax);
  Require(group.ranks() == 1 || report.node.role == reprise::coordinator::Role::kWorker);
  Require(report.load.running >= 0 && report.load.waiting >= 0 && report.load.blocks_free >= 0);
  Require(report.load.probe_age_ms >= -1 && report.load.stranded_bytes >= 0);
  Require(report.load.unreachable.size() <= limits::kNodesMax);
  for (const auto& name : report.load.unreachable) {
    Require(!name.empty() && name.size() <= limits::kNodeNameBytesMax);
  }
  if (report.events) {
    Require(report.events->first >= 1 && !report.events->events.empty());
    Require(report.events->events.size() <= limits::kReportEventsMax);
  }
  if (report.snapshot) Require(report.snapshot->ids.size() <= limits::kSnapshotChunkBlocks);
  Require(report.requests.size() <= limits::kReportRequestsMax);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using reprise::coordinator::CoordinatorCore;
  reprise::coordinator::CoreOptions options;
  options.index.blocks_per_node_max = 64;
  options.index.entries_max = 128;
  options.membership.nodes_max = 4;
  reprise::TimeNs now = reprise::kSecond;
  CoordinatorCore core(options, now);
  while (size >= 2) {
    const size_t length = std::min<size_t>(data[0] | size_t{data[1]} << 8, size - 2);
    reprise::v1::ReportRequest message;
    const bool parsed = message.ParseFromArray(data + 2, static_cast<int>(length));
    data += 2 + length;
    size -= 2 + length;
    if (!parsed) continue;
    now += 100 * reprise::kMillisecond;
    core.OnTick(now);
    const auto report = reprise::coordinator::ParseReport(message);
    if (!report.ok()) {
      Require(!report.status().message().empty());
      continue;
    }
    RequireParsed(*report);
    const auto answer = core.OnReport(*report, now);
    if (answer.ok()) Require(answer->next_event >= 1);
    reprise::v1::NodeStatus status;
    size_t indexed = 0;
    for (const auto& node : core.Nodes(now)) {
      Fill(node, &status);
      indexed += static_cast<size_t>(node.indexed_blocks);
    }
    Require(indexed == core.stats().index.entries && indexed <= options.index.entries_max);
    Require(core.Nodes(now).size() <= options.membership.nodes_max);
  }
  return 0;
}
