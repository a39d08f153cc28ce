#include "cli/drain.h"

#include <cstdio>
#include <optional>

#include "cli/coordinators.h"
#include "common/clock.h"

namespace reprise::cli {
namespace {

constexpr TimeNs kPollNs = 300 * kMillisecond;  // as often as nodes report
// The node's own deadline ends it; a little later its silence shows.
constexpr int64_t kGraceMs = 5000;

struct Progress {
  bool gone = false;  // ended, or replaced by another incarnation
  int64_t requests = 0;
};

StatusOr<std::optional<uint64_t>> IncarnationOf(Coordinators& coordinators,
                                                const std::string& name) {
  ASSIGN_OR_RETURN(const v1::ClusterStatus cluster, coordinators.GetStatus());
  for (const v1::NodeStatus& node : cluster.nodes()) {
    if (node.node().ref().name() == name) return std::optional(node.node().ref().incarnation());
  }
  return std::optional<uint64_t>();
}

Progress Look(const v1::ClusterStatus& cluster, const std::string& name, uint64_t incarnation) {
  for (const v1::NodeStatus& node : cluster.nodes()) {
    if (node.node().ref().name() != name) continue;
    const bool same = node.node().ref().incarnation() == incarnation;
    return {.gone = !same || node.state() == "dead",
            .requests = int64_t{node.load().running()} + node.load().waiting()};
  }
  return {.gone = true};
}

// Prints each number once.
Status WaitUntilEmpty(Coordinators& coordinators, const std::string& name, uint64_t incarnation,
                      int64_t wait_ms, StopSignal* stop) {
  const TimeNs until = RealClock().NowNs() + NsFromMs(wait_ms);
  int64_t printed = -1;
  Status last;
  while (RealClock().NowNs() < until) {
    // A coordinator may be away for a moment; the node drains all the same.
    const auto cluster = coordinators.GetStatus();
    last = cluster.status();
    if (cluster.ok()) {
      const Progress progress = Look(*cluster, name, incarnation);
      if (progress.gone || progress.requests == 0) {
        std::printf("%s is empty%s\n", name.c_str(), progress.gone ? " and gone" : "");
        return absl::OkStatus();
      }
      if (progress.requests != printed) {
        std::printf("%s has %ld requests\n", name.c_str(), static_cast<long>(progress.requests));
        std::fflush(stdout);
        printed = progress.requests;
      }
    }
    if (stop->WaitFor(kPollNs))
      return absl::CancelledError("interrupted; the node goes on draining");
  }
  if (!last.ok()) return last;
  return absl::DeadlineExceededError(
      absl::StrCat(name, " still has ", printed, " requests after ", wait_ms, " ms"));
}

}  // namespace

int RunDrain(const Args& args) {
  std::string coordinator;
  std::string state_dir = DefaultStateDir();
  int64_t deadline_ms = 30'000;
  bool wait = false;
  FlagSet flags("reprise drain",
                "Takes a node out of placement and has its live requests moved to other nodes; a "
                "worker ends when it is empty, or at the deadline.",
                "NODE");
  flags.Add("coordinator", &coordinator,
            "the coordinators' addresses (host:port,..); else found in --state-dir");
  flags.Add("state-dir", &state_dir, "where `reprise up` keeps its addresses");
  flags.AddDurationMs("deadline", &deadline_ms, 1, 3'600'000,
                      "after which what is left ends with UNAVAILABLE and a resume handle");
  flags.Add("wait", &wait, "return when the node is empty, printing what it still has");
  std::vector<std::string> positional;
  if (const auto exit = ParseFlags(flags, args, 1, &positional)) return *exit;
  if (positional.empty()) {
    return Fail("drain", absl::InvalidArgumentError(
                             "name the node: reprise drain NODE (see `reprise status`)"));
  }
  const std::string& name = positional[0];
  const auto address = FindCoordinator(coordinator, state_dir);
  if (!address.ok()) return Fail("drain", address.status());
  auto coordinators = Coordinators::Connect(*address);
  if (!coordinators.ok()) return Fail("drain", coordinators.status());
  const auto incarnation = IncarnationOf(*coordinators, name);
  if (!incarnation.ok()) return Fail("drain", incarnation.status());
  const auto drained = coordinators->Drain(name, deadline_ms);
  if (!drained.ok()) return Fail("drain", drained.status());
  std::printf("%s drains; it has %d requests\n", name.c_str(), drained->requests());
  std::fflush(stdout);
  if (!wait) return 0;
  static StopSignal stop;
  StopOnSignals(&stop);
  const Status status =
      WaitUntilEmpty(*coordinators, name, incarnation->value_or(0), deadline_ms + kGraceMs, &stop);
  return status.ok() ? 0 : Fail("drain", status);
}

}  // namespace reprise::cli
