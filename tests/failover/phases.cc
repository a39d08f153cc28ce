#include "tests/failover/phases.h"

#include <signal.h>

#include <utility>

#include "absl/strings/match.h"
#include "cli/client/generation_client.h"
#include "common/mutex.h"
#include "tests/failover/cases.h"

namespace reprise::harness {
namespace {

constexpr TimeNs kPatienceNs = 60 * kSecond;
constexpr TimeNs kHitWithinNs = 5 * kSecond;  // of one provocation
constexpr int kProvocationsMax = 12;          // where requests go after a death is not ours to say
constexpr int kPromptTokens = 100;
constexpr int kMaxTokens = 80;

// Takes one token of a stream at the gateway and goes away.
Status LeaveAfterOneToken(const Cluster& cluster, const Setting& setting, int64_t number) {
  struct State {
    Mutex mu;
    CondVar changed;
    bool came GUARDED_BY(mu) = false;
  };
  const auto state = std::make_shared<State>();
  const auto note = [state] {
    MutexLock lock(state->mu);
    state->came = true;
    state->changed.NotifyAll();
  };
  client::GenerationClient client({.address = cluster.addresses("gateway-0").grpc});
  const auto stream =
      client.Start(TimedRequest(setting.model, number, kPromptTokens, kMaxTokens).request,
                   {.on_event =
                        [note](const v1::GenerateEvent& event) {
                          if (event.has_tokens()) note();
                        },
                    .on_done = [note](const Status&) { note(); }});
  const TimeNs until = RealClock().NowNs() + kPatienceNs;
  {
    MutexLock lock(state->mu);
    while (!state->came && RealClock().NowNs() < until) {
      state->changed.WaitFor(state->mu, std::chrono::nanoseconds(kSecond));
    }
  }
  stream->Abandon();
  return absl::OkStatus();
}

Status Provoke(Cluster& cluster, const Setting& setting, const Phase& phase,
               const std::string& victim, int64_t number) {
  switch (phase.provocation) {
    case Provocation::kNone:
      return absl::OkStatus();
    case Provocation::kClientLeaves:
      return LeaveAfterOneToken(cluster, setting, number);
    case Provocation::kGatewayDies:
      RETURN_IF_ERROR(cluster.Kill("gateway-0"));
      return cluster.Restart("gateway-0");
    case Provocation::kWorkerDies:
      return cluster.Kill("decode-3");
    case Provocation::kDrained:
      return cluster.Signal(victim, SIGTERM);
    case Provocation::kLeaderDies: {
      ASSIGN_OR_RETURN(const std::string leader, cluster.Leader());
      return cluster.Kill(leader);
    }
  }
  return absl::InternalError("no such provocation");
}

StatusOr<std::string> VictimOf(const Cluster& cluster, const Phase& phase) {
  if (phase.victim != "leader" && phase.victim != "standby") return phase.victim;
  ASSIGN_OR_RETURN(std::string leader, cluster.Leader());
  if (phase.victim == "leader") return leader;
  for (const std::string& name : cluster.names()) {
    if (absl::StartsWith(name, "coordinator") && name != leader) return name;
  }
  return absl::NotFoundError("there is no standby");
}

}  // namespace

std::vector<Phase> AllPhases() {
  using enum Provocation;
  return {
      {"gateway.place", "gateway-0"},
      {"gateway.submit", "gateway-0"},
      {"gateway.token", "gateway-0", kNone, 20},
      {"gateway.detach", "gateway-0", kClientLeaves},
      {"gateway.attach", "gateway-1", kGatewayDies},
      {"gateway.finish", "gateway-0"},
      {"coordinator.report", "leader"},
      {"coordinator.place", "leader"},
      {"coordinator.grant", "leader"},
      {"coordinator.lead.candidate", "standby", kLeaderDies},
      {"coordinator.lead.elected", "standby", kLeaderDies},
      {"worker.submit", "decode-0"},
      {"worker.restore.query", "decode-0", kWorkerDies},
      {"worker.restore.fetch", "decode-0", kWorkerDies},
      {"worker.restore.arrived", "decode-0", kWorkerDies},
      {"worker.leg.call", "decode-0"},
      {"worker.leg.layer", "prefill-0"},
      {"worker.leg.reply", "prefill-0"},
      {"worker.step.layer", "decode-0", kNone, 21},
      {"worker.step.done", "decode-0", kNone, 20},
      {"worker.emit", "decode-0", kNone, 20},
      {"worker.append.pack", "decode-0", kNone, 10},
      {"worker.append.send", "decode-0", kNone, 10},
      {"worker.held", "decode-0", kNone, 10},
      {"worker.seal", "decode-0"},
      {"worker.attach", "decode-0", kGatewayDies},
      {"worker.drain", "decode-0", kDrained},
      {"store.offer", "store-0"},
      {"store.block.stored", "store-0"},
      {"store.append.receive", "store-0", kNone, 10},
      {"store.append.take", "store-0", kNone, 10},
      {"store.append.ack", "store-0", kNone, 10},
      {"store.seal", "store-0"},
      {"store.query", "store-0", kWorkerDies},
      {"store.serve", "store-0", kWorkerDies},
      {"store.disk.write", "store-0"},
      {"store.release", "store-0"},
  };
}

Setting PhaseSetting(const std::string& program) {
  Setting setting = StandingSetting(program);
  setting.flags_of["decode-0"] = {"--recovery=restore"};
  return setting;
}

StatusOr<PhaseOutcome> PlayPhase(Cluster& cluster, const Setting& setting, const Phase& phase,
                                 int streams, int64_t first_request) {
  PhaseOutcome outcome;
  CheckedLoad load(TimedLoad(setting, cluster, streams, kPromptTokens, kMaxTokens, first_request));
  RETURN_IF_ERROR(load.WaitForTokens(streams * 4, kPatienceNs));
  for (int i = 1; i <= kProvocationsMax && !outcome.hit; ++i) {
    ASSIGN_OR_RETURN(const std::string victim, VictimOf(cluster, phase));
    RETURN_IF_ERROR(cluster.Arm(victim, absl::StrCat(phase.failpoint, "=kill@", phase.nth)));
    if (cluster.running(victim)) {
      RETURN_IF_ERROR(Provoke(cluster, setting, phase, victim, first_request + i * 1'000'000));
    }
    const auto end = cluster.WaitEnd(victim, kHitWithinNs);
    outcome.hit = end.has_value() && end->signal == SIGKILL;
    // What has died returns while clients still wait, as an operator's supervisor would do it.
    RETURN_IF_ERROR(cluster.Repair());
    // Until what came back has streams again: its next death is to move some.
    RETURN_IF_ERROR(load.WaitForTokens(load.tokens() + streams * kMaxTokens, kPatienceNs));
  }
  RETURN_IF_ERROR(load.Stop(kPatienceNs));
  outcome.totals = Sum(load.results());
  return outcome;
}

}  // namespace reprise::harness
