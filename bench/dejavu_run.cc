#include "bench/dejavu_run.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "bench/dejavu_stages.h"

namespace reprise::bench {
namespace {

constexpr TimeNs kPollNs = 20 * kMillisecond;
constexpr TimeNs kQuietMaxNs = 60 * kSecond;  // without a word from any stage: something is stuck

TimeNs NsFromSeconds(double seconds) { return static_cast<TimeNs>(seconds * kSecond); }

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

  Sequence& sequence(uint32_t index) { return sequences_[index]; }
  StageMessage Order(StageVerb verb, uint32_t index) const;
  uint32_t RowsOf(uint32_t index) const;

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
  // A split's prompt rows: stage x of n holds [x, x + 1) * rows / n.
  std::pair<uint32_t, uint32_t> Share(int stage, int of) const;
  void PullPrompt(uint32_t index, int prompt_stage);
  void OnPulled(int slot, const StageMessage& message);
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
  int in_flight_ = 0;
  size_t finished_ = 0;
  int64_t drops_due_ = 0;
  TimeNs start_ns_ = 0;
  TimeNs end_ns_ = 0;
  size_t kills_made_ = 0;
  TimeNs killed_ns_ = 0;
  int recovering_stage_ = -1;
  int restores_due_ = 0;
  DejavuRunResult result_;
};

StageMessage DejavuRun::Order(StageVerb verb, uint32_t index) const {
  return {.verb = verb, .epoch = sequences_[index].epoch, .sequence = index};
}

uint32_t DejavuRun::RowsOf(uint32_t index) const {
  return static_cast<uint32_t>(o_.prompt_rows + sequences_[index].tokens);
}

Status DejavuRun::StartStages() {
  const int longest = *std::max_element(o_.new_tokens.begin(), o_.new_tokens.end());
  StageOptions stage;
  stage.rows_max = o_.prompt_rows + longest;
  stage.row_bytes = o_.row_bytes;
  stage.swap_bytes_per_s = o_.swap_bytes_per_s;
  stage.swap_sequences = o_.swap_bytes_per_s > 0 ? o_.stages : 0;
  const int processes = o_.stages + static_cast<int>(o_.kills.size());
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
  stages_->Send(roster_[static_cast<size_t>(stage)], run);
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
    case StageVerb::kHave:
      if (message.epoch == sequence(message.sequence).epoch) Restore(message);
      return absl::OkStatus();
    case StageVerb::kDropped:
      --drops_due_;
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
    ++drops_due_;
    stages_->Send(slot, Order(StageVerb::kDrop, index));
  }
}

void DejavuRun::Pull(uint32_t index, int to_stage, int from_stage, uint32_t space, uint32_t count) {
  StageMessage pull = Order(StageVerb::kPull, index);
  pull.space = space;
  pull.count = count;
  pull.peer = stages_->peer(roster_[static_cast<size_t>(from_stage)]);
  stages_->Send(roster_[static_cast<size_t>(to_stage)], pull);
}

void DejavuRun::Replicate(uint32_t index, int stage) {
  Pull(index, (stage + 1) % o_.stages, stage, 1 + static_cast<uint32_t>(stage), RowsOf(index));
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
    pull.peer = stages_->peer(roster_[static_cast<size_t>(prompt_stage)]);
    stages_->Send(roster_[static_cast<size_t>(first_token_stage_ + t)], pull);
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
                        slot == roster_[static_cast<size_t>(recovering_stage_)] &&
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

Status DejavuRun::KillWhenDue() {
  if (kills_made_ == o_.kills.size()) return absl::OkStatus();
  const DejavuKill& kill = o_.kills[kills_made_];
  const TimeNs now_ns = RealClock().NowNs();
  const bool due = kill.after_tokens > 0 ? sequence(0).done >= kill.after_tokens
                                         : now_ns - start_ns_ >= NsFromSeconds(kill.at_s);
  if (!due) return absl::OkStatus();
  if (recovering_stage_ >= 0) {
    return absl::FailedPreconditionError("a kill came before the one before it was recovered");
  }
  ++kills_made_;
  killed_ns_ = now_ns;
  return stages_->Kill(roster_[static_cast<size_t>(kill.stage)]);
}

// The broken socket is the notice; the spare takes the stage's place.
Status DejavuRun::OnGone(int slot) {
  const auto found = std::find(roster_.begin(), roster_.end(), slot);
  if (found == roster_.end() || spares_.empty() || kills_made_ == result_.detect_s.size()) {
    return absl::UnavailableError(absl::StrCat("stage process ", slot, " ended by itself"));
  }
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
    stages_->Send(roster_[static_cast<size_t>((recovering_stage_ + 1) % o_.stages)], query);
  }
  return absl::OkStatus();
}

// `have.count` rows of the dead stage are at its neighbour: the microbatch's watermark.
void DejavuRun::Restore(const StageMessage& have) {
  if (have.count == 0) {
    Resume(have.sequence, 0);
    return;
  }
  Pull(have.sequence, recovering_stage_, (recovering_stage_ + 1) % o_.stages, have.space,
       have.count);
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
  if (o_.replicate) {
    Replicate(index, recovering_stage_);
    Replicate(index, (recovering_stage_ + o_.stages - 1) % o_.stages);
  }
  if (--restores_due_ == 0) EndRecovery();
}

void DejavuRun::EndRecovery() {
  result_.recover_s.push_back(SecondsFromNs(RealClock().NowNs() - killed_ns_));
  recovering_stage_ = -1;
}

StatusOr<DejavuRunResult> DejavuRun::Run() {
  RETURN_IF_ERROR(StartStages());
  StartLoad();
  TimeNs heard_ns = start_ns_;
  while (finished_ < sequences_.size() || drops_due_ > 0) {
    RETURN_IF_ERROR(KillWhenDue());
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

}  // namespace

StatusOr<DejavuRunResult> RunDejavu(const DejavuRunOptions& options) {
  return DejavuRun(options).Run();
}

}  // namespace reprise::bench
