#include "tests/simulation/report_loop.h"

#include <utility>

#include "tests/simulation/sim_coordinator.h"

namespace reprise::sim {

ReportLoop::ReportLoop(Context& context, Pid pid, coordinator::NodeInfo info,
                       std::function<void(coordinator::Report&)> fill,
                       std::function<void(const coordinator::ReportAnswer&)> answered)
    : context_(context),
      pid_(pid),
      info_(std::move(info)),
      fill_(std::move(fill)),
      answered_(std::move(answered)) {}

void ReportLoop::Wake() {
  woken_ = true;
  if (!in_flight_) SendAfter(0);
}

void ReportLoop::SendAfter(TimeNs delay) {
  const uint64_t timer = ++timer_;
  context_.world.After(delay, {"report_timer", pid_, pid_, sequence_}, [this, timer] {
    if (timer == timer_ && !in_flight_) Send();
  });
}

void ReportLoop::Send() {
  in_flight_ = true;
  woken_ = false;
  coordinator::Report report;
  report.node = info_;
  report.sequence = ++sequence_;
  fill_(report);
  SimCoordinator* const coordinator = context_.coordinator;
  if (coordinator == nullptr) return Ended();
  Digest digest;
  digest.U64(report.sequence).U64(report.requests.size());
  if (report.events) digest.U64(report.events->first).U64(report.events->events.size());
  if (report.snapshot) digest.U64(report.snapshot->as_of).U64(report.snapshot->ids.size());
  context_.network.Call({
      .label = {"report", pid_, coordinator->pid(), digest.value()},
      .timeout = kSecond,
      .repeatable = true,
      .serve = [this, coordinator, report = std::move(report)]() -> Network::Reply {
        const auto answer = coordinator->OnReport(report);
        return [this, answer] {
          if (answer.ok()) {
            interval_ = NsFromMs(answer->report_interval_ms);
            answered_(*answer);
          }
          Ended();
        };
      },
      .failed = [this](const Status&) { Ended(); },
  });
}

void ReportLoop::Ended() {
  in_flight_ = false;
  SendAfter(woken_ ? 0 : interval_);
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
