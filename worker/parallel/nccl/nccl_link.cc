#include "worker/parallel/nccl/nccl_link.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace reprise::parallel {
void ReportStuck(const NcclOptions& options, int rank) {
  const std::string why =
      absl::StrCat("rank ", rank, ": NCCL has not let go of its memory for ",
                   options.quiet_patience_ns / kMillisecond, " ms after an abort");
  if (options.on_stuck) return options.on_stuck(why);
  std::fprintf(stderr, "%s\n", why.c_str());
  std::abort();
}

NcclLink::NcclLink(NcclDevice* device, std::unique_ptr<PeerLink> control,
                   std::unique_ptr<NcclComm> comm, const NcclOptions& options)
    : device_(device),
      options_(options),
      control_(std::move(control)),
      comm_(std::move(comm)),
      transfer_(device_, comm_.get()),
      agreement_(control_.get()),
      thread_("nccl-rank", [this] { Run(); }) {}

NcclLink::~NcclLink() {
  MutexLock lock(mu_);
  if (!unfinished_.empty()) {
    control_->Fail(
        absl::UnavailableError(absl::StrCat("rank ", rank(), " has left in mid exchange")));
  }
  leaving_ = true;
  Poke();
  AwaitQuiet();
}

// ---- The caller's side. ----

BatchId NcclLink::Start(Batch batch) {
  const BatchId id = next_batch_++;
  Due due{.items = 0, .tag = batch.tag, .bytes = 0};
  for (const Outgoing& out : batch.out) due.bytes += out.data.size();
  for (const Incoming& in : batch.in) due.bytes += in.data.size();
  MutexLock lock(mu_);
  if (batch.tag.op != Op::kPointToPoint) {
    due.items = 1;
    posted_.push_back(
        {id, batch.tag, PostKind::kCollective, std::move(batch.out), std::move(batch.in)});
  } else {
    due.items = batch.out.size() + batch.in.size();
    for (const Outgoing& out : batch.out) {
      posted_.push_back({id, batch.tag, PostKind::kSend, {out}, {}});
    }
    for (const Incoming& in : batch.in) {
      posted_.push_back({id, batch.tag, PostKind::kReceive, {}, {in}});
    }
  }
  if (due.items > 0) unfinished_[id] = due;
  Poke();
  return id;
}

bool NcclLink::Done(BatchId batch) const {
  MutexLock lock(mu_);
  return control_->status().ok() && !unfinished_.contains(batch);
}

Status NcclLink::Wait(BatchId batch, TimeNs deadline_ns) {
  MutexLock lock(mu_);
  for (;;) {
    const Status failed = control_->status();
    if (!failed.ok()) {
      Poke();
      AwaitQuiet();
      return failed;
    }
    const auto due = unfinished_.find(batch);
    if (due == unfinished_.end()) return absl::OkStatus();
    const TimeNs left_ns = deadline_ns - RealClock().NowNs();
    if (left_ns <= 0) {
      control_->Fail(WaitedInVain(due->second));
      continue;
    }
    changed_.WaitFor(mu_, std::chrono::nanoseconds(std::min(left_ns, kMinute)));
  }
}

Status NcclLink::WaitedInVain(const Due& due) const {
  return absl::DeadlineExceededError(
      absl::StrCat("rank ", rank(), " waited in vain in ", Describe(due.tag, due.bytes)));
}

void NcclLink::AwaitQuiet() {
  const TimeNs until_ns =
      RealClock().NowNs() + options_.leave_patience_ns + options_.quiet_patience_ns;
  bool told = false;
  while (!ended_) {
    const TimeNs left_ns = until_ns - RealClock().NowNs();
    if (left_ns > 0) {
      changed_.WaitFor(mu_, std::chrono::nanoseconds(left_ns));
      continue;
    }
    if (!std::exchange(told, true)) {
      mu_.Unlock();
      ReportStuck(options_, rank());
      mu_.Lock();
      continue;
    }
    changed_.Wait(mu_);
  }
}

void NcclLink::Poke() {
  poked_ = true;
  poke_.NotifyAll();
}

void NcclLink::Fail(const Status& cause) {
  control_->Fail(cause);
  MutexLock lock(mu_);
  Poke();
}

// ---- The thread's side. ----

void NcclLink::Run() {
  Backoff backoff;
  for (;;) {
    const StatusOr<bool> moved = Step();
    if (!moved.ok()) {
      control_->Fail(moved.status());
      break;
    }
    if (left_ && agreement_.MayLeave()) break;
    if (*moved) {
      backoff.Reset();
      continue;
    }
    const bool watching = rank() == 0 || left_ || transfer_.busy() || !waiting_.empty();
    MutexLock lock(mu_);
    if (poked_) continue;
    if (watching) {
      poke_.WaitFor(mu_, std::chrono::nanoseconds(backoff.Next()));
    } else {
      poke_.Wait(mu_);
    }
  }
  Retire();
}

StatusOr<bool> NcclLink::Step() {
  RETURN_IF_ERROR(control_->status());
  std::deque<Item> posted;
  bool leaving;
  {
    MutexLock lock(mu_);
    posted.swap(posted_);
    leaving = leaving_;
    poked_ = false;
  }
  for (Item& item : posted) RETURN_IF_ERROR(Post(std::move(item)));
  if (leaving) RETURN_IF_ERROR(Leave());
  ASSIGN_OR_RETURN(const auto numbers, agreement_.Poll());
  for (const uint64_t number : numbers) {
    auto item = waiting_.extract(number);
    if (item.empty()) {
      return absl::InternalError(absl::StrCat("rank ", rank(), " is told to begin ", number));
    }
    ready_.push_back(std::move(item.mapped()));
  }
  ASSIGN_OR_RETURN(const bool advanced, Advance());
  return advanced || !posted.empty() || !numbers.empty();
}

Status NcclLink::Post(Item item) {
  // The first step of a call is the agreement on all of it.
  if (item.tag.step > 0) {
    ready_.push_back(std::move(item));
    return absl::OkStatus();
  }
  const uint64_t number = next_number_++;
  CallPost post{.number = number,
                .kind = item.kind,
                .tag = item.tag,
                .peer = 0,
                .bytes = 0,
                .sends = {},
                .receives = {}};
  if (item.kind == PostKind::kCollective) {
    post.sends.resize(static_cast<size_t>(size()));
    post.receives.resize(static_cast<size_t>(size()));
    for (const Outgoing& out : item.out) post.sends[static_cast<size_t>(out.to)] = out.data.size();
    for (const Incoming& in : item.in) post.receives[static_cast<size_t>(in.from)] = in.data.size();
  } else if (item.kind == PostKind::kSend) {
    post.peer = item.out[0].to;
    post.bytes = item.out[0].data.size();
  } else {
    post.peer = item.in[0].from;
    post.bytes = item.in[0].data.size();
  }
  waiting_[number] = std::move(item);
  return agreement_.Post(post);
}

Status NcclLink::Leave() {
  const TimeNs now_ns = RealClock().NowNs();
  if (!std::exchange(left_, true)) {
    leave_by_ns_ = now_ns + options_.leave_patience_ns;
    return agreement_.SayBye();
  }
  if (now_ns < leave_by_ns_ || agreement_.MayLeave()) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("rank ", rank(), " has left", rank() == 0 ? ", which orders the calls" : ""));
}

StatusOr<bool> NcclLink::Advance() {
  bool moved = false;
  if (!moving_.empty()) {
    RETURN_IF_ERROR(transfer_.Poll());
    if (transfer_.busy()) return false;
    Finish();
    moved = true;
  }
  if (ready_.empty()) return moved;
  // All of it as one group: an interval of the order of all ranks.
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
  for (const Item& item : ready_) {
    out.insert(out.end(), item.out.begin(), item.out.end());
    in.insert(in.end(), item.in.begin(), item.in.end());
    moving_.push_back(item.batch);
  }
  ready_.clear();
  RETURN_IF_ERROR(transfer_.Begin(out, in));
  return true;
}

void NcclLink::Finish() {
  MutexLock lock(mu_);
  for (const BatchId batch : std::exchange(moving_, {})) {
    const auto due = unfinished_.find(batch);
    if (--due->second.items == 0) unfinished_.erase(due);
  }
  changed_.NotifyAll();
}

void NcclLink::Retire() {
  comm_->Abort();
  // A stream that reports an error has ended, too.
  comm_->Quiesce().IgnoreError();
  if (!control_->status().ok()) control_->Wait(kNoBatch, INT64_MAX).IgnoreError();
  MutexLock lock(mu_);
  ended_ = true;
  changed_.NotifyAll();
}

}  // namespace reprise::parallel
