// The stage processes of one run as the controller sees them: started, told what to do, killed,
// and heard. Owned by the run; one thread, which must live as long as the processes.
#ifndef REPRISE_BENCH_DEJAVU_STAGES_H_
#define REPRISE_BENCH_DEJAVU_STAGES_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/dejavu_stage.h"
#include "bench/dejavu_wire.h"
#include "common/subprocess.h"

namespace reprise::bench {

class DejavuStages {
 public:
  // `program` becomes a stage by kStageMode; `options` apart from controller and slot. swap_space
  // is 1 + slot where swapping is on.
  static StatusOr<std::unique_ptr<DejavuStages>> Start(const std::string& program, int count,
                                                       const StageOptions& options);
  ~DejavuStages();

  struct Event {
    int slot = 0;
    std::optional<StageMessage> message;  // empty: the process is gone
  };
  // What has come within `timeout_ns`, in order of each stage.
  StatusOr<std::vector<Event>> Poll(TimeNs timeout_ns);
  // Without effect on a stage that is gone: its end is an event.
  void Send(int slot, const StageMessage& message);
  Status Kill(int slot) { return stages_[static_cast<size_t>(slot)].process->Kill(9); }
  const StagePeer& peer(int slot) const { return stages_[static_cast<size_t>(slot)].peer; }
  int count() const { return static_cast<int>(stages_.size()); }
  bool gone(int slot) const { return stages_[static_cast<size_t>(slot)].fd < 0; }

 private:
  struct Stage {
    int fd = -1;
    StagePeer peer;
    std::unique_ptr<Subprocess> process;
  };
  DejavuStages() = default;
  Status Accept();

  int listener_ = -1;
  std::vector<Stage> stages_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_DEJAVU_STAGES_H_
