// A killed stage: its notice, the spare in its place, the rows back, every microbatch at its own
// step.
#include <algorithm>

#include "bench/dejavu_controller.h"

namespace reprise::bench {

// A connection may be lost although both ends live: on a busy machine one that does not answer in
// time is closed. Orders whose source is gone were replaced when its end was noticed.
void DejavuRun::RetryTransfers() {
  const TimeNs now_ns = RealClock().NowNs();
  while (!retries_.empty() && retries_.front().due_ns <= now_ns) {
    Retry retry = retries_.front();
    retries_.pop_front();
    const Sequence& s = sequence(retry.order.sequence);
    const bool wanted = o_.split ? s.pulls_due > 0 : s.in_flight;
    if (!wanted || stages_->gone(retry.order.peer.slot)) continue;
    ++result_.transfers_retried;
    retry.order.verb =
        retry.order.verb == StageVerb::kReplicaLost ? StageVerb::kReplicate : StageVerb::kPull;
    stages_->Send(retry.slot, retry.order);
  }
}

Status DejavuRun::KillWhenDue() {
  if (kills_made_ == o_.kills.size()) return absl::OkStatus();
  const DejavuKill& kill = o_.kills[kills_made_];
  const TimeNs now_ns = RealClock().NowNs();
  const bool due = kill.after_tokens > 0 ? sequence(0).done >= kill.after_tokens
                                         : now_ns - start_ns_ >= NsFromSeconds(kill.at_s);
  const bool unnoticed = kills_made_ > result_.detect_s.size();
  if (!due || unnoticed || recovering_stage_ >= 0) return absl::OkStatus();
  ++kills_made_;
  killed_ns_ = now_ns;
  return stages_->Kill(SlotOf(kill.stage));
}

// The broken socket is the notice; the spare takes the stage's place.
Status DejavuRun::OnGone(int slot) {
  const auto found = std::find(roster_.begin(), roster_.end(), slot);
  if (found == roster_.end() || spares_.empty() || kills_made_ == result_.detect_s.size()) {
    return absl::UnavailableError(absl::StrCat("stage process ", slot, " ended by itself"));
  }
  drops_due_[static_cast<size_t>(slot)] = 0;
  result_.detect_s.push_back(SecondsFromNs(RealClock().NowNs() - killed_ns_));
  *found = spares_.front();
  spares_.erase(spares_.begin());
  recovering_stage_ = static_cast<int>(found - roster_.begin());
  for (uint32_t index = 0; index < sequences_.size(); ++index) {
    Sequence& s = sequence(index);
    if (!s.in_flight) continue;
    ++s.epoch;
    s.restoring = true;
    ++restores_due_;
  }
  if (restores_due_ == 0) EndRecovery();
  for (uint32_t index = 0; index < sequences_.size(); ++index) {
    if (!sequence(index).restoring) continue;
    if (!o_.replicate) {
      Resume(index, 0);
      continue;
    }
    StageMessage query = Order(StageVerb::kQuery, index);
    query.space = 1 + static_cast<uint32_t>(recovering_stage_);
    stages_->Send(SlotOf(After(recovering_stage_)), query);
  }
  return absl::OkStatus();
}

// `have.count` rows of the dead stage are at its neighbour: the microbatch's watermark.
void DejavuRun::Restore(const StageMessage& have) {
  if (have.count == 0) {
    Resume(have.sequence, 0);
    return;
  }
  Pull(have.sequence, recovering_stage_, After(recovering_stage_), have.space, have.count);
}

// The dead stage's first `rows` rows are at the spare; goes on at the step after them.
void DejavuRun::Resume(uint32_t index, uint32_t rows) {
  Sequence& s = sequence(index);
  s.restoring = false;
  const int tokens = std::max(0, static_cast<int>(rows) - o_.prompt_rows);
  const bool prompt_lost = static_cast<int>(rows) < o_.prompt_rows;
  const int resumed = prompt_lost ? 0 : std::min(s.done, tokens);
  // The step under way is repeated in any case.
  result_.steps_repeated += s.done - resumed + 1;
  result_.tokens -= s.done - resumed;
  s.done = resumed;
  if (prompt_lost) s.prompt_done = false;
  Begin(index, RealClock().NowNs());
  if (--restores_due_ == 0) EndRecovery();
}

// Every microbatch goes on: now the replicas that the dead stage held, and those of its rows, are
// rebuilt.
void DejavuRun::EndRecovery() {
  result_.recover_s.push_back(SecondsFromNs(RealClock().NowNs() - killed_ns_));
  for (uint32_t index = 0; o_.replicate && index < sequences_.size(); ++index) {
    if (!sequence(index).in_flight) continue;
    Replicate(index, recovering_stage_);
    Replicate(index, (recovering_stage_ + o_.stages - 1) % o_.stages);
  }
  recovering_stage_ = -1;
}

}  // namespace reprise::bench
