// A node's reports to the coordinators, as coordinator/client sends them: to each one in flight,
// rising sequence, again at the interval or at once when asked; and one ear for the one that leads.
// Owned by its node; one thread.
//
// Invariants:
// 1. The highest leader epoch ever seen is kept; words of lower ones are refused and counted.
// 2. After another coordinator began to lead, its first word carries every list whole.
#ifndef REPRISE_TESTS_SIMULATION_REPORT_LOOP_H_
#define REPRISE_TESTS_SIMULATION_REPORT_LOOP_H_

#include <functional>
#include <memory>
#include <vector>

#include "coordinator/core/types.h"
#include "kvstore/block/event_log.h"
#include "tests/simulation/context.h"

namespace reprise::sim {

struct ReportHandlers {
  std::function<void(size_t coordinator, coordinator::Report&)> fill;
  // Any coordinator's answer. True: report to it again at once.
  std::function<bool(size_t coordinator, const coordinator::ReportAnswer&)> answered;
  // The leader's word.
  std::function<void(size_t coordinator, const coordinator::ReportAnswer&)> ordered;
};

class ReportLoop {
 public:
  ReportLoop(Context& context, Pid pid, coordinator::NodeInfo info, ReportHandlers handlers);

  void Start();
  // Who led last.
  size_t leader() const { return leader_; }
  // An order of this epoch came. False: it is of a leader long replaced.
  bool SawEpoch(uint64_t epoch);

 private:
  struct One {
    uint64_t sequence = 0;
    uint64_t timer = 0;  // the one that counts
    bool in_flight = false;
    bool woken = false;
    TimeNs interval = 200 * kMillisecond;
    uint64_t stores_version = 0;
    uint64_t verdicts_version = 0;
  };
  void SendAfter(size_t index, TimeNs delay);
  void Send(size_t index);
  void Answered(size_t index, const coordinator::ReportAnswer& answer);
  void Ended(size_t index);

  Context& context_;
  const Pid pid_;
  const coordinator::NodeInfo info_;
  const ReportHandlers handlers_;
  std::vector<One> ones_;  // by coordinator
  uint64_t epoch_ = 0;
  size_t leader_ = 0;
  bool heard_leader_ = false;
};

// What the event reporter prepared, in a report; and the answer's part for it.
void FillKv(const kv::EventReporter::Part& part, coordinator::Report& report);
kv::EventReporter::Answer KvAnswer(const coordinator::ReportAnswer& answer);

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_REPORT_LOOP_H_
