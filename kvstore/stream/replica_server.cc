#include "kvstore/stream/replica_server.h"

#include <algorithm>
#include <utility>

#include "common/bytes.h"
#include "common/failpoint.h"
#include "common/limits.h"

namespace reprise::kv {
namespace {

constexpr size_t kIdleStagingBytesMax = size_t{32} << 20;

}  // namespace

ReplicaServer::ReplicaServer(const LaneContext& context, TailSink* sink,
                             std::function<void(const RequestKey&)> note_attempt)
    : context_(context),
      sink_(sink),
      note_attempt_(std::move(note_attempt)),
      pool_(kIdleStagingBytesMax) {}

StatusOr<ReplicaServer::Peer*> ReplicaServer::Known(EndpointId endpoint, const NodeKey& key) {
  const LatestConnections::Word word = latest_.Heard(key, endpoint);
  if (word == LatestConnections::Word::kReplaced) {
    return absl::AbortedError(absl::StrCat(key.name, " has a later connection"));
  }
  if (word == LatestConnections::Word::kReplaces && sink_ != nullptr) sink_->OnPeerLost(key);
  std::unique_ptr<Peer>& peer = peers_[endpoint];
  if (peer == nullptr) {
    peer = std::make_unique<Peer>();
    peer->endpoint = endpoint;
    peer->key = key;
  }
  return peer.get();
}

// ---- Receiving. ----

Status ReplicaServer::CheckSizes(const wire::Append& message) const {
  size_t rows = 0;
  for (const TailEntry& entry : message.entries) {
    if (entry.tokens.size() > context_.block_tokens) {
      return absl::InvalidArgumentError(absl::StrCat("an append entry has ", entry.tokens.size(),
                                                     " rows, a block has ", context_.block_tokens));
    }
    rows += entry.tokens.size();
  }
  const size_t bytes = message.bulk_bytes > 0 ? message.bulk_bytes : message.rows.size();
  if (bytes == rows * context_.packed_row_bytes()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      rows, " rows take ", rows * context_.packed_row_bytes(), " bytes, an append has ", bytes));
}

void ReplicaServer::Stage(Peer& peer, size_t bytes) {
  peer.staged_bytes += bytes;
  staged_bytes_ += bytes;
  context_.counters->append_staged_bytes.store(staged_bytes_, std::memory_order_relaxed);
}

void ReplicaServer::Unstage(Peer& peer, Incoming& incoming) {
  const size_t bulk_bytes = incoming.append.bulk_bytes;
  size_t bytes = incoming.append.rows.size();
  if (incoming.staged.has_value()) {
    pool_.Give(*std::move(incoming.staged));
    bytes = bulk_bytes;
  }
  peer.staged_bytes -= bytes;
  staged_bytes_ -= bytes;
  context_.counters->append_staged_bytes.store(staged_bytes_, std::memory_order_relaxed);
}

Status ReplicaServer::OnAppend(EndpointId endpoint, const NodeKey& key, wire::Append message) {
  ASSIGN_OR_RETURN(Peer* const known, Known(endpoint, key));
  Peer& peer = *known;
  RETURN_IF_ERROR(CheckSizes(message));
  if (message.append_id != peer.last_append + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("append ", message.append_id, " follows append ", peer.last_append));
  }
  if (!peer.queue.empty() && peer.queue.back().state == Incoming::State::kAnnounced) {
    return absl::InvalidArgumentError("an append's rows were announced and not sent");
  }
  if (peer.queue.size() >= limits::kAppendsPerPeerMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("more than ", limits::kAppendsPerPeerMax, " appends are unanswered"));
  }
  peer.last_append = message.append_id;
  context_.counters->appends_received.fetch_add(1, std::memory_order_relaxed);
  Incoming incoming;
  incoming.append = std::move(message);
  if (incoming.append.bulk_bytes > 0) incoming.state = Incoming::State::kAnnounced;
  if (sink_ == nullptr)
    incoming.refused = absl::FailedPreconditionError("this node keeps no tails");
  Stage(peer, incoming.append.rows.size());
  peer.queue.push_back(std::move(incoming));
  Drain(peer);
  return absl::OkStatus();
}

StatusOr<Sink> ReplicaServer::OnBulk(EndpointId endpoint, const wire::AppendBulk& bulk,
                                     size_t bytes) {
  const auto found = peers_.find(endpoint);
  Peer* peer = found == peers_.end() ? nullptr : found->second.get();
  if (peer == nullptr || peer->queue.empty() ||
      peer->queue.back().state != Incoming::State::kAnnounced ||
      peer->queue.back().append.append_id != bulk.append_id ||
      peer->queue.back().append.bulk_bytes != bytes ||
      bulk.receiver_incarnation != context_.self.incarnation) {
    return absl::InvalidArgumentError("a payload that no append announced");
  }
  Incoming& incoming = peer->queue.back();
  if (incoming.refused.ok() && (peer->staged_bytes + bytes > limits::kAppendBytesPerPeerMax ||
                                staged_bytes_ + bytes > limits::kAppendStagingBytesMax)) {
    incoming.refused = absl::ResourceExhaustedError("no room to receive an append");
  }
  if (incoming.refused.ok()) {
    StatusOr<StagingPool::Buffer> staged = pool_.Take(bytes);
    incoming.refused = staged.status();
    if (staged.ok()) incoming.staged = *std::move(staged);
  }
  if (!incoming.refused.ok()) {
    incoming.state = Incoming::State::kReady;
    Drain(*peer);
    return Sink{};
  }
  incoming.state = Incoming::State::kReceiving;
  Stage(*peer, bytes);
  ++peer->receiving;
  return Sink{incoming.staged->data(), [this, endpoint, id = bulk.append_id](const Status& status) {
                OnReceived(endpoint, id, status);
              }};
}

void ReplicaServer::OnReceived(EndpointId endpoint, uint64_t append_id, const Status& status) {
  Peer& peer = *peers_.at(endpoint);  // kept while it receives
  Incoming& incoming = *std::find_if(
      peer.queue.begin(), peer.queue.end(),
      [append_id](const Incoming& candidate) { return candidate.append.append_id == append_id; });
  --peer.receiving;
  incoming.state = Incoming::State::kReady;
  if (!status.ok()) incoming.refused = Annotate(status, "an append did not arrive");
  Drain(peer);
  ForgetIfQuiet(endpoint);
}

// ---- Taking. ----

std::vector<HeldRows> ReplicaServer::Take(const Peer& peer, const Incoming& incoming) {
  const wire::Append& append = incoming.append;
  std::vector<HeldRows> held;
  if (!incoming.refused.ok()) {
    for (const TailEntry& entry : append.entries) {
      held.push_back({entry.request, entry.branch, 0, incoming.refused});
    }
    return held;
  }
  for (const TailEntry& entry : append.entries) note_attempt_(entry.request);
  const auto rows = incoming.staged.has_value()
                        ? std::span<const uint8_t>(incoming.staged->data(), append.bulk_bytes)
                        : AsBytes(append.rows);
  held = sink_->OnAppend(peer.key, append.entries, rows);
  context_.counters->append_bytes_received.fetch_add(rows.size(), std::memory_order_relaxed);
  for (const HeldRows& entry : held) {
    if (absl::IsAborted(entry.status)) {
      context_.counters->stale_refused.fetch_add(1, std::memory_order_relaxed);
    } else if (absl::IsDataLoss(entry.status)) {
      context_.counters->checksum_failures.fetch_add(1, std::memory_order_relaxed);
    }
  }
  return held;
}

void ReplicaServer::Drain(Peer& peer) {
  while (!peer.queue.empty() && peer.queue.front().state == Incoming::State::kReady) {
    Incoming incoming = std::move(peer.queue.front());
    peer.queue.pop_front();
    // Rows that arrive whole after their owner has left, or come back, would make it one again.
    if (!peer.gone && latest_.Of(peer.key) == peer.endpoint) {
      std::vector<HeldRows> held = Take(peer, incoming);
      std::move(held.begin(), held.end(), std::back_inserter(peer.held));
      peer.answered = incoming.append.append_id;
      to_tell_.insert(peer.endpoint);
    }
    Unstage(peer, incoming);
  }
}

Status ReplicaServer::OnRelease(const NodeKey& peer, const wire::Release& message) {
  if (message.request.id.empty()) return absl::InvalidArgumentError("a release of no request");
  note_attempt_(message.request);
  if (sink_ != nullptr) sink_->OnRelease(peer, message.request);
  return absl::OkStatus();
}

Status ReplicaServer::OnQuery(EndpointId endpoint, const NodeKey& key,
                              const wire::QueryTails& message) {
  if (message.request.id.empty()) return absl::InvalidArgumentError("a query of no request");
  RETURN_IF_ERROR(Known(endpoint, key).status());
  note_attempt_(message.request);
  StatusOr<std::vector<TailState>> states =
      absl::FailedPreconditionError("this node keeps no tails");
  if (sink_ != nullptr) states = sink_->OnQuery(key, message.request);
  wire::TailStates answer{.query_id = message.query_id,
                          .code = states.status().code(),
                          .message = std::string(states.status().message()),
                          .states = {}};
  if (states.ok()) answer.states = *std::move(states);
  if (absl::IsAborted(states.status())) {
    context_.counters->stale_refused.fetch_add(1, std::memory_order_relaxed);
  }
  context_.Send(endpoint, key.incarnation, std::move(answer));
  return absl::OkStatus();
}

Status ReplicaServer::OnOffered(EndpointId endpoint, const NodeKey& peer) {
  return Known(endpoint, peer).status();
}

void ReplicaServer::OnFetch(const RequestKey& request) {
  if (sink_ != nullptr && !request.id.empty()) sink_->OnFence(request);
}

// ---- Connections and answers. ----

void ReplicaServer::OnGone(EndpointId endpoint) {
  const auto found = peers_.find(endpoint);
  if (found == peers_.end()) return;
  Peer& peer = *found->second;
  peer.gone = true;
  to_tell_.erase(endpoint);
  // What is not complete now never will be; receives are waited for.
  std::erase_if(peer.queue, [&](Incoming& incoming) {
    if (incoming.state == Incoming::State::kReceiving) return false;
    Unstage(peer, incoming);
    return true;
  });
  if (latest_.Ended(peer.key, endpoint) && sink_ != nullptr) sink_->OnPeerLost(peer.key);
  ForgetIfQuiet(endpoint);
}

void ReplicaServer::ForgetIfQuiet(EndpointId endpoint) {
  const auto found = peers_.find(endpoint);
  if (found->second->gone && found->second->receiving == 0) peers_.erase(found);
}

void ReplicaServer::TellHeld(const NodeKey& owner, std::vector<HeldRows> held) {
  const std::optional<uint64_t> latest = latest_.Of(owner);
  if (!latest) return;
  Peer& peer = *peers_.at(*latest);
  std::move(held.begin(), held.end(), std::back_inserter(peer.held));
  to_tell_.insert(peer.endpoint);
}

void ReplicaServer::Flush() {
  for (const EndpointId endpoint : std::exchange(to_tell_, {})) SendHeld(*peers_.at(endpoint));
}

void ReplicaServer::SendHeld(Peer& peer) {
  wire::Held message{.answered = peer.answered, .entries = {}};
  for (HeldRows& held : std::exchange(peer.held, {})) {
    // Of several good words in a row about one sequence the last says it all.
    if (held.status.ok() && !message.entries.empty()) {
      wire::Held::Entry& last = message.entries.back();
      if (last.code == absl::StatusCode::kOk && last.branch == held.branch &&
          last.request == held.request) {
        last.rows = held.rows;
        continue;
      }
    }
    if (message.entries.size() == limits::kHeldEntriesMax) {
      // Appends count as answered with the last part.
      context_.Send(peer.endpoint, peer.key.incarnation,
                    wire::Held{.answered = 0, .entries = std::exchange(message.entries, {})});
    }
    message.entries.push_back(
        {std::move(held.request), held.branch, held.rows, held.status.code()});
  }
  context_.Send(peer.endpoint, peer.key.incarnation, std::move(message));
  Failpoint("store.append.ack");
}

}  // namespace reprise::kv
