#include "worker/engine/core/core.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace reprise::worker {
namespace {

constexpr double kPrefillKeep = 0.8;
constexpr double kSwapKeep = 0.8;
constexpr double kStepsKeep = 0.9;

// Adds its lifetime to a sum.
class Stopwatch {
 public:
  Stopwatch(const Clock* clock, TimeNs* sum)
      : clock_(clock), sum_(sum), start_ns_(clock == nullptr ? 0 : clock->NowNs()) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    if (clock_ != nullptr) *sum_ += clock_->NowNs() - start_ns_;
  }

 private:
  const Clock* const clock_;
  TimeNs* const sum_;
  const TimeNs start_ns_;
};

bool OfReplication(const Event& event) {
  return std::holds_alternative<RowsHeld>(event) || std::holds_alternative<RowsPacked>(event) ||
         std::holds_alternative<ReplicaLost>(event) || std::holds_alternative<LiveStores>(event);
}

}  // namespace

WorkerCore::WorkerCore(CoreSettings settings)
    : settings_(std::move(settings)),
      block_(settings_.chain.block_tokens),
      pool_(settings_.pages),
      cache_(settings_.pages),
      reads_(static_cast<size_t>(settings_.pages)),
      can_prefill_(settings_.can_prefill),
      can_decode_(settings_.can_decode),
      slots_(settings_.swap_host_slots, settings_.swap_disk_slots),
      swap_rate_(settings_.swap_bytes_per_s, kSwapKeep),
      decode_steps_(0, kStepsKeep),
      prefill_rate_(settings_.prefill_tokens_per_s, kPrefillKeep) {}

void WorkerCore::Handle(Event event, TimeNs now) {
  now_ = now;
  {
    const bool counts = OfReplication(event);
    const Stopwatch watch(counts ? settings_.stopwatch : nullptr, &stats_.replication_ns);
    const Stopwatch cpu_watch(counts ? settings_.cpu_stopwatch : nullptr,
                              &stats_.replication_cpu_ns);
    replicate_ |=
        !std::holds_alternative<RowsHeld>(event) && !std::holds_alternative<RowsPacked>(event);
    std::visit([this, now](auto& typed) { On(typed, now); }, event);
  }
  Settle(now);
  FlushEmits();
  ForgetOldFences();
}

// What follows from any event.
void WorkerCore::Settle(TimeNs now) {
  if (draining_) DrainRequests(now);
  if (std::exchange(replicate_, false)) {
    const Stopwatch watch(settings_.stopwatch, &stats_.replication_ns);
    const Stopwatch cpu_watch(settings_.cpu_stopwatch, &stats_.replication_cpu_ns);
    Replicate(now);
  }
  BringIn(now);
}

std::vector<Command> WorkerCore::TakeCommands() { return std::exchange(commands_, {}); }

Status WorkerCore::Validate(const std::vector<int32_t>& prompt, const SamplingParams& sampling,
                            bool decodes) const {
  const auto prompt_len = static_cast<int64_t>(prompt.size());
  if (prompt.empty()) return absl::InvalidArgumentError("the prompt is empty");
  if (prompt_len >= settings_.context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("prompt of ", prompt_len,
                                                   " tokens leaves no room in a context of ",
                                                   settings_.context_tokens, " tokens"));
  }
  for (const int32_t token : prompt) {
    if (token < 0 || token >= settings_.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "prompt token ", token, " is outside the vocabulary of ", settings_.vocab_size));
    }
  }
  if (sampling.n < 1 || sampling.n > limits::kBranchesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("n is ", sampling.n, ", the limit is ", limits::kBranchesMax));
  }
  if (sampling.max_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", sampling.max_tokens, ", at least 1 is needed"));
  }
  const int64_t rows =
      std::min<int64_t>(settings_.context_tokens, prompt_len + sampling.max_tokens) - 1;
  const int64_t shared = sampling.n > 1 ? Whole(prompt_len) : 0;
  const int64_t pages =
      decodes ? shared + sampling.n * (Covering(rows) - shared) : Covering(prompt_len);
  if (pages > settings_.pages) {
    return absl::InvalidArgumentError(absl::StrCat("the request may need ", pages, " KV pages of ",
                                                   block_, " tokens, the worker's pool has ",
                                                   settings_.pages));
  }
  return absl::OkStatus();
}

Status WorkerCore::ValidateResume(const Submit& event) const {
  if (!event.branches.empty() && event.branches.size() != static_cast<size_t>(event.sampling.n)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "resume names ", event.branches.size(), " branches, the request has ", event.sampling.n));
  }
  const size_t room = static_cast<size_t>(settings_.context_tokens) - event.prompt.size();
  for (const BranchResume& branch : event.branches) {
    const size_t limit = std::min(static_cast<size_t>(event.sampling.max_tokens), room);
    if (branch.emitted.size() > limit) {
      return absl::InvalidArgumentError(absl::StrCat("resume holds ", branch.emitted.size(),
                                                     " emitted tokens, the limit is ", limit));
    }
    for (const int32_t token : branch.emitted) {
      if (token < 0 || token >= settings_.vocab_size) {
        return absl::InvalidArgumentError(absl::StrCat(
            "emitted token ", token, " is outside the vocabulary of ", settings_.vocab_size));
      }
    }
  }
  return absl::OkStatus();
}

Status WorkerCore::CheckLoad(bool new_work, absl::string_view what) const {
  if (draining_) return absl::UnavailableError("the worker is draining");
  if (!new_work) return absl::OkStatus();
  if (waiting() >= settings_.waiting_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, " refused: ", waiting(), " requests wait, the limit waiting_max is ",
                     settings_.waiting_max, "; retry after ", settings_.retry_after_ms, " ms"));
  }
  return absl::OkStatus();
}

Status WorkerCore::Superseded(const RequestKey& key, const Attempt& by) {
  return absl::AbortedError(absl::StrCat("attempt ", key.attempt.owner_epoch, ".", key.attempt.n,
                                         " was superseded by ", by.owner_epoch, ".", by.n));
}

WorkerCore::Fence* WorkerCore::RaiseFence(const RequestKey& key) {
  const auto [entry, fresh] = fences_.try_emplace(key.id);
  Fence& fence = entry->second;
  if (fresh) {
    fence.attempt = key.attempt;
    ended_ids_.push_back(key.id);
    return &fence;
  }
  if (key.attempt < fence.attempt) {
    ++stats_.stale;
    return nullptr;
  }
  if (key.attempt > fence.attempt) {
    for (Request* lower : {fence.decode, fence.served_leg}) {
      if (lower) End(*lower, Superseded(lower->key, key.attempt), EndReason::kError);
    }
    ReleaseKeptLater(key.id);
    fence = Fence{.attempt = key.attempt};
  }
  return &fence;
}

void WorkerCore::ForgetOldFences() {
  for (size_t looked = ended_ids_.size(); fences_.size() > settings_.fences_max && looked > 0;
       --looked) {
    const auto entry = fences_.find(ended_ids_.front());
    if (entry->second.decode || entry->second.served_leg) {
      ended_ids_.push_back(ended_ids_.front());
    } else {
      fences_.erase(entry);
    }
    ended_ids_.pop_front();
  }
}

Request& WorkerCore::Add(std::unique_ptr<Request> request, bool new_work, TimeNs now) {
  request->rank = Rank{new_work, next_arrival_++};
  request->submitted_ns = now;
  request->emit.key = request->key;
  Request& added = *request;
  requests_.emplace(added.rank.arrival, std::move(request));
  waiting_.emplace(added.rank, &added);
  ++stats_.accepted;
  return added;
}

void WorkerCore::On(Submit& event, TimeNs now) {
  Fence* fence = RaiseFence(event.key);
  if (fence == nullptr) {
    return Refuse(event.key, Superseded(event.key, fences_.at(event.key.id).attempt));
  }
  if (std::exchange(fence->decode_seen, true)) {
    ++stats_.duplicates;
    return;
  }
  bool new_work = event.key.attempt.n <= 1;
  for (const BranchResume& branch : event.branches) new_work &= branch.emitted.empty();
  Status status = Validate(event.prompt, event.sampling, true);
  if (status.ok()) status = ValidateResume(event);
  if (status.ok()) status = CheckLoad(new_work, "request");
  if (status.ok() && !can_decode_) {
    status = absl::FailedPreconditionError("this worker does not decode");
  }
  if (!status.ok()) return Refuse(event.key, std::move(status));

  auto request = std::make_unique<Request>();
  request->key = std::move(event.key);
  request->prompt = std::move(event.prompt);
  request->sampling = std::move(event.sampling);
  request->sampling.max_tokens =
      std::min(request->sampling.max_tokens,
               settings_.context_tokens - static_cast<int32_t>(request->prompt.size()));
  request->prefill = std::move(event.prefill);
  request->sources = std::move(event.sources);
  request->tenant = std::move(event.tenant);
  request->deadline_ns = event.deadline_ns;
  request->alone = event.alone;
  request->resumed = !new_work;
  request->restore_from = std::move(event.replicas);
  request->resume_handle = std::move(event.resume_handle);
  request->resume_window_ns = event.resume_window_ns;
  request->branches.resize(static_cast<size_t>(request->sampling.n));
  SetReplicas(*request, event.stores, event.replica_stores);
  Request& added = Add(std::move(request), new_work, now);
  fence->decode = &added;
  for (size_t b = 0; b < added.branches.size(); ++b) {
    Branch& branch = added.branches[b];
    branch.tokens = added.prompt;
    if (event.branches.empty()) continue;
    const BranchResume& resume = event.branches[b];
    branch.tokens.insert(branch.tokens.end(), resume.emitted.begin(), resume.emitted.end());
    if (added.resume_window_ns > 0) {
      for (size_t i = 0; i < resume.emitted.size(); ++i) {
        const float logprob =
            resume.logprobs.empty() ? std::numeric_limits<float>::quiet_NaN() : resume.logprobs[i];
        branch.given.push_back({.id = resume.emitted[i], .logprob = logprob});
      }
    }
    branch.live = !resume.finished;
    if (!branch.live) {
      branch.end = ReasonToEnd(added, branch).value_or(EndReason::kStop);
      continue;
    }
    branch.known_rows = static_cast<int64_t>(branch.tokens.size()) - 1;
    // The attempt before may have died between a last token and saying that it was the last.
    if (const auto reason = ReasonToEnd(added, branch)) EndBranch(added, b, *reason);
  }
  if (added.resumed && event.branches.empty()) {
    for (Branch& branch : added.branches) branch.known_rows = added.prompt_len() - 1;
  }
  if (added.live_branches() == 0) return FinishIfAllEnded(added);
  AskReplicas(added);
}

Request* WorkerCore::FindDecode(const RequestKey& key) {
  const auto entry = fences_.find(key.id);
  if (entry == fences_.end() || entry->second.attempt != key.attempt) return nullptr;
  return entry->second.decode;
}

void WorkerCore::On(const Cancel& event, TimeNs) {
  Request* request = FindDecode(event.key);
  if (request == nullptr) {
    const auto kept = kept_.find(event.key.id);
    if (kept != kept_.end() && kept->second.key == event.key) DropKept(event.key.id, true);
    return;
  }
  const bool deadline = event.why == EndReason::kDeadline;
  End(*request,
      deadline ? absl::DeadlineExceededError("the request's deadline has passed")
               : absl::CancelledError("the request was cancelled"),
      deadline ? EndReason::kDeadline : EndReason::kCancelled);
}

void WorkerCore::On(const FetchDone& event, TimeNs now) {
  auto node = fetches_.extract(event.fetch);
  if (node.empty()) return;
  Fetch& fetch = node.mapped();
  const auto ok = std::count_if(event.items.begin(), event.items.end(),
                                [](const Status& status) { return status.ok(); });
  if (fetch.swap) {
    TakeSwapped(fetch, event, now);
  } else if (!fetch.subscribed) {
    LoadOf(fetch.source).End(event.fetch, ok * settings_.row_bytes * block_, now);
  }
  if (fetch.owner == nullptr) {
    for (const FetchedBlock& block : fetch.blocks) pool_.Quiet(block.item.page);
    return;
  }
  Request& request = *fetch.owner;
  --request.fetches_open;
  bool leg_lost = false;
  for (size_t i = 0; i < fetch.blocks.size(); ++i) {
    if (i < event.items.size() && event.items[i].ok()) {
      stats_.fetch_hits += !fetch.swap;
      request.arrived.push_back(fetch.blocks[i]);
    } else {
      stats_.fetch_misses += !fetch.swap;
      leg_lost |= fetch.blocks[i].from_leg;
      // A page that waits to be put into a branch's table.
      if (request.forked) ReleasePage(fetch.blocks[i].item.page);
    }
  }
  if (leg_lost && request.awaiting_leg()) LegFailed(request, now);
  ResolveIfArrived(request, now);
}

void WorkerCore::On(const PageQuiet& event, TimeNs) { pool_.Quiet(event.page); }

void WorkerCore::On(const Tick&, TimeNs now) {
  std::vector<Request*> late;
  const auto due = [now](TimeNs at) { return at != 0 && at <= now; };
  for (const auto& [arrival, request] : requests_) {
    if (request->phase == Phase::kEnded) continue;
    if (due(request->deadline_ns) || due(request->leg_deadline_ns) ||
        due(request->orphan_until_ns)) {
      late.push_back(request.get());
    }
  }
  for (Request* request : late) {
    if (request->phase == Phase::kLingering || due(request->deadline_ns)) {
      End(*request, absl::DeadlineExceededError("the request's deadline has passed"),
          EndReason::kDeadline);
    } else if (due(request->orphan_until_ns)) {
      ++stats_.windows_over;
      request->orphan_until_ns = 0;
      End(*request, absl::CancelledError("nobody came back within the resume window"),
          EndReason::kCancelled);
    } else {
      LegFailed(*request, now);
    }
  }
  ExpireKept(now);
  CheckStores(now);
  RetellSilent(now);
}

void WorkerCore::On(const SetRoles& event, TimeNs) {
  can_prefill_ = event.prefill;
  can_decode_ = event.decode;
}

std::optional<TimeNs> WorkerCore::NextTick() const {
  std::optional<TimeNs> next = NextReplicaTick();
  const auto consider = [&next](TimeNs at) {
    if (at != 0 && (!next || at < *next)) next = at;
  };
  bool moving = false;
  for (const auto& [arrival, request] : requests_) {
    if (request->phase == Phase::kEnded) continue;
    consider(request->deadline_ns);
    consider(request->leg_deadline_ns);
    consider(request->orphan_until_ns);
    moving |= Frozen(*request) && !request->in_step;
    if (draining_) consider(drain_deadline_ns_);
  }
  for (const auto& [id, kept] : kept_) consider(kept.until_ns);
  if (!releases_.empty()) consider(releases_.begin()->first);
  if (moving) consider(drain_flushed_ns_);
  if (draining_ && unheard_ > 0) consider(drain_deadline_ns_);
  return next;
}

int64_t WorkerCore::queued_prefill_tokens() const {
  int64_t tokens = 0;
  for (const auto& [rank, request] : waiting_) {
    tokens += static_cast<int64_t>(request->prompt.size());
  }
  for (const auto& [rank, request] : running_) {
    // What a remote leg computes is queued there.
    const bool elsewhere = request->phase == Phase::kFetching || request->phase == Phase::kParked;
    if (elsewhere || request->forked) continue;
    tokens += request->trunk_len - request->branches[request->lead].computed;
  }
  return tokens;
}

std::vector<RequestKey> WorkerCore::Decoding() const {
  std::vector<RequestKey> keys;
  for (const auto& [arrival, request] : requests_) {
    if (!request->is_leg && request->phase != Phase::kEnded) keys.push_back(request->key);
  }
  return keys;
}

}  // namespace reprise::worker
