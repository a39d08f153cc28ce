#include "kvstore/stream/fetch_server.h"

#include <algorithm>
#include <utility>

#include "common/random.h"

namespace reprise::kv {
namespace {

constexpr TimeNs kHelloTimeoutNs = 5 * kSecond;
constexpr TimeNs kCloseAfterRefusalNs = kSecond;
// Beyond its own deadline a client that still lives has cancelled; this only catches frozen ones.
constexpr TimeNs kDeadlineGraceNs = 5 * kSecond;
// Runs of about this size stay in the second-level cache between transfer and verification.
constexpr size_t kRunBytesMax = size_t{1} << 20;
// Segments whose heads' sums are remembered: some MiB.
constexpr size_t kHeadSumsMax = 16'384;
// Of the memory for gathered runs, kept for the next ones.
constexpr size_t kGatheredIdleBytesMax = size_t{16} << 20;

// Of the layers that are ready, those that may be sent.
uint32_t Sendable(const SegmentSource::Block& block, uint32_t layers_ready) {
  if (!block.summed) return layers_ready;
  return static_cast<uint32_t>(std::min<size_t>(layers_ready, block.checksums.size()));
}

}  // namespace

FetchServer::FetchServer(const LaneContext& context, const FetchServerOptions& options,
                         SegmentSource* source, TailSink* tails)
    : context_(context),
      options_(options),
      source_(source),
      // A throttled link delivers layer by layer, as a slow link would.
      run_bytes_max_(options.throttle_bytes_per_s > 0 ? 0 : kRunBytesMax),
      peer_bytes_max_(options.inflight_bytes_max / 8),
      pacer_(options.throttle_bytes_per_s),
      replicas_(context, tails, [this](const RequestKey& request) { NoteAttempt(request); }),
      probe_id_(ProbeId(context.self.incarnation)),
      head_sums_(FormatOfPart(context.format, context.part), kHeadSumsMax),
      gathered_(std::make_shared<RowsPool>(kGatheredIdleBytesMax)) {}

// ---- Connections. ----

void FetchServer::OnAccepted(EndpointId endpoint) {
  if (connections_.size() >= limits::kPeersMax) {
    context_.transport->Close(endpoint);
    return;
  }
  auto connection = std::make_unique<Connection>();
  connection->endpoint = endpoint;
  connection->timer =
      context_.timers->Judge(context_.Now(), kHelloTimeoutNs, [this, c = connection.get()] {
        Refuse(*c, absl::DeadlineExceededError("no hello came in time"));
      });
  connections_[endpoint] = std::move(connection);
  context_.counters->peers.fetch_add(1, std::memory_order_relaxed);
}

void FetchServer::OnMessage(EndpointId endpoint, wire::Envelope envelope) {
  Connection& connection = *connections_.at(endpoint);
  if (connection.refused || connection.dead) return;
  wire::Message& message = envelope.message;
  if (const auto* hello = std::get_if<wire::Hello>(&message)) {
    Handle(connection, *hello);
  } else if (!connection.welcomed) {
    OnMalformed(endpoint, absl::InvalidArgumentError("a message before the handshake"));
  } else if (envelope.receiver_incarnation != context_.self.incarnation) {
    context_.counters->stale_refused.fetch_add(1, std::memory_order_relaxed);
    Refuse(connection, absl::FailedPreconditionError("a message for another incarnation"));
  } else if (const auto* fetch = std::get_if<wire::Fetch>(&message)) {
    Handle(connection, *fetch);
  } else if (const auto* cancel = std::get_if<wire::Cancel>(&message)) {
    Handle(connection, *cancel);
  } else if (auto* offer = std::get_if<wire::Offer>(&message)) {
    Handle(connection, std::move(*offer));
  } else if (const auto taken = HandleReplica(connection, message); taken.has_value()) {
    if (!taken->ok()) OnMalformed(endpoint, *taken);
  } else {
    OnMalformed(endpoint, absl::InvalidArgumentError("a message only the serving side sends"));
  }
}

std::optional<Status> FetchServer::HandleReplica(const Connection& connection,
                                                 wire::Message& message) {
  if (auto* append = std::get_if<wire::Append>(&message)) {
    if (!connection.same_format) {
      return absl::FailedPreconditionError("rows are taken in this node's own format only");
    }
    return replicas_.OnAppend(connection.endpoint, connection.peer, std::move(*append));
  }
  if (const auto* release = std::get_if<wire::Release>(&message)) {
    return replicas_.OnRelease(connection.peer, *release);
  }
  if (const auto* query = std::get_if<wire::QueryTails>(&message)) {
    return replicas_.OnQuery(connection.endpoint, connection.peer, *query);
  }
  return std::nullopt;
}

Sink FetchServer::OnBulk(EndpointId endpoint, const BulkHeader& header, size_t bytes) {
  const Connection& connection = *connections_.at(endpoint);
  if (connection.refused || connection.dead) return {};
  StatusOr<Sink> sink = absl::InvalidArgumentError("a payload before the handshake");
  if (connection.welcomed) {
    sink = replicas_.OnBulk(endpoint, wire::DecodeAppendBulk(header), bytes);
  }
  if (sink.ok()) return *std::move(sink);
  OnMalformed(endpoint, sink.status());
  return {};
}

void FetchServer::Handle(Connection& connection, const wire::Hello& hello) {
  if (connection.welcomed) {
    OnMalformed(connection.endpoint, absl::InvalidArgumentError("a second hello"));
    return;
  }
  connection.peer = hello.self;
  Status fits = CheckFormat(context_, hello.format);
  if (hello.version != wire::kProtocolVersion) {
    fits = absl::FailedPreconditionError(absl::StrCat("protocol version ", wire::kProtocolVersion,
                                                      " here, ", hello.version, " there"));
  } else if (hello.wanted != context_.self) {
    context_.counters->stale_refused.fetch_add(1, std::memory_order_relaxed);
    fits = absl::FailedPreconditionError(
        absl::StrCat("this is ", context_.self.name, "/", context_.self.incarnation, ", not ",
                     hello.wanted.name, "/", hello.wanted.incarnation));
  }
  if (!fits.ok()) {
    Refuse(connection, fits);
    return;
  }
  context_.timers->Cancel(connection.timer);
  connection.welcomed = true;
  connection.same_format = hello.format == context_.format_text;
  context_.Send(connection.endpoint, connection.peer.incarnation,
                wire::Welcome{.self = context_.self, .format = context_.format_text});
}

void FetchServer::OnMalformed(EndpointId endpoint, const Status& status) {
  context_.counters->malformed_refused.fetch_add(1, std::memory_order_relaxed);
  Refuse(*connections_.at(endpoint), status);
}

void FetchServer::Refuse(Connection& connection, const Status& status) {
  if (connection.refused || connection.dead) return;
  connection.refused = true;
  context_.timers->Cancel(connection.timer);
  context_.Send(connection.endpoint, connection.peer.incarnation,
                wire::Refusal{status.code(), std::string(status.message())});
  replicas_.OnGone(connection.endpoint);
  EndFetches([&](const Fetch& fetch) { return fetch.connection == &connection; }, absl::OkStatus());
  // The peer closes when it reads the refusal; one that does not is closed here.
  connection.timer = context_.timers->At(context_.Now() + kCloseAfterRefusalNs,
                                         [this, &connection] { CloseWhenQuiet(connection); });
}

void FetchServer::CloseWhenQuiet(Connection& connection) {
  if (connection.posted_bytes > 0) {
    connection.timer = context_.timers->At(context_.Now() + kCloseAfterRefusalNs,
                                           [this, &connection] { CloseWhenQuiet(connection); });
    return;
  }
  context_.transport->Close(connection.endpoint);
  OnFailed(connection.endpoint);
}

void FetchServer::OnFailed(EndpointId endpoint) {
  Connection& connection = *connections_.at(endpoint);
  if (connection.dead) return;
  context_.timers->Cancel(connection.timer);
  context_.counters->peers.fetch_sub(1, std::memory_order_relaxed);
  replicas_.OnGone(connection.endpoint);
  EndFetches([&](const Fetch& fetch) { return fetch.connection == &connection; }, absl::OkStatus());
  connection.dead = true;  // last: from here on the end of its last fetch forgets it
  ForgetIfQuiet(connection);
}

void FetchServer::ForgetIfQuiet(Connection& connection) {
  if (connection.dead && connection.fetches == 0) connections_.erase(connection.endpoint);
}

// ---- Fetches. ----

Status FetchServer::Admit(const Connection& connection, const wire::Fetch& message) {
  if (connection.fetches >= limits::kFetchesPerPeerMax) {
    return absl::UnavailableError(absl::StrCat("one peer may have ", limits::kFetchesPerPeerMax,
                                               " fetches, it has ", connection.fetches));
  }
  // Whoever probes asks for what it holds itself, and gets as much.
  if (IsProbe(message)) RETURN_IF_ERROR(CheckPart(context_.format, message.part));
  if (!IsProbe(message) && !context_.part.Contains(message.part)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "asked for ", message.part.ToString(), ", this node holds ", context_.part.ToString()));
  }
  if (NoteAttempt(message.request) != Fences::Verdict::kStale) {
    replicas_.OnFetch(message.request);
    return absl::OkStatus();
  }
  context_.counters->stale_refused.fetch_add(1, std::memory_order_relaxed);
  return absl::FailedPreconditionError(
      absl::StrCat("request ", message.request.id, " has a later attempt than (",
                   message.request.attempt.owner_epoch, ", ", message.request.attempt.n, ")"));
}

void FetchServer::Handle(Connection& connection, const wire::Fetch& message) {
  const FetchKey key{connection.endpoint, message.fetch_id};
  if (fetches_.contains(key)) {
    OnMalformed(connection.endpoint, absl::InvalidArgumentError("a fetch id is used twice"));
    return;
  }
  if (const Status admitted = Admit(connection, message); !admitted.ok()) {
    context_.Send(
        connection.endpoint, connection.peer.incarnation,
        wire::FetchDone{message.fetch_id, admitted.code(), std::string(admitted.message())});
    return;
  }
  const KvPart& held = IsProbe(message) ? message.part : context_.part;
  auto fetch = std::make_unique<Fetch>(&connection, message, context_.format, held);
  if (!fetch->view.direct()) fetch->gather.emplace(fetch->view);
  ++connection.fetches;
  Fetch& opened = *(fetches_[key] = std::move(fetch));
  opened.deadline = context_.timers->At(
      context_.Now() + message.timeout_ms * kMillisecond + kDeadlineGraceNs, [this, key] {
        EndFetches([&](const Fetch& f) { return &f == fetches_.at(key).get(); },
                   absl::DeadlineExceededError("the fetch's deadline has passed"));
      });
  Open(opened);
  Pump();
}

SegmentSource::Block FetchServer::FindBlock(const BlockId& id) {
  if (id != probe_id_) return source_ != nullptr ? source_->Find(id) : SegmentSource::Block();
  if (probe_block_.empty()) {
    probe_block_.resize(context_.format.block_bytes());
    SplitMix64 random(context_.self.incarnation);
    for (uint8_t& byte : probe_block_) byte = static_cast<uint8_t>(random.Next());
  }
  SegmentSource::Block block;
  block.state = SegmentSource::State::kReady;
  block.data = probe_block_.data();
  return block;
}

uint32_t FetchServer::Ready(const Fetch& fetch, const SegmentSource::Block& block) const {
  const uint32_t before = fetch.view.inner().layers.begin - fetch.view.outer().layers.begin;
  if (block.layers_ready <= before) return 0;
  return std::min(block.layers_ready - before, fetch.view.layers());
}

void FetchServer::Open(Fetch& fetch) {
  const FetchKey key{fetch.connection->endpoint, fetch.message.fetch_id};
  wire::ItemsMissing missing{.fetch_id = fetch.message.fetch_id, .items = {}};
  fetch.items.resize(fetch.message.items.size());
  fetch.open_items = fetch.items.size();
  for (uint32_t i = 0; i < fetch.items.size(); ++i) {
    Item& item = fetch.items[i];
    item.id = fetch.message.items[i].id;
    item.block = FindBlock(item.id);
    using State = SegmentSource::State;
    const uint32_t held_layers = fetch.view.outer().layers.size();
    if (item.block.state == State::kReady) item.block.layers_ready = held_layers;
    item.block.layers_ready = Sendable(item.block, std::min(item.block.layers_ready, held_layers));
    const bool complete = Ready(fetch, item.block) == fetch.view.layers();
    const bool usable = item.block.state != State::kMissing &&
                        item.block.first_position == fetch.message.items[i].first_position &&
                        (complete || fetch.message.subscribe);
    if (!usable) {
      missing.items.push_back(i);
      CloseItem(fetch, item);
      continue;
    }
    if (!complete) subscribers_[item.id].emplace_back(key, i);
    Enqueue(fetch, i);
  }
  if (!missing.items.empty()) {
    context_.Send(fetch.connection->endpoint, fetch.connection->peer.incarnation,
                  std::move(missing));
  }
  FinishIfQuiet(fetch);
}

void FetchServer::Publish(const BlockId& id, uint32_t layers_ready,
                          const std::vector<uint32_t>& checksums) {
  const auto found = subscribers_.find(id);
  if (found == subscribers_.end()) return;
  for (const auto& [key, index] : found->second) {
    Fetch& fetch = *fetches_.at(key);  // subscriptions end with their fetch
    SegmentSource::Block& block = fetch.items[index].block;
    if (checksums.size() > block.checksums.size()) block.checksums = checksums;
    const auto ready = std::max(block.layers_ready, std::min(layers_ready, context_.layers));
    block.layers_ready = Sendable(block, ready);
    Enqueue(fetch, index);
  }
  std::erase_if(found->second, [&](const auto& subscriber) {
    const Fetch& fetch = *fetches_.at(subscriber.first);
    return Ready(fetch, fetch.items[subscriber.second].block) == fetch.view.layers();
  });
  if (found->second.empty()) subscribers_.erase(found);
  Pump();
}

void FetchServer::Withdraw(const BlockId& id) {
  const auto found = subscribers_.extract(id);
  if (found.empty()) return;
  for (const auto& [key, index] : found.mapped()) {
    const auto subscribed = fetches_.find(key);  // may have ended with an earlier turn of this loop
    if (subscribed == fetches_.end() || subscribed->second->items[index].over) continue;
    Fetch& fetch = *subscribed->second;
    WithdrawItem(fetch, index);
    FinishIfQuiet(fetch);
  }
}

void FetchServer::WithdrawItem(Fetch& fetch, uint32_t index) {
  CloseItem(fetch, fetch.items[index]);
  context_.Send(fetch.connection->endpoint, fetch.connection->peer.incarnation,
                wire::ItemsMissing{.fetch_id = fetch.message.fetch_id, .items = {index}});
}

void FetchServer::Handle(Connection& connection, const wire::Cancel& message) {
  const auto found = fetches_.find({connection.endpoint, message.fetch_id});
  if (found != fetches_.end()) EndFetch(*found->second);
  // What was posted before is announced to the peer before this.
  context_.Send(connection.endpoint, connection.peer.incarnation,
                wire::CancelAck{message.fetch_id});
}

Fences::Verdict FetchServer::NoteAttempt(const RequestKey& request) {
  const Fences::Verdict verdict = fences_.Check(request);
  if (verdict == Fences::Verdict::kRaised) {
    EndFetches(
        [&](const Fetch& fetch) {
          return fetch.message.request.id == request.id &&
                 fetch.message.request.attempt < request.attempt;
        },
        absl::FailedPreconditionError("a later attempt of the request has begun"));
  }
  return verdict;
}

void FetchServer::EndAll() {
  EndFetches([](const Fetch&) { return true; }, absl::UnavailableError("the source shuts down"));
}

void FetchServer::EndFetches(const std::function<bool(const Fetch&)>& which, const Status& status) {
  std::vector<Fetch*> ending;
  for (const auto& [key, fetch] : fetches_) {
    if (!fetch->ended && which(*fetch)) ending.push_back(fetch.get());
  }
  for (Fetch* fetch : ending) {
    if (!status.ok()) {
      context_.Send(
          fetch->connection->endpoint, fetch->connection->peer.incarnation,
          wire::FetchDone{fetch->message.fetch_id, status.code(), std::string(status.message())});
    }
    EndFetch(*fetch);
  }
}

void FetchServer::EndFetch(Fetch& fetch) {
  if (fetch.ended) return;
  fetch.ended = true;
  fetch.ready.clear();
  Unsubscribe(fetch);  // payloads still posted may keep the fetch itself for long
  for (Item& item : fetch.items) {
    if (!item.over) CloseItem(fetch, item);
  }
  FinishIfQuiet(fetch);
}

void FetchServer::Unsubscribe(const Fetch& fetch) {
  const FetchKey key{fetch.connection->endpoint, fetch.message.fetch_id};
  for (const Item& item : fetch.items) {
    const auto found = subscribers_.find(item.id);
    if (found == subscribers_.end()) continue;
    std::erase_if(found->second, [&](const auto& subscriber) { return subscriber.first == key; });
    if (found->second.empty()) subscribers_.erase(found);
  }
}

void FetchServer::CloseItem(Fetch& fetch, Item& item) {
  item.over = true;
  --fetch.open_items;
  if (item.posted == 0) item.block.pin = SegmentPin();
}

void FetchServer::FinishIfQuiet(Fetch& fetch) {
  if (fetch.open_items > 0 || fetch.posted > 0) return;
  Connection& connection = *fetch.connection;
  if (!fetch.ended) {
    context_.Send(connection.endpoint, connection.peer.incarnation,
                  wire::FetchDone{.fetch_id = fetch.message.fetch_id, .message = {}});
  }
  Unsubscribe(fetch);
  context_.timers->Cancel(fetch.deadline);
  --connection.fetches;
  fetches_.erase({connection.endpoint, fetch.message.fetch_id});
  ForgetIfQuiet(connection);
}

// ---- Offers. ----

void FetchServer::Handle(Connection& connection, wire::Offer message) {
  if (message.offer.source.key != connection.peer) {
    OnMalformed(connection.endpoint,
                absl::InvalidArgumentError("a node offers what another node holds"));
    return;
  }
  if (!connection.same_format) {
    OnMalformed(connection.endpoint,
                absl::FailedPreconditionError("blocks are taken in this node's own format only"));
    return;
  }
  if (NoteAttempt(message.offer.fence.request) == Fences::Verdict::kStale) {
    context_.counters->stale_refused.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  if (message.offer.branch.has_value()) {
    const Status heard = replicas_.OnOffered(connection.endpoint, connection.peer);
    if (!heard.ok()) return OnMalformed(connection.endpoint, heard);
  }
  if (on_offer_) on_offer_(std::move(message.offer));
}

}  // namespace reprise::kv
