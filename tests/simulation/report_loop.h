// A node's reports to the coordinator, as coordinator/client/reporter sends them: one in flight,
// rising sequence, again at the interval or at once when asked. Owned by its node; one thread.
#ifndef REPRISE_TESTS_SIMULATION_REPORT_LOOP_H_
#define REPRISE_TESTS_SIMULATION_REPORT_LOOP_H_

#include <functional>

#include "coordinator/core/types.h"
#include "kvstore/block/event_log.h"
#include "tests/simulation/context.h"

namespace reprise::sim {

class ReportLoop {
 public:
  ReportLoop(Context& context, Pid pid, coordinator::NodeInfo info,
             std::function<void(coordinator::Report&)> fill,
             std::function<void(const coordinator::ReportAnswer&)> answered);

  void Start() { SendAfter(0); }
  // Reports at once when none is in flight.
  void Wake();

 private:
  void SendAfter(TimeNs delay);
  void Send();
  void Ended();

  Context& context_;
  const Pid pid_;
  const coordinator::NodeInfo info_;
  const std::function<void(coordinator::Report&)> fill_;
  const std::function<void(const coordinator::ReportAnswer&)> answered_;
  uint64_t sequence_ = 0;
  uint64_t timer_ = 0;  // the one that counts
  bool in_flight_ = false;
  bool woken_ = false;
  TimeNs interval_ = 200 * kMillisecond;
};

// What the event reporter prepared, in a report; and the answer's part for it.
void FillKv(const kv::EventReporter::Part& part, coordinator::Report& report);
kv::EventReporter::Answer KvAnswer(const coordinator::ReportAnswer& answer);

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_REPORT_LOOP_H_
