#include "tests/simulation/report_loop.h"

#include <algorithm>
#include <utility>

#include "tests/simulation/sim_coordinator.h"

namespace reprise::sim {

ReportLoop::ReportLoop(Context& context, Pid pid, coordinator::NodeInfo info,
                       ReportHandlers handlers)
    : context_(context),
      pid_(pid),
      info_(std::move(info)),
      handlers_(std::move(handlers)),
      ones_(context.coordinators.size()) {}

void ReportLoop::Start() {
  for (size_t i = 0; i < ones_.size(); ++i) SendAfter(i, 0);
}

bool ReportLoop::SawEpoch(uint64_t epoch) {
  if (epoch < epoch_ && !context_.mutated(Mutation::kStaleLeaderObeyed)) {
    ++context_.stale_leader_refused;
    return false;
  }
  if (epoch < epoch_) context_.world.Fail("an order of a leader long replaced was obeyed");
  epoch_ = std::max(epoch_, epoch);
  return true;
}

void ReportLoop::SendAfter(size_t index, TimeNs delay) {
  const uint64_t timer = ++ones_[index].timer;
  context_.world.After(delay, {"report_timer", pid_, pid_, ones_[index].sequence},
                       [this, index, timer] {
                         const One& one = ones_[index];
                         if (timer == one.timer && !one.in_flight) Send(index);
                       });
}

void ReportLoop::Send(size_t index) {
  One& one = ones_[index];
  one.in_flight = true;
  one.woken = false;
  coordinator::Report report;
  report.node = info_;
  report.sequence = ++one.sequence;
  report.stores_version = one.stores_version;
  report.verdicts_version = one.verdicts_version;
  report.leader_epoch = epoch_;
  handlers_.fill(index, report);
  SimCoordinator* const coordinator = context_.coordinators[index];
  if (coordinator == nullptr) return Ended(index);
  Digest digest;
  digest.U64(report.sequence).U64(report.requests.size());
  if (report.events) digest.U64(report.events->first).U64(report.events->events.size());
  if (report.snapshot) digest.U64(report.snapshot->as_of).U64(report.snapshot->ids.size());
  context_.network.Call({
      .label = {"report", pid_, coordinator->pid(), digest.value()},
      .timeout = kSecond,
      .repeatable = true,
      .serve = [this, index, coordinator, report = std::move(report)]() -> Network::Reply {
        const auto answer = coordinator->OnReport(report);
        return [this, index, answer] {
          if (answer.ok()) Answered(index, *answer);
          Ended(index);
        };
      },
      .failed = [this, index](const Status&) { Ended(index); },
  });
}

void ReportLoop::Answered(size_t index, const coordinator::ReportAnswer& answer) {
  One& one = ones_[index];
  one.interval = NsFromMs(answer.report_interval_ms);
  one.woken |= handlers_.answered(index, answer);
  if (answer.stores) one.stores_version = answer.stores->version;
  if (answer.verdicts) one.verdicts_version = answer.verdicts->version;
  if (answer.standby) {
    if (answer.leader_epoch > epoch_) SawEpoch(answer.leader_epoch);
    return;
  }
  if (!SawEpoch(answer.leader_epoch)) return;
  const size_t before = std::exchange(leader_, index);
  if (std::exchange(heard_leader_, true) && before != index) {
    // What this one sent when it led before may have been overtaken by another's word.
    one.stores_version = one.verdicts_version = 0;
    one.woken = true;
  }
  handlers_.ordered(index, answer);
}

void ReportLoop::Ended(size_t index) {
  ones_[index].in_flight = false;
  SendAfter(index, ones_[index].woken ? 0 : ones_[index].interval);
}

void FillKv(const kv::EventReporter::Part& part, coordinator::Report& report) {
  if (part.chunk != nullptr) {
    report.snapshot = *part.chunk;
  } else {
    report.events = coordinator::KvEvents{part.events.first, part.events.events};
  }
}

kv::EventReporter::Answer KvAnswer(const coordinator::ReportAnswer& answer) {
  return {.coordinator_incarnation = answer.coordinator_incarnation,
          .next_event = answer.next_event,
          .want_snapshot = answer.want_snapshot};
}

}  // namespace reprise::sim
