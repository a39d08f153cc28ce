// The controller of one run of dejavu_run.h: loads, steps and hand-overs in dejavu_run.cc, kills
// and recovery in dejavu_recovery.cc. One thread.
#ifndef REPRISE_BENCH_DEJAVU_CONTROLLER_H_
#define REPRISE_BENCH_DEJAVU_CONTROLLER_H_

#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "bench/dejavu_run.h"
#include "bench/dejavu_stages.h"

namespace reprise::bench {

inline TimeNs NsFromSeconds(double seconds) { return static_cast<TimeNs>(seconds * kSecond); }

class DejavuRun {
 public:
  explicit DejavuRun(const DejavuRunOptions& options)
      : o_(options),
        in_flight_max_(o_.split ? o_.split->token_machines : o_.stages),
        first_token_stage_(o_.split ? o_.split->prompt_machines : 0),
        last_prompt_stage_(o_.split ? o_.split->prompt_machines - 1 : o_.stages - 1) {}

  StatusOr<DejavuRunResult> Run();

 private:
  struct Sequence {
    int tokens = 0;  // to generate
    int done = 0;
    uint32_t epoch = 0;  // answers to older orders are not for us
    bool in_flight = false;
    bool prompt_done = false;
    bool restoring = false;
    int pulls_due = 0;  // of a split's prompt rows
  };

  int SlotOf(int stage) const { return roster_[static_cast<size_t>(stage)]; }
  int After(int stage) const { return (stage + 1) % o_.stages; }  // holds its replica
  struct Retry {
    TimeNs due_ns;
    int slot;
    StageMessage order;
  };

  Sequence& sequence(uint32_t index) { return sequences_[index]; }
  StageMessage Order(StageVerb verb, uint32_t index) const;

  Status StartStages();
  void StartLoad();
  void Admit(TimeNs at_ns);
  void Work(uint32_t index, int stage, TimeNs at_ns);
  void Begin(uint32_t index, TimeNs at_ns);
  Status OnMessage(int slot, const StageMessage& message);
  Status OnDone(int slot, const StageMessage& message);
  void OnPromptPart(uint32_t index, int stage, TimeNs at_ns);
  void OnToken(uint32_t index, TimeNs at_ns);
  void Drop(uint32_t index, int first_slot, int end_slot);
  bool DropsDue() const;
  // A split's prompt rows: stage x of n holds [x, x + 1) * rows / n.
  std::pair<uint32_t, uint32_t> Share(int stage, int of) const;
  void PullPrompt(uint32_t index, int prompt_stage);
  void OnPulled(int slot, const StageMessage& message);
  void RetryTransfers();
  void AdmitReady(uint32_t index);

  void Pull(uint32_t index, int to_stage, int from_stage, uint32_t space, uint32_t count);
  void Replicate(uint32_t index, int stage);
  Status KillWhenDue();
  Status OnGone(int slot);
  void Restore(const StageMessage& have);
  void Resume(uint32_t index, uint32_t rows);
  void EndRecovery();

  const DejavuRunOptions& o_;
  const int in_flight_max_;
  const int first_token_stage_;
  const int last_prompt_stage_;
  std::unique_ptr<DejavuStages> stages_;
  std::vector<int> roster_;  // slot of each stage
  std::vector<int> spares_;
  std::vector<Sequence> sequences_;
  size_t next_ = 0;              // to admit; of a split: in the order prompts end
  std::vector<uint32_t> ready_;  // of a split: prompts whose rows are where tokens are computed
  std::deque<Retry> retries_;
  int in_flight_ = 0;
  size_t finished_ = 0;
  std::vector<int> drops_due_;  // of each slot
  TimeNs start_ns_ = 0;
  TimeNs end_ns_ = 0;
  size_t kills_made_ = 0;
  TimeNs killed_ns_ = 0;
  int recovering_stage_ = -1;
  int restores_due_ = 0;
  DejavuRunResult result_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_DEJAVU_CONTROLLER_H_
