#include "kvstore/stream/fetch_client.h"

#include <algorithm>
#include <utility>

#include "kvstore/block/checksum.h"

namespace reprise::kv {
namespace {

// A source that does not acknowledge a cancel within this is unresponsive: its link is closed, and
// with it every way into the destinations. Time in which this process did not run does not count.
constexpr TimeNs kCancelAckTimeoutNs = kSecond;

uint32_t RemainingMs(TimeNs deadline_ns, TimeNs now_ns) {
  const TimeNs left_ms = (deadline_ns - now_ns) / kMillisecond + 1;
  return static_cast<uint32_t>(std::clamp<TimeNs>(left_ms, 1, UINT32_MAX));
}

}  // namespace

// ---- Beginning and end of a fetch. ----

void FetchClient::Start(FetchHandle handle, FetchSpec spec, std::shared_ptr<FetchListener> listener,
                        TimeNs deadline_ns) {
  const std::shared_ptr<const KvFormat> format = spec.format;
  auto owned =
      std::make_unique<Fetch>(std::move(spec), format != nullptr ? *format : context_.format);
  Fetch& fetch = *owned;
  fetch.handle = handle;
  if (!fetch.view.direct()) fetch.scatter.emplace(fetch.view);
  fetch.listener = std::move(listener);
  fetch.deadline_ns = deadline_ns;
  fetch.items.resize(fetch.spec.items.size());
  fetch.unsettled = fetch.items.size();
  fetches_[handle] = std::move(owned);
  fetch.timer = context_.timers->At(deadline_ns, [this, &fetch] {
    End(fetch, absl::DeadlineExceededError("the fetch's deadline has passed"));
  });
  const StatusOr<PeerLink*> link = links_.Open(fetch.spec.source);
  if (!link.ok()) {
    End(fetch, link.status());
    return;
  }
  fetch.link = *link;
  fetch.link->fetches.insert(handle);
  if (fetch.link->ready) SendFetch(fetch);
}

void FetchClient::SendFetch(Fetch& fetch) {
  const std::string wanted =
      fetch.spec.format != nullptr ? fetch.spec.format->CanonicalText() : context_.format_text;
  if (fetch.link->format != wanted) {
    End(fetch, FormatsDiffer("the fetch is for blocks of the first", wanted, fetch.link->format));
    return;
  }
  wire::Fetch message{.fetch_id = fetch.handle,
                      .request = fetch.spec.fence.request,
                      .leg = fetch.spec.fence.leg,
                      .subscribe = fetch.spec.subscribe,
                      .timeout_ms = RemainingMs(fetch.deadline_ns, context_.Now()),
                      .part = fetch.view.inner(),
                      .items = {}};
  message.items.reserve(fetch.spec.items.size());
  for (const FetchItem& item : fetch.spec.items) {
    message.items.push_back({item.id, item.first_position});
  }
  fetch.sent = true;
  context_.Send(fetch.link->endpoint, fetch.spec.source.key.incarnation, std::move(message));
}

void FetchClient::Cancel(FetchHandle handle) {
  const auto found = fetches_.find(handle);
  if (found != fetches_.end()) End(*found->second, absl::CancelledError("the fetch was cancelled"));
}

void FetchClient::CancelAll() {
  std::vector<FetchHandle> handles;
  for (const auto& [handle, fetch] : fetches_) handles.push_back(handle);
  for (const FetchHandle handle : handles) Cancel(handle);
}

void FetchClient::CloseLinks() {
  while (PeerLink* link = links_.AnyOpen()) {
    links_.Drop(*link, absl::CancelledError("the stream shuts down"));
  }
}

void FetchClient::End(Fetch& fetch, const Status& status) {
  if (fetch.ended.has_value()) return;
  fetch.ended = status;
  context_.timers->Cancel(fetch.timer);
  const bool source_may_post = fetch.sent && fetch.link != nullptr && !fetch.source_quiet;
  if (source_may_post) {
    context_.Send(fetch.link->endpoint, fetch.spec.source.key.incarnation,
                  wire::Cancel{fetch.handle});
    fetch.timer = context_.timers->Judge(context_.Now(), kCancelAckTimeoutNs, [this, &fetch] {
      links_.Drop(*fetch.link, absl::UnavailableError("a cancel was not acknowledged in time"));
    });
  } else {
    fetch.source_quiet = true;
  }
  FinishIfQuiet(fetch);
}

void FetchClient::Settle(Fetch& fetch, size_t item, Status status) {
  fetch.items[item].settled = true;
  fetch.items[item].status = std::move(status);
  --fetch.unsettled;
}

void FetchClient::FinishIfQuiet(Fetch& fetch) {
  if (fetch.outstanding > 0) return;
  if (fetch.unsettled > 0 && !fetch.ended.has_value() && fetch.source_quiet) {
    fetch.ended = absl::UnavailableError("the source ended the fetch early");
  }
  if (fetch.ended.has_value() ? !fetch.source_quiet : fetch.unsettled > 0) return;
  context_.timers->Cancel(fetch.timer);
  if (fetch.link != nullptr) fetch.link->fetches.erase(fetch.handle);
  if (fetch.ended.has_value()) {
    context_.counters->fetches_failed.fetch_add(1, std::memory_order_relaxed);
  }
  std::vector<Status> statuses;
  statuses.reserve(fetch.items.size());
  for (const Item& item : fetch.items) {
    statuses.push_back(item.settled ? item.status : *fetch.ended);
  }
  const auto node = fetches_.extract(fetch.handle);  // destroyed after the listener was told
  fetch.listener->OnDone(statuses);
}

// ---- Payloads. ----

FetchClient::Fetch* FetchClient::Find(FetchHandle handle, const PeerLink* link) {
  const auto found = fetches_.find(handle);
  return found != fetches_.end() && found->second->link == link ? found->second.get() : nullptr;
}

bool FetchClient::Fits(const Fetch& fetch, const wire::Bulk& bulk, size_t bytes) {
  const Range& layers = fetch.view.inner().layers;
  return bulk.item < fetch.items.size() && bulk.layers > 0 &&
         bulk.first_layer == layers.begin + fetch.items[bulk.item].layers_started &&
         bulk.layers <= layers.end - bulk.first_layer &&
         bytes == bulk.layers * fetch.view.segment_bytes() &&
         bulk.attempt_n == fetch.spec.fence.request.attempt.n;
}

Sink FetchClient::OnBulk(EndpointId endpoint, const wire::Bulk& bulk, size_t bytes) {
  PeerLink* link = links_.Find(endpoint);
  if (link == nullptr || !link->ready) return {};
  if (bulk.receiver_incarnation != context_.self.incarnation) {
    context_.counters->stale_refused.fetch_add(1, std::memory_order_relaxed);
    return {};
  }
  // Late payloads of a fetch that has ended are normal.
  Fetch* fetch = Find(bulk.fetch_id, link);
  if (fetch == nullptr || fetch->ended.has_value()) return {};
  const bool settled = bulk.item < fetch->items.size() && fetch->items[bulk.item].settled;
  if (settled) return {};
  if (!Fits(*fetch, bulk, bytes)) {
    OnMalformed(endpoint, absl::InvalidArgumentError("a payload does not continue its item"));
    return {};
  }
  uint8_t* destination = nullptr;
  Staged staged;
  if (fetch->view.direct()) {
    destination = Destination(*fetch, bulk.item, bulk.first_layer);
  } else {
    StatusOr<Staged> memory = staging_->Take(bytes);
    if (!memory.ok()) {
      End(*fetch, memory.status());
      return {};
    }
    staged = *std::move(memory);
    destination = staged->writable().data();
  }
  fetch->items[bulk.item].layers_started += bulk.layers;
  ++fetch->outstanding;
  return {destination, [this, handle = fetch->handle, bulk, staged](const Status& status) {
            OnReceived(handle, bulk, staged, status);
          }};
}

void FetchClient::OnReceived(FetchHandle handle, const wire::Bulk& bulk, const Staged& staged,
                             const Status& status) {
  Fetch& fetch = *fetches_.at(handle);  // present while a receive is outstanding
  --fetch.outstanding;
  const bool wanted = !fetch.ended.has_value() && !fetch.items[bulk.item].settled;
  if (wanted && status.ok()) {
    Verify(fetch, bulk, staged);
  } else if (wanted) {
    End(fetch, Annotate(status, "a payload did not arrive"));
    return;
  }
  FinishIfQuiet(fetch);
}

void FetchClient::Verify(Fetch& fetch, const wire::Bulk& bulk, const Staged& staged) {
  const FetchItem& item = fetch.spec.items[bulk.item];
  const size_t segment_bytes = fetch.view.segment_bytes();
  std::vector<uint32_t> checksums(bulk.layers);
  std::vector<uint32_t> told(bulk.layers);
  for (uint32_t i = 0; i < bulk.layers; ++i) {
    const uint32_t layer = bulk.first_layer + i;
    uint8_t* const place = Destination(fetch, bulk.item, layer);
    if (staged == nullptr) {
      checksums[i] = SegmentChecksum(item.id, layer, item.first_position, place, segment_bytes);
      told[i] = checksums[i];
    } else {
      const uint32_t seed = SegmentSeed(item.id, layer, item.first_position);
      const auto taken =
          fetch.scatter->Scatter(staged->bytes().data() + i * segment_bytes, place, seed);
      checksums[i] = taken.crc;
      told[i] = taken.parts;
    }
  }
  if (wire::RunChecksum(bulk, fetch.view.inner().heads, checksums) != bulk.checksum) {
    context_.counters->checksum_failures.fetch_add(1, std::memory_order_relaxed);
    Settle(fetch, bulk.item,
           absl::DataLossError(absl::StrCat("block ", item.id.Hex(), " layers ", bulk.first_layer,
                                            " to ", bulk.first_layer + bulk.layers - 1,
                                            ": checksum mismatch")));
    return;
  }
  context_.counters->segments_received.fetch_add(bulk.layers, std::memory_order_relaxed);
  context_.counters->bytes_received.fetch_add(bulk.layers * segment_bytes,
                                              std::memory_order_relaxed);
  Announce(fetch, bulk, std::move(told));
}

void FetchClient::Announce(Fetch& fetch, const wire::Bulk& bulk, std::vector<uint32_t> checksums) {
  Item& item = fetch.items[bulk.item];
  const uint32_t first = fetch.view.inner().layers.begin;
  item.early.emplace_back(bulk.first_layer - first, std::move(checksums));
  // Receives of one item may complete out of order; layers are announced in order.
  for (;;) {
    const auto next = std::find_if(item.early.begin(), item.early.end(), [&](const auto& run) {
      return run.first == item.layers_announced;
    });
    if (next == item.early.end()) break;
    for (const uint32_t checksum : next->second) {
      fetch.listener->OnLayer(bulk.item, first + item.layers_announced++, checksum);
    }
    item.early.erase(next);
  }
  if (item.layers_announced == fetch.view.layers()) Settle(fetch, bulk.item, absl::OkStatus());
}

// ---- Messages and links. ----

void FetchClient::OnMessage(EndpointId endpoint, const wire::Envelope& envelope) {
  PeerLink* link = links_.Find(endpoint);
  if (link == nullptr) return;
  const wire::Message& message = envelope.message;
  if (const auto* refusal = std::get_if<wire::Refusal>(&message)) {
    // Whoever refuses before our hello was understood cannot name us.
    const auto code =
        refusal->code == absl::StatusCode::kOk ? absl::StatusCode::kUnavailable : refusal->code;
    links_.Drop(*link, Status(code, refusal->message));
  } else if (envelope.receiver_incarnation != context_.self.incarnation) {
    context_.counters->stale_refused.fetch_add(1, std::memory_order_relaxed);
    links_.Drop(*link, absl::UnavailableError("it answers an earlier incarnation of this node"));
  } else if (const auto* welcome = std::get_if<wire::Welcome>(&message)) {
    links_.OnWelcome(*link, *welcome);
  } else if (!link->ready) {
    OnMalformed(endpoint, absl::InvalidArgumentError("a message before the handshake"));
  } else if (const auto* missing = std::get_if<wire::ItemsMissing>(&message)) {
    Handle(*link, *missing);
  } else if (const auto* done = std::get_if<wire::FetchDone>(&message)) {
    Handle(*link, *done);
  } else if (const auto* ack = std::get_if<wire::CancelAck>(&message)) {
    Handle(*link, *ack);
  } else {
    OnMalformed(endpoint, absl::InvalidArgumentError("a message only the fetching side sends"));
  }
}

void FetchClient::Handle(PeerLink& link, const wire::ItemsMissing& message) {
  Fetch* fetch = Find(message.fetch_id, &link);
  if (fetch == nullptr || fetch->ended.has_value()) return;
  for (const uint32_t item : message.items) {
    if (item >= fetch->items.size()) {
      OnMalformed(link.endpoint,
                  absl::InvalidArgumentError(absl::StrCat("a fetch of ", fetch->items.size(),
                                                          " items has no item ", item)));
      return;
    }
    if (fetch->items[item].settled) continue;  // its data was bad before it was withdrawn
    Settle(*fetch, item,
           absl::NotFoundError(absl::StrCat("block ", fetch->spec.items[item].id.Hex(),
                                            " is not at ", link.address.key.name)));
  }
  FinishIfQuiet(*fetch);
}

void FetchClient::Handle(PeerLink& link, const wire::FetchDone& message) {
  Fetch* fetch = Find(message.fetch_id, &link);
  if (fetch == nullptr) return;
  fetch->source_quiet = true;
  if (message.code != absl::StatusCode::kOk && !fetch->ended.has_value()) {
    fetch->ended = Status(message.code, message.message);
  }
  FinishIfQuiet(*fetch);
}

void FetchClient::Handle(PeerLink& link, const wire::CancelAck& message) {
  Fetch* fetch = Find(message.fetch_id, &link);
  if (fetch == nullptr || !fetch->ended.has_value()) return;
  fetch->source_quiet = true;
  FinishIfQuiet(*fetch);
}

void FetchClient::OnMalformed(EndpointId endpoint, const Status& status) {
  context_.counters->malformed_refused.fetch_add(1, std::memory_order_relaxed);
  if (PeerLink* link = links_.Find(endpoint)) {
    links_.Drop(*link, absl::UnavailableError(status.message()));
  }
}

void FetchClient::OnFailed(EndpointId endpoint, const Status& status) {
  if (PeerLink* link = links_.Find(endpoint)) links_.Drop(*link, status);
}

void FetchClient::OnLinkUp(PeerLink& link) {
  const std::set<FetchHandle> waiting = link.fetches;  // one of another format ends at once
  for (const FetchHandle handle : waiting) SendFetch(*fetches_.at(handle));
}

void FetchClient::OnLinkDown(PeerLink& link, const Status& status) {
  const std::set<FetchHandle> handles = std::exchange(link.fetches, {});
  for (const FetchHandle handle : handles) {
    Fetch& fetch = *fetches_.at(handle);
    context_.timers->Cancel(fetch.timer);
    fetch.link = nullptr;
    fetch.source_quiet = true;
    if (!fetch.ended.has_value()) fetch.ended = status;
    FinishIfQuiet(fetch);
  }
}

StatusOr<std::string> FetchClient::DescribeLanes(const NodeKey& peer) {
  PeerLink* link = links_.FindNode(peer);
  if (link == nullptr) return absl::NotFoundError(absl::StrCat(peer.name, " is not connected"));
  return context_.transport->DescribeLanes(link->endpoint);
}

}  // namespace reprise::kv
