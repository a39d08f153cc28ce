#include "worker/parallel/group_member.h"

#include <algorithm>
#include <utility>

namespace reprise::parallel {

Status LinkState::Fail(const Status& cause) {
  MutexLock lock(mu);
  if (status.ok()) status = cause;
  changed.NotifyAll();
  return status;
}

GroupMember::GroupMember(const Options& options, std::shared_ptr<LinkState> state)
    : options_(options), state_(std::move(state)) {
  for (int peer = 0; peer < size(); ++peer) {
    if (peer != rank()) channels_.try_emplace(peer, rank(), peer, this);
  }
}

// ---- Connections. ----

void GroupMember::Attach(int peer, kv::EndpointId endpoint) {
  endpoints_[peer] = endpoint;
  if (++attached_ + 1 < static_cast<size_t>(size())) return;
  MutexLock lock(state_->mu);
  state_->joined = true;
  state_->changed.NotifyAll();
}

void GroupMember::Drop(int peer) {
  const auto endpoint = endpoints_.extract(peer);
  if (!endpoint.empty()) options_.close(endpoint.mapped());
}

void GroupMember::DropAll() {
  while (!endpoints_.empty()) Drop(endpoints_.begin()->first);
}

void GroupMember::OnEndpointFailed(int peer, const Status& status) {
  endpoints_.erase(peer);
  if (dead_ || leaving_ || channels_.at(peer).peer_left()) return;
  Fail(absl::UnavailableError(
      absl::StrCat("rank ", rank(), " lost rank ", peer, ": ", status.message())));
}

TimeNs GroupMember::OnWake(TimeNs now_ns) {
  if (suspicion_at_ns_ <= now_ns) {
    suspicion_at_ns_ = INT64_MAX;
    Fail(suspicion_);
  }
  if (drop_at_ns_ <= now_ns) {
    drop_at_ns_ = INT64_MAX;
    DropAll();
  }
  return std::min(suspicion_at_ns_, drop_at_ns_);
}

// ---- Calls. ----

void GroupMember::Start(BatchId id, const Batch& batch) {
  for (const Incoming& in : batch.in) {
    if (!dead_) channels_.at(in.from).PostReceive(batch.tag, in.data, id);
  }
  for (const Outgoing& out : batch.out) {
    if (!dead_) channels_.at(out.to).PostSend(batch.tag, out.data, id);
  }
}

void GroupMember::Finished(BatchId batch) {
  MutexLock lock(state_->mu);
  const auto found = state_->unfinished.find(batch);
  if (--found->second > 0) return;
  state_->unfinished.erase(found);
  state_->changed.NotifyAll();
}

void GroupMember::Expire(BatchId batch) {
  std::string missing;
  for (const auto& [peer, channel] : channels_) {
    if (channel.WaitsIn(batch)) absl::StrAppend(&missing, missing.empty() ? "" : ", ", peer);
  }
  if (missing.empty()) return;
  Fail(absl::DeadlineExceededError(
      absl::StrCat("rank ", rank(), " waited in vain for ranks ", missing)));
}

void GroupMember::ExpireJoin() {
  std::string missing;
  for (const auto& [peer, channel] : channels_) {
    if (!attached(peer)) absl::StrAppend(&missing, missing.empty() ? "" : ", ", peer);
  }
  if (missing.empty()) return;
  Fail(absl::DeadlineExceededError(
      absl::StrCat("rank ", rank(), " waited in vain for ranks ", missing, " to join")));
}

void GroupMember::Fail(const Status& cause) {
  if (std::exchange(dead_, true)) return;
  const Status first = state_->Fail(cause);
  for (const auto& [peer, endpoint] : endpoints_) {
    Emit(peer, wire::Abort{first.code(), std::string(first.message())});
  }
  drop_at_ns_ = options_.transport->NowNs() + kFarewellNs;
  ReportQuiet();
}

void GroupMember::Leave() {
  if (dead_) return;
  leaving_ = true;
  drop_at_ns_ = options_.transport->NowNs() + kLeaveNs;
  for (const auto& [peer, channel] : channels_) {
    if (channel.peer_left()) {
      Drop(peer);
    } else if (attached(peer)) {
      Emit(peer, wire::Bye{});
    }
  }
}

void GroupMember::ReportQuiet() {
  if (!dead_ || operations_ > 0) return;
  MutexLock lock(state_->mu);
  state_->quiet = true;
  state_->changed.NotifyAll();
}

// ---- Messages. ----

void GroupMember::Emit(int peer, wire::Message message) {
  const auto endpoint = endpoints_.find(peer);
  if (endpoint == endpoints_.end()) return;
  options_.transport->Send(endpoint->second, wire::Encode({key(), std::move(message)}));
}

void GroupMember::EmitBulk(int peer, uint64_t sequence, std::span<const uint8_t> payload) {
  const auto endpoint = endpoints_.find(peer);
  if (endpoint == endpoints_.end()) return;
  ++operations_;
  options_.transport->SendBulk(endpoint->second, wire::EncodeBulk({key(), sequence}), payload,
                               [self = shared_from_this(), peer, sequence](const Status& status) {
                                 if (status.ok()) self->channels_.at(peer).OnBulkSent(sequence);
                                 self->OperationEnded(peer, status);
                               });
}

kv::Sink GroupMember::OnBulk(int peer, uint64_t sequence, size_t bytes) {
  if (dead_) return {};
  uint8_t* destination = channels_.at(peer).OnBulk(sequence, bytes);
  if (destination == nullptr) return {};
  ++operations_;
  return {destination, [self = shared_from_this(), peer, sequence](const Status& status) {
            if (status.ok()) self->channels_.at(peer).OnBulkReceived(sequence);
            self->OperationEnded(peer, status);
          }};
}

void GroupMember::OperationEnded(int peer, const Status& status) {
  --operations_;
  if (!status.ok() && !dead_ && suspicion_at_ns_ == INT64_MAX) {
    suspicion_ = absl::UnavailableError(
        absl::StrCat("rank ", rank(), " and rank ", peer, " lost a payload: ", status.message()));
    suspicion_at_ns_ = options_.transport->NowNs() + kFarewellNs;
  }
  ReportQuiet();
}

void GroupMember::OnMessage(int peer, wire::Message message) {
  PeerChannel& channel = channels_.at(peer);
  if (const auto* abort = std::get_if<wire::Abort>(&message)) {
    Drop(peer);
    if (!leaving_) Fail(Status(abort->code, abort->message));
    return;
  }
  if (std::holds_alternative<wire::Bye>(message)) {
    if (!dead_) channel.OnBye();
    if (dead_ || leaving_) Drop(peer);
    return;
  }
  if (dead_ || leaving_) return;
  if (auto* data = std::get_if<wire::Data>(&message)) {
    channel.OnData(std::move(*data));
  } else if (const auto* ready = std::get_if<wire::Ready>(&message)) {
    channel.OnReady(*ready);
  } else if (const auto* consumed = std::get_if<wire::Consumed>(&message)) {
    channel.OnConsumed(consumed->sequence);
  } else {
    Fail(absl::InvalidArgumentError(absl::StrCat("rank ", peer, " greets twice")));
  }
}

}  // namespace reprise::parallel
