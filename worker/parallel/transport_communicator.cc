// The calling thread's side of the transport's back end: posts to the loop, waits on LinkState.
#include <algorithm>
#include <chrono>
#include <utility>

#include "worker/parallel/group_host.h"
#include "worker/parallel/linked_communicator.h"

namespace reprise::parallel {
namespace {

// Waits until done() holds or, after a failure, all is quiet; `expire` is called once when the
// deadline passes, and then makes one of the two true.
template <typename Done, typename Expire>
Status Await(LinkState& state, TimeNs deadline_ns, Done done, Expire expire) {
  bool expired = false;
  for (;;) {
    {
      MutexLock lock(state.mu);
      for (;;) {
        if (!state.status.ok() && state.quiet) return state.status;
        if (state.status.ok() && done(state)) return absl::OkStatus();
        const TimeNs left_ns = deadline_ns - RealClock().NowNs();
        if (left_ns <= 0 && !expired && state.status.ok()) break;
        if (expired || !state.status.ok()) {
          state.changed.Wait(state.mu);
        } else {
          state.changed.WaitFor(state.mu, std::chrono::nanoseconds(std::min(left_ns, kMinute)));
        }
      }
    }
    expired = true;
    expire();
  }
}

class TransportLink final : public PeerLink {
 public:
  TransportLink(kv::Transport* transport, std::shared_ptr<GroupMember> member,
                std::shared_ptr<LinkState> state)
      : transport_(transport),
        member_(std::move(member)),
        state_(std::move(state)),
        rank_(member_->rank()),
        size_(member_->size()) {}
  ~TransportLink() override {
    bool unfinished;
    {
      MutexLock lock(state_->mu);
      unfinished = !state_->unfinished.empty() || !state_->status.ok();
    }
    if (unfinished) {
      Fail(absl::UnavailableError(absl::StrCat("rank ", rank_, " has left in mid exchange")));
      Wait(kNoBatch, INT64_MAX).IgnoreError();
    } else {
      transport_->Post([member = member_] { member->Leave(); });
    }
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Status status() const override {
    MutexLock lock(state_->mu);
    return state_->status;
  }
  BatchId Start(Batch batch) override {
    const BatchId id = next_batch_++;
    const size_t messages = batch.out.size() + batch.in.size();
    if (messages == 0) return id;
    {
      MutexLock lock(state_->mu);
      state_->unfinished[id] = messages;
    }
    transport_->Post(
        [member = member_, id, batch = std::move(batch)] { member->Start(id, batch); });
    return id;
  }
  bool Done(BatchId batch) const override {
    MutexLock lock(state_->mu);
    return state_->status.ok() && !state_->unfinished.contains(batch);
  }
  Status Wait(BatchId batch, TimeNs deadline_ns) override {
    return Await(
        *state_, deadline_ns,
        [batch](LinkState& state)
            NO_THREAD_SAFETY_ANALYSIS { return !state.unfinished.contains(batch); },
        [&] { transport_->Post([member = member_, batch] { member->Expire(batch); }); });
  }
  void Fail(const Status& cause) override {
    const Status first = state_->Fail(cause);
    transport_->Post([member = member_, first] { member->Fail(first); });
  }

 private:
  kv::Transport* const transport_;
  const std::shared_ptr<GroupMember> member_;
  const std::shared_ptr<LinkState> state_;
  const int rank_;
  const int size_;
  BatchId next_batch_ = kNoBatch + 1;
};

}  // namespace

StatusOr<std::unique_ptr<Communicator>> GroupHost::Join(const GroupSpec& spec, TimeNs deadline_ns,
                                                        std::stop_token stop) {
  ASSIGN_OR_RETURN(auto link, JoinLink(spec, deadline_ns, std::move(stop)));
  return std::make_unique<LinkedCommunicator>(std::move(link));
}

StatusOr<std::unique_ptr<PeerLink>> GroupHost::JoinLink(const GroupSpec& spec, TimeNs deadline_ns,
                                                        std::stop_token stop) {
  RETURN_IF_ERROR(Check(spec));
  const auto state = std::make_shared<LinkState>();
  const auto member = std::make_shared<GroupMember>(
      GroupMember::Options{.key = {spec.group, spec.epoch},
                           .rank = spec.rank,
                           .size = static_cast<int>(spec.addresses.size()),
                           .transport = transport_.get(),
                           .close = [this](kv::EndpointId endpoint) { Close(endpoint); }},
      state);
  transport_->Post([this, member, spec] { Begin(member, spec); });
  const std::stop_callback on_stop(std::move(stop), [&] {
    const Status first = state->Fail(
        absl::AbortedError(absl::StrCat("rank ", spec.rank, " was told to stop joining")));
    transport_->Post([member, first] { member->Fail(first); });
  });
  const bool alone = spec.addresses.size() == 1;
  RETURN_IF_ERROR(Await(
      *state, deadline_ns,
      [alone](LinkState& joining) NO_THREAD_SAFETY_ANALYSIS { return joining.joined || alone; },
      [&] { transport_->Post([member] { member->ExpireJoin(); }); }));
  return std::make_unique<TransportLink>(transport_.get(), member, state);
}

}  // namespace reprise::parallel
