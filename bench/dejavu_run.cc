#include "bench/dejavu_run.h"

#include <algorithm>

#include "bench/dejavu_controller.h"

namespace reprise::bench {
namespace {

constexpr TimeNs kPollNs = 20 * kMillisecond;
constexpr TimeNs kQuietMaxNs = 60 * kSecond;  // without a word from any stage: something is stuck

}  // namespace

StageMessage DejavuRun::Order(StageVerb verb, uint32_t index) const {
  return {.verb = verb, .epoch = sequences_[index].epoch, .sequence = index};
}

Status DejavuRun::StartStages() {
  const int longest = *std::max_element(o_.new_tokens.begin(), o_.new_tokens.end());
  StageOptions stage;
  stage.rows_max = o_.prompt_rows + longest;
  stage.row_bytes = o_.row_bytes;
  stage.swap_bytes_per_s = o_.swap_bytes_per_s;
  stage.swap_sequences = o_.swap_bytes_per_s > 0 ? o_.stages : 0;
  const int processes = o_.stages + static_cast<int>(o_.kills.size());
  drops_due_.assign(static_cast<size_t>(processes), 0);
  ASSIGN_OR_RETURN(stages_, DejavuStages::Start(o_.program, processes, stage));
  for (int slot = 0; slot < processes; ++slot) {
    (slot < o_.stages ? roster_ : spares_).push_back(slot);
  }
  for (const int tokens : o_.new_tokens) sequences_.push_back({.tokens = tokens});
  return absl::OkStatus();
}

void DejavuRun::StartLoad() {
  start_ns_ = RealClock().NowNs();
  if (!o_.split) {
    Admit(start_ns_);
    return;
  }
  for (uint32_t i = 0; i < sequences_.size(); ++i) Work(i, 0, start_ns_);
}

// Mixed: the next microbatches begin while there is room.
void DejavuRun::Admit(TimeNs at_ns) {
  while (in_flight_ < in_flight_max_ && next_ < sequences_.size()) {
    const auto index = static_cast<uint32_t>(next_++);
    ++in_flight_;
    sequence(index).in_flight = true;
    for (int stage = 0; o_.replicate && stage < o_.stages; ++stage) Replicate(index, stage);
    Begin(index, at_ns);
  }
}

void DejavuRun::Begin(uint32_t index, TimeNs at_ns) {
  Work(index, sequence(index).prompt_done ? first_token_stage_ : 0, at_ns);
}

// The sequence's next pass through `stage`: its prompt, or its next token.
void DejavuRun::Work(uint32_t index, int stage, TimeNs at_ns) {
  const Sequence& s = sequence(index);
  StageMessage run = Order(StageVerb::kRun, index);
  run.at_ns = at_ns;
  if (s.prompt_done) {
    const int of = o_.stages - first_token_stage_;
    run.space = 1 + static_cast<uint32_t>(stage);
    run.first = static_cast<uint32_t>(o_.prompt_rows + s.done);
    run.count = 1;
    run.work_ns = NsFromSeconds(o_.token_s / of);
  } else {
    const int of = last_prompt_stage_ + 1;
    run.space = o_.split ? 0 : 1 + static_cast<uint32_t>(stage);
    const auto [first, end] = Share(stage, of);
    run.first = o_.split ? first : 0;
    run.count = o_.split ? end - first : static_cast<uint32_t>(o_.prompt_rows);
    run.work_ns = NsFromSeconds(o_.prompt_s / of);
  }
  stages_->Send(SlotOf(stage), run);
}

std::pair<uint32_t, uint32_t> DejavuRun::Share(int stage, int of) const {
  return {static_cast<uint32_t>(o_.prompt_rows * stage / of),
          static_cast<uint32_t>(o_.prompt_rows * (stage + 1) / of)};
}

Status DejavuRun::OnMessage(int slot, const StageMessage& message) {
  if (message.sequence >= sequences_.size()) {
    return absl::DataLossError(absl::StrCat("stage ", slot, " names sequence ", message.sequence));
  }
  switch (message.verb) {
    case StageVerb::kDone:
      return OnDone(slot, message);
    case StageVerb::kPulled:
      OnPulled(slot, message);
      return absl::OkStatus();
    case StageVerb::kPullFailed:
      retries_.push_back({RealClock().NowNs() + kPollNs, slot, message});
      return absl::OkStatus();
    case StageVerb::kReplicaLost:
      retries_.push_back({RealClock().NowNs() + kPollNs, slot, message});
      return absl::OkStatus();
    case StageVerb::kHave:
      if (message.epoch == sequence(message.sequence).epoch) Restore(message);
      return absl::OkStatus();
    case StageVerb::kDropped:
      --drops_due_[static_cast<size_t>(slot)];
      result_.rows_from_peers += message.count;
      result_.rows_wrong += message.wrong;
      return absl::OkStatus();
    default:
      return absl::DataLossError(
          absl::StrCat("stage ", slot, " sent verb ", static_cast<uint32_t>(message.verb)));
  }
}

Status DejavuRun::OnDone(int slot, const StageMessage& message) {
  const uint32_t index = message.sequence;
  if (message.epoch != sequence(index).epoch) return absl::OkStatus();
  const auto found = std::find(roster_.begin(), roster_.end(), slot);
  if (found == roster_.end()) {
    return absl::InternalError(absl::StrCat("spare ", slot, " has worked"));
  }
  const auto stage = static_cast<int>(found - roster_.begin());
  if (!sequence(index).prompt_done) {
    OnPromptPart(index, stage, message.at_ns);
  } else if (stage + 1 < o_.stages) {
    Work(index, stage + 1, message.at_ns);
  } else {
    OnToken(index, message.at_ns);
  }
  return absl::OkStatus();
}

void DejavuRun::OnPromptPart(uint32_t index, int stage, TimeNs at_ns) {
  if (o_.split) PullPrompt(index, stage);
  if (stage < last_prompt_stage_) {
    Work(index, stage + 1, at_ns);
    return;
  }
  sequence(index).prompt_done = true;
  if (!o_.split) Begin(index, at_ns);
}

void DejavuRun::OnToken(uint32_t index, TimeNs at_ns) {
  Sequence& s = sequence(index);
  ++s.done;
  ++result_.tokens;
  if (s.done < s.tokens) {
    Begin(index, at_ns);
    return;
  }
  end_ns_ = RealClock().NowNs();
  s.in_flight = false;
  --in_flight_;
  ++finished_;
  Drop(index, first_token_stage_, stages_->count());
  if (!o_.split) {
    Admit(at_ns);
  } else if (next_ < ready_.size()) {
    AdmitReady(ready_[next_++]);
  }
}

void DejavuRun::Drop(uint32_t index, int first_slot, int end_slot) {
  for (int slot = first_slot; slot < end_slot; ++slot) {
    if (stages_->gone(slot)) continue;
    ++drops_due_[static_cast<size_t>(slot)];
    stages_->Send(slot, Order(StageVerb::kDrop, index));
  }
}

bool DejavuRun::DropsDue() const {
  return std::any_of(drops_due_.begin(), drops_due_.end(), [](int due) { return due > 0; });
}

void DejavuRun::Pull(uint32_t index, int to_stage, int from_stage, uint32_t space, uint32_t count) {
  StageMessage pull = Order(StageVerb::kPull, index);
  pull.space = space;
  pull.count = count;
  pull.peer = stages_->peer(SlotOf(from_stage));
  stages_->Send(SlotOf(to_stage), pull);
}

void DejavuRun::Replicate(uint32_t index, int stage) {
  StageMessage replicate = Order(StageVerb::kReplicate, index);
  replicate.space = 1 + static_cast<uint32_t>(stage);
  replicate.peer = stages_->peer(SlotOf(After(stage)));
  stages_->Send(SlotOf(stage), replicate);
}

// What a prompt stage has computed leaves at once, while the next prompt stage computes.
void DejavuRun::PullPrompt(uint32_t index, int prompt_stage) {
  const auto [first, end] = Share(prompt_stage, o_.split->prompt_machines);
  for (int t = 0; t < o_.split->token_machines; ++t) {
    const auto [token_first, token_end] = Share(t, o_.split->token_machines);
    const uint32_t from = std::max(first, token_first);
    const uint32_t to = std::min(end, token_end);
    if (from >= to) continue;
    StageMessage pull = Order(StageVerb::kPull, index);
    pull.first = from;
    pull.count = to - from;
    pull.peer = stages_->peer(SlotOf(prompt_stage));
    stages_->Send(SlotOf(first_token_stage_ + t), pull);
    ++sequence(index).pulls_due;
  }
}

void DejavuRun::OnPulled(int slot, const StageMessage& message) {
  const uint32_t index = message.sequence;
  Sequence& s = sequence(index);
  if (o_.split) {
    if (--s.pulls_due > 0 || !s.prompt_done) return;
    Drop(index, 0, first_token_stage_);
    if (in_flight_ < in_flight_max_) {
      AdmitReady(index);
    } else {
      ready_.push_back(index);
    }
    return;
  }
  const bool restored = s.restoring && message.epoch == s.epoch && recovering_stage_ >= 0 &&
                        slot == SlotOf(recovering_stage_) &&
                        message.space == 1 + static_cast<uint32_t>(recovering_stage_);
  if (!restored) return;
  result_.rows_restored += message.count;
  Resume(index, message.count);
}

void DejavuRun::AdmitReady(uint32_t index) {
  ++in_flight_;
  sequence(index).in_flight = true;
  Begin(index, RealClock().NowNs());
}

StatusOr<DejavuRunResult> DejavuRun::Run() {
  RETURN_IF_ERROR(StartStages());
  RunOnTime();
  StartLoad();
  TimeNs heard_ns = start_ns_;
  while (finished_ < sequences_.size() || DropsDue()) {
    RETURN_IF_ERROR(KillWhenDue());
    RetryTransfers();
    ASSIGN_OR_RETURN(const std::vector<DejavuStages::Event> events, stages_->Poll(kPollNs));
    if (!events.empty()) heard_ns = RealClock().NowNs();
    if (RealClock().NowNs() - heard_ns > kQuietMaxNs) {
      return absl::DeadlineExceededError(absl::StrCat("no stage spoke for ", kQuietMaxNs / kSecond,
                                                      " s; ", finished_, " of ", sequences_.size(),
                                                      " microbatches have ended"));
    }
    for (const DejavuStages::Event& event : events) {
      RETURN_IF_ERROR(event.message ? OnMessage(event.slot, *event.message) : OnGone(event.slot));
    }
  }
  if (kills_made_ < o_.kills.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the run ended after ", kills_made_, " of ", o_.kills.size(), " kills"));
  }
  result_.seconds = SecondsFromNs(end_ns_ - start_ns_);
  return result_;
}

StatusOr<DejavuRunResult> RunDejavu(const DejavuRunOptions& options) {
  return DejavuRun(options).Run();
}

}  // namespace reprise::bench
