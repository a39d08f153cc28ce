#include "kvstore/stream/replica_client.h"

#include <algorithm>
#include <utility>

#include "common/limits.h"

namespace reprise::kv {

// ---- Sending. ----

PeerLink* ReplicaClient::Open(const PeerAddress& store, Status* status) {
  if (ended_) {
    *status = absl::CancelledError("the stream shuts down");
    return nullptr;
  }
  const StatusOr<PeerLink*> link = links_.Open(store);
  if (!link.ok()) {
    *status = link.status();
    return nullptr;
  }
  (*link)->in_use = true;
  replicas_.try_emplace(*link);
  return *link;
}

void ReplicaClient::TellLost(const NodeKey& store, const Status& status) {
  if (ended_) return;
  context_.counters->replicas_lost.fetch_add(1, std::memory_order_relaxed);
  if (on_lost_) on_lost_(store, status);
}

void ReplicaClient::Answer(const NodeKey& store, const TailAppend& append, const Status& status) {
  std::vector<HeldRows> held;
  held.reserve(append.entries.size());
  for (const TailEntry& entry : append.entries) {
    held.push_back(
        {.request = entry.request, .branch = entry.branch, .rows = -1, .status = status});
  }
  if (on_held_) on_held_(store, std::move(held));
}

Status ReplicaClient::CheckAppend(const TailAppend& append) const {
  if (append.entries.empty() || append.entries.size() > limits::kAppendEntriesMax) {
    return absl::InvalidArgumentError(absl::StrCat("an append has 1 to ", limits::kAppendEntriesMax,
                                                   " entries, found ", append.entries.size()));
  }
  size_t rows = 0;
  for (const TailEntry& entry : append.entries) {
    if (entry.request.id.empty() || entry.request.id.size() > limits::kRequestIdBytesMax ||
        entry.tokens.empty() || entry.tokens.size() > context_.block_tokens ||
        entry.first_position < 0 || entry.branch >= limits::kBranchesMax ||
        entry.tenant_salt.size() > limits::kTenantSaltBytesMax || entry.prompt_end < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "an append entry of request ", entry.request.id, " is outside the stream's limits"));
    }
    rows += entry.tokens.size();
  }
  const size_t expected = rows * context_.packed_row_bytes();
  const size_t found = append.rows == nullptr ? 0 : append.rows->bytes().size();
  if (found != expected || found > limits::kAppendBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(rows, " rows take ", expected, " bytes, found ",
                                                   found, ", the limit is ",
                                                   limits::kAppendBytesMax));
  }
  return absl::OkStatus();
}

void ReplicaClient::Append(const PeerAddress& store, TailAppend append) {
  if (const Status fits = CheckAppend(append); !fits.ok()) {
    Answer(store.key, append, fits);
    return;
  }
  Status status;
  PeerLink* link = Open(store, &status);
  if (link == nullptr) {
    TellLost(store.key, status);
    return;
  }
  Replica& replica = replicas_.at(link);
  const size_t bytes = append.rows->bytes().size();
  if (replica.unanswered.size() >= limits::kAppendsPerPeerMax ||
      replica.unanswered_bytes + bytes > limits::kAppendBytesPerPeerMax) {
    Answer(store.key, append,
           absl::ResourceExhaustedError(absl::StrCat(
               replica.unanswered.size(), " appends of ", replica.unanswered_bytes, " bytes to ",
               store.key.name, " are unanswered, the limit is ", limits::kAppendBytesPerPeerMax)));
    return;
  }
  replica.holds_replicas = true;
  wire::Append message{
      .append_id = ++replica.last_append, .entries = std::move(append.entries), .rows = {}};
  Outgoing outgoing{.message = {}, .append_id = message.append_id, .payload = nullptr};
  if (bytes <= limits::kAppendInlineBytesMax) {
    const auto rows = append.rows->bytes();
    message.rows.assign(reinterpret_cast<const char*>(rows.data()), rows.size());
  } else {
    message.bulk_bytes = static_cast<uint32_t>(bytes);
    outgoing.payload = std::move(append.rows);
  }
  outgoing.message = wire::Encode({store.key.incarnation, std::move(message)});
  replica.unanswered.push_back({outgoing.append_id, bytes});
  replica.unanswered_bytes += bytes;
  context_.counters->appends_sent.fetch_add(1, std::memory_order_relaxed);
  if (replica.unanswered.size() == 1) WatchSilence(*link);
  Send(*link, std::move(outgoing));
}

bool ReplicaClient::Queue(PeerLink& link, wire::Message message) {
  if (!link.ready &&
      replicas_.at(&link).waiting.size() >= limits::kQueuedOffersMax + limits::kAppendsPerPeerMax) {
    return false;
  }
  Outgoing outgoing;
  outgoing.message = wire::Encode({link.address.key.incarnation, std::move(message)});
  Send(link, std::move(outgoing));
  return true;
}

void ReplicaClient::Send(PeerLink& link, Outgoing outgoing) {
  if (link.ready) {
    Post(link.endpoint, std::move(outgoing));
  } else {
    replicas_.at(&link).waiting.push_back(std::move(outgoing));
  }
}

void ReplicaClient::Post(EndpointId endpoint, Outgoing outgoing) {
  context_.transport->Send(endpoint, std::move(outgoing.message));
  if (outgoing.payload == nullptr) return;
  const std::span<const uint8_t> rows = outgoing.payload->bytes();
  const PeerLink* link = links_.Find(endpoint);
  ++posted_[endpoint];
  posted_bytes_ += rows.size();
  context_.counters->append_posted_bytes.store(posted_bytes_, std::memory_order_relaxed);
  context_.transport->SendBulk(
      endpoint, wire::EncodeAppendBulk({outgoing.append_id, link->address.key.incarnation}), rows,
      [this, endpoint, bytes = rows.size(), payload = std::move(outgoing.payload)](
          const Status& status) { OnPosted(endpoint, bytes, status); });
}

void ReplicaClient::OnPosted(EndpointId endpoint, size_t bytes, const Status& status) {
  posted_bytes_ -= bytes;
  context_.counters->append_posted_bytes.store(posted_bytes_, std::memory_order_relaxed);
  if (status.ok()) {
    context_.counters->append_bytes_sent.fetch_add(bytes, std::memory_order_relaxed);
  }
  if (--posted_[endpoint] > 0) return;
  posted_.erase(endpoint);
  if (abandoned_.erase(endpoint) > 0) context_.transport->Close(endpoint);
}

void ReplicaClient::Offer(const PeerAddress& peer, BlockOffer offer) {
  const bool replicates = offer.branch.has_value();
  Status status;
  PeerLink* link = Open(peer, &status);
  if (link == nullptr) {
    if (replicates) TellLost(peer.key, status);
    return;
  }
  if (replicates) replicas_.at(link).holds_replicas = true;
  Queue(*link, wire::Offer{.offer = std::move(offer)});
}

void ReplicaClient::Release(const PeerAddress& store, const RequestKey& request) {
  Status status;
  if (PeerLink* link = Open(store, &status)) Queue(*link, wire::Release{request});
}

// ---- Queries. ----

void ReplicaClient::Query(const PeerAddress& store, const RequestKey& request, TimeNs deadline_ns,
                          QueryDone done) {
  Status status;
  PeerLink* link = Open(store, &status);
  if (link == nullptr) {
    done(status, {});
    return;
  }
  const uint64_t id = ++last_query_;
  if (queries_.size() >= limits::kTailQueriesMax ||
      !Queue(*link, wire::QueryTails{.query_id = id, .request = request})) {
    done(
        absl::ResourceExhaustedError(absl::StrCat(queries_.size(), " tail queries are unanswered")),
        {});
    return;
  }
  PendingQuery& query = queries_[id];
  query.link = link;
  query.done = std::move(done);
  query.deadline = context_.timers->At(deadline_ns, [this, id, name = store.key.name] {
    AnswerQuery(id, absl::DeadlineExceededError(absl::StrCat(name, " has not answered in time")),
                {});
  });
}

void ReplicaClient::AnswerQuery(uint64_t query_id, const Status& status,
                                std::vector<TailState> states) {
  auto node = queries_.extract(query_id);
  context_.timers->Cancel(node.mapped().deadline);
  node.mapped().done(status, std::move(states));
}

void ReplicaClient::Handle(PeerLink& link, wire::TailStates message) {
  const auto found = queries_.find(message.query_id);
  if (found == queries_.end() || found->second.link != &link) return;  // too late
  AnswerQuery(message.query_id, Status(message.code, message.message), std::move(message.states));
}

// ---- Answers. ----

void ReplicaClient::WatchSilence(PeerLink& link) {
  Replica& replica = replicas_.at(&link);
  context_.timers->Cancel(replica.silence);
  if (replica.unanswered.empty()) return;
  replica.silence = context_.timers->Judge(context_.Now(), kAppendAnswerTimeoutNs, [this, &link] {
    Abandon(link, absl::UnavailableError(
                      absl::StrCat(link.address.key.name, " left an append unanswered for ",
                                   kAppendAnswerTimeoutNs / kMillisecond, " ms")));
  });
}

void ReplicaClient::Handle(PeerLink& link, const wire::Held& message) {
  Replica& replica = replicas_.at(&link);
  if (message.answered > replica.last_append) {
    OnMalformed(link.endpoint, absl::InvalidArgumentError("an append never sent is answered"));
    return;
  }
  bool answered = false;
  while (!replica.unanswered.empty() && replica.unanswered.front().append_id <= message.answered) {
    replica.unanswered_bytes -= replica.unanswered.front().bytes;
    replica.unanswered.pop_front();
    answered = true;
  }
  if (answered) WatchSilence(link);
  std::vector<HeldRows> held;
  held.reserve(message.entries.size());
  for (const wire::Held::Entry& entry : message.entries) {
    Status status;
    if (entry.code != absl::StatusCode::kOk) {
      status = Status(entry.code, absl::StrCat("at ", link.address.key.name));
    }
    held.push_back({entry.request, entry.branch, entry.rows, std::move(status)});
  }
  if (!held.empty() && on_held_) on_held_(link.address.key, std::move(held));
}

void ReplicaClient::OnMessage(EndpointId endpoint, const wire::Envelope& envelope) {
  PeerLink* link = links_.Find(endpoint);
  if (link == nullptr) return;  // abandoned
  const wire::Message& message = envelope.message;
  if (const auto* refusal = std::get_if<wire::Refusal>(&message)) {
    const auto code =
        refusal->code == absl::StatusCode::kOk ? absl::StatusCode::kUnavailable : refusal->code;
    Abandon(*link, Status(code, refusal->message));
  } else if (envelope.receiver_incarnation != context_.self.incarnation) {
    context_.counters->stale_refused.fetch_add(1, std::memory_order_relaxed);
    Abandon(*link, absl::UnavailableError("it answers an earlier incarnation of this node"));
  } else if (const auto* welcome = std::get_if<wire::Welcome>(&message)) {
    links_.OnWelcome(*link, *welcome);
  } else if (!link->ready) {
    OnMalformed(endpoint, absl::InvalidArgumentError("a message before the handshake"));
  } else if (const auto* held = std::get_if<wire::Held>(&message)) {
    Handle(*link, *held);
  } else if (const auto* states = std::get_if<wire::TailStates>(&message)) {
    Handle(*link, *states);
  } else {
    OnMalformed(endpoint, absl::InvalidArgumentError("not an answer to a replicating node"));
  }
}

void ReplicaClient::OnMalformed(EndpointId endpoint, const Status& status) {
  context_.counters->malformed_refused.fetch_add(1, std::memory_order_relaxed);
  if (PeerLink* link = links_.Find(endpoint)) {
    Abandon(*link, absl::UnavailableError(status.message()));
  }
}

// ---- Links. ----

void ReplicaClient::OnLinkUp(PeerLink& link) {
  std::deque<Outgoing> waiting = std::exchange(replicas_.at(&link).waiting, {});
  for (Outgoing& outgoing : waiting) Post(link.endpoint, std::move(outgoing));
}

void ReplicaClient::OnLinkDown(PeerLink& link, const Status& status) {
  auto replica = replicas_.extract(&link);
  if (!replica.empty()) context_.timers->Cancel(replica.mapped().silence);
  std::vector<uint64_t> unanswered;
  for (const auto& [id, query] : queries_) {
    if (query.link == &link) unanswered.push_back(id);
  }
  for (const uint64_t id : unanswered) AnswerQuery(id, status, {});
  if (!replica.empty() && replica.mapped().holds_replicas) TellLost(link.address.key, status);
}

void ReplicaClient::Abandon(PeerLink& link, const Status& status) {
  const EndpointId endpoint = link.endpoint;
  if (posted_.contains(endpoint)) {
    abandoned_.insert(endpoint);
    links_.Detach(link, status);
  } else {
    links_.Drop(link, status);
  }
}

void ReplicaClient::OnFailed(EndpointId endpoint, const Status& status) {
  if (PeerLink* link = links_.Find(endpoint)) {
    links_.Drop(*link, status);
  } else {
    abandoned_.erase(endpoint);
  }
}

void ReplicaClient::EndAll() {
  ended_ = true;
  while (!queries_.empty()) {
    AnswerQuery(queries_.begin()->first, absl::CancelledError("the stream shuts down"), {});
  }
}

void ReplicaClient::CloseLinks() {
  ended_ = true;
  while (PeerLink* link = links_.AnyOpen()) {
    links_.Drop(*link, absl::CancelledError("the stream shuts down"));
  }
  for (const EndpointId endpoint : abandoned_) context_.transport->Close(endpoint);
  abandoned_.clear();
}

}  // namespace reprise::kv
