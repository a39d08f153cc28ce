#include "worker/parallel/in_process.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "worker/parallel/linked_communicator.h"

namespace reprise::parallel {

class InProcessLink final : public PeerLink {
 public:
  InProcessLink(InProcessGroup* group, int rank) : group_(group), rank_(rank) {}
  ~InProcessLink() override { group_->Leave(rank_); }
  int rank() const override { return rank_; }
  int size() const override { return group_->size_; }
  Status status() const override { return group_->status(); }
  BatchId Start(Batch batch) override { return group_->Start(rank_, batch); }
  bool Done(BatchId batch) const override { return group_->Done(batch); }
  Status Wait(BatchId batch, TimeNs deadline_ns) override {
    return group_->Wait(rank_, batch, deadline_ns);
  }
  void Fail(const Status& cause) override { group_->Fail(cause); }

 private:
  InProcessGroup* const group_;
  const int rank_;
};

std::unique_ptr<Communicator> InProcessGroup::MakeCommunicator(int rank) {
  return std::make_unique<LinkedCommunicator>(MakeLink(rank));
}

std::unique_ptr<PeerLink> InProcessGroup::MakeLink(int rank) {
  return std::make_unique<InProcessLink>(this, rank);
}

BatchId InProcessGroup::Start(int rank, const Batch& batch) {
  MutexLock lock(mu_);
  const BatchId id = next_batch_++;
  const size_t messages = batch.out.size() + batch.in.size();
  if (messages == 0 || !status_.ok()) return id;
  unfinished_[id] = messages;
  for (const Outgoing& out : batch.out) {
    CountSent(rank);
    pairs_[{rank, out.to}].sent.push_back({batch.tag, out.data, id});
    Match(rank, out.to);
  }
  for (const Incoming& in : batch.in) {
    pairs_[{in.from, rank}].awaited.push_back({batch.tag, in.data, id});
    Match(in.from, rank);
  }
  return id;
}

void InProcessGroup::Match(int from, int to) {
  Pair& pair = pairs_[{from, to}];
  while (status_.ok() && !pair.sent.empty() && !pair.awaited.empty()) {
    const Sent sent = pair.sent.front();
    const Awaited awaited = pair.awaited.front();
    if (sent.tag != awaited.tag || sent.data.size() != awaited.data.size()) {
      FailLocked(
          Disagreement(from, sent.tag, sent.data.size(), to, awaited.tag, awaited.data.size()));
      return;
    }
    if (!sent.data.empty()) {
      std::memcpy(awaited.data.data(), sent.data.data(), sent.data.size());
    }
    pair.sent.pop_front();
    pair.awaited.pop_front();
    Finish(sent.batch);
    Finish(awaited.batch);
  }
  FailIfLeft(from, to);
}

void InProcessGroup::KillAfter(int rank, int messages) {
  MutexLock lock(mu_);
  kill_after_[rank] = messages;
  if (messages == 0) CountSent(rank);
}

void InProcessGroup::CountSent(int rank) {
  const auto found = kill_after_.find(rank);
  if (found == kill_after_.end() || found->second-- > 0) return;
  FailLocked(absl::UnavailableError(absl::StrCat("rank ", rank, " died")));
}

void InProcessGroup::FailIfLeft(int from, int to) {
  const Pair& pair = pairs_[{from, to}];
  if (!pair.awaited.empty() && left_[from]) {
    FailLocked(absl::UnavailableError(absl::StrCat("rank ", from, " has left")));
  }
  if (!pair.sent.empty() && left_[to]) {
    FailLocked(absl::UnavailableError(absl::StrCat("rank ", to, " has left")));
  }
}

void InProcessGroup::Finish(BatchId batch) {
  const auto found = unfinished_.find(batch);
  if (--found->second > 0) return;
  unfinished_.erase(found);
  changed_.NotifyAll();
}

bool InProcessGroup::Done(BatchId batch) const {
  MutexLock lock(mu_);
  return status_.ok() && !unfinished_.contains(batch);
}

Status InProcessGroup::Wait(int rank, BatchId batch, TimeNs deadline_ns) {
  MutexLock lock(mu_);
  while (status_.ok() && unfinished_.contains(batch)) {
    const TimeNs left_ns = deadline_ns - RealClock().NowNs();
    if (left_ns <= 0) {
      FailLocked(absl::DeadlineExceededError(
          absl::StrCat("rank ", rank, ": ", unfinished_[batch], " messages are still due")));
      break;
    }
    changed_.WaitFor(mu_, std::chrono::nanoseconds(std::min(left_ns, kMinute)));
  }
  return status_;
}

void InProcessGroup::FailLocked(const Status& cause) {
  if (!status_.ok()) return;
  status_ = cause;
  changed_.NotifyAll();
}

void InProcessGroup::Fail(const Status& cause) {
  MutexLock lock(mu_);
  FailLocked(cause);
}

Status InProcessGroup::status() const {
  MutexLock lock(mu_);
  return status_;
}

void InProcessGroup::Leave(int rank) {
  MutexLock lock(mu_);
  left_[rank] = true;
  for (int peer = 0; peer < size_; ++peer) {
    FailIfLeft(rank, peer);
    FailIfLeft(peer, rank);
  }
}

}  // namespace reprise::parallel
