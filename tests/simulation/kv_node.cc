#include "tests/simulation/kv_node.h"

#include <cstring>
#include <memory>

#include "kvstore/block/checksum.h"

namespace reprise::sim {

KvNode::KvNode(Context& context, NodeKey self, Pid pid, Find find)
    : context_(context),
      world_(context.world),
      network_(context.network),
      self_(std::move(self)),
      pid_(pid),
      find_(std::move(find)) {
  context.kv_nodes[self_] = this;
}

// Reading ----------------------------------------------------------------------------------------

StreamId KvNode::StreamTo(KvNode& source) {
  const auto found = streams_.find(source.self_);
  if (found != streams_.end()) return found->second;
  auto id = std::make_shared<StreamId>(0);
  *id = network_.Connect("kv", {pid_, [this, key = source.self_] { OnSourceLost(key); }},
                         {source.pid_, [peer = &source, id] { peer->OnClientLost(*id); }});
  streams_.emplace(source.self_, *id);
  return *id;
}

uint64_t KvNode::Fetch(KvFetch spec) {
  const uint64_t id = next_fetch_++;
  KvNode* const source = context_.kv_nodes.at(spec.source);
  Fetching& fetch = fetches_[id];
  fetch.spec = spec;
  fetch.source = source;
  fetch.stream = StreamTo(*source);
  fetch.status.resize(spec.items.size());
  fetch.ended.resize(spec.items.size());
  fetch.open = spec.items.size();
  Digest digest;
  for (const KvFetch::Item& item : spec.items) digest.Bytes(item.id.bytes);
  const StreamId stream = fetch.stream;
  world_.After(spec.timeout, {"fetch_timeout", pid_, pid_, id},
               [this, id] { EndCancelled(id, absl::DeadlineExceededError("fetch timed out")); });
  network_.Send(stream, {"fetch", pid_, source->pid_, digest.value()},
                [this, source, stream, id, spec = std::move(spec)] {
                  source->OnFetch(stream, id, this, spec);
                });
  return id;
}

void KvNode::Cancel(uint64_t fetch) { EndCancelled(fetch, absl::CancelledError("cancelled")); }

void KvNode::EndCancelled(uint64_t id, const Status& why) {
  const auto found = fetches_.find(id);
  if (found == fetches_.end() || std::exchange(found->second.cancelled, true)) return;
  Fetching& fetch = found->second;
  fetch.why = why;
  ++(absl::IsCancelled(why) ? stats_.cancelled : stats_.timed_out);
  KvNode* const source = fetch.source;
  network_.Send(fetch.stream, {"fetch_cancel", pid_, source->pid_, id},
                [this, source, stream = fetch.stream, id] { source->OnCancel(stream, id, this); });
  if (context_.mutated(Mutation::kFetchDoneBeforeQuiet)) {
    world_.After(0, {"fetch_done", pid_, pid_, id}, [this, id] { Finish(id); });
  }
}

void KvNode::OnSegment(uint64_t id, const Segment& segment) {
  const auto found = fetches_.find(id);
  const bool quiet = found == fetches_.end();
  if (quiet && !context_.mutated(Mutation::kFetchDoneBeforeQuiet)) {
    return world_.Fail("a transfer wrote after its fetch was done");
  }
  // The network writes before anybody looks.
  std::memcpy(segment.destination, segment.bytes.data(), segment.bytes.size());
  if (quiet) return;
  Fetching& fetch = found->second;
  const KvFetch::Item& item = fetch.spec.items[segment.item];
  if (fetch.ended[segment.item]) return;
  const uint32_t checksum = kv::SegmentChecksum(item.id, segment.layer, item.first_position,
                                                segment.destination, segment.bytes.size());
  if (checksum != segment.checksum && !context_.mutated(Mutation::kChecksumUnchecked)) {
    ++stats_.checksum_failures;
    fetch.status[segment.item] = absl::DataLossError("checksum mismatch");
  }
  const bool last = segment.layer + 1 == context_.model.layers;
  const bool good = fetch.status[segment.item].ok();
  if (good && !fetch.cancelled) {
    ++stats_.layers_received;
    if (fetch.spec.layer) fetch.spec.layer(segment.item, segment.layer, segment.checksum);
  }
  if (last) EndItem(id, fetch, segment.item, fetch.status[segment.item]);
}

void KvNode::OnItemEnd(uint64_t id, size_t item, const Status& status) {
  const auto found = fetches_.find(id);
  if (found != fetches_.end()) EndItem(id, found->second, item, status);
}

void KvNode::EndItem(uint64_t id, Fetching& fetch, size_t item, const Status& status) {
  if (fetch.ended[item]) return;
  fetch.ended[item] = true;
  if (fetch.status[item].ok()) fetch.status[item] = status;
  // A cancelled fetch ends when the other side says that it is quiet.
  if (--fetch.open == 0 && !fetch.cancelled) Finish(id);
}

void KvNode::Finish(uint64_t id) {
  auto node = fetches_.extract(id);
  if (node.empty()) return;
  Fetching& fetch = node.mapped();
  for (size_t i = 0; i < fetch.ended.size(); ++i) {
    if (!fetch.ended[i]) fetch.status[i] = fetch.why;
  }
  fetch.spec.done(fetch.status);
}

void KvNode::OnSourceLost(const NodeKey& source) {
  const StreamId stream = streams_.at(source);
  streams_.erase(source);
  std::vector<uint64_t> lost;
  for (auto& [id, fetch] : fetches_) {
    if (fetch.stream != stream) continue;
    if (!fetch.cancelled) fetch.why = absl::UnavailableError("the source was lost");
    lost.push_back(id);
  }
  stats_.lost += lost.size();
  for (const uint64_t id : lost) Finish(id);
}

// Serving ----------------------------------------------------------------------------------------

bool KvNode::NoteAttempt(const RequestKey& request) {
  const kv::Fences::Verdict verdict = fences_.Check(request);
  if (verdict == kv::Fences::Verdict::kStale) ++stats_.stale_refused;
  if (verdict != kv::Fences::Verdict::kRaised) return verdict != kv::Fences::Verdict::kStale;
  std::vector<ServedKey> lower;
  for (auto& [key, served] : served_) {
    if (served.request.id == request.id && served.request.attempt < request.attempt) {
      RefuseFetch(served, absl::FailedPreconditionError("a later attempt has begun"));
      lower.push_back(key);
    }
  }
  for (const ServedKey& key : lower) EraseIfClosed(key);
  return true;
}

// Ends what is open of the fetch; what was posted before arrives before.
void KvNode::RefuseFetch(Served& served, const Status& why) {
  for (size_t i = 0; i < served.items.size(); ++i) {
    if (served.items[i].closed) continue;
    Close(served.items[i]);
    network_.Send(served.stream, {"refused", pid_, served.client->pid_, i},
                  [client = served.client, fetch = served.fetch, i, why] {
                    client->OnItemEnd(fetch, i, why);
                  });
  }
}

void KvNode::OnFetch(StreamId stream, uint64_t fetch, KvNode* client, const KvFetch& spec) {
  const ServedKey key{stream, fetch};
  const bool admitted = NoteAttempt(spec.request);
  Served& served = served_[key];
  served.client = client;
  served.stream = stream;
  served.fetch = fetch;
  served.request = spec.request;
  if (!admitted) {
    served.items.resize(spec.items.size());
    RefuseFetch(served, absl::FailedPreconditionError("the request has a later attempt"));
    return EraseIfClosed(key);
  }
  if (on_fence_) on_fence_(spec.request);
  for (size_t i = 0; i < spec.items.size(); ++i) {
    KvFound found = find_(spec.items[i].id);
    ServedItem& item = served.items.emplace_back();
    item.id = spec.items[i].id;
    item.first_position = found.first_position;
    item.data = found.data;
    item.summed = found.summed;
    item.checksums = std::move(found.checksums);
    item.ready = found.layers_ready;
    item.unpin = std::move(found.unpin);
    const bool usable = found.state == KvFound::State::kReady ||
                        (found.state == KvFound::State::kPending && spec.subscribe);
    if (usable && item.first_position == spec.items[i].first_position) continue;
    Close(item);
    network_.Send(stream, {"missing", pid_, client->pid_, i},
                  [client, fetch, i] { client->OnItemEnd(fetch, i, absl::NotFoundError("")); });
  }
  for (size_t i = 0; i < served.items.size(); ++i) SendReady(served, i);
  EraseIfClosed(key);
}

void KvNode::SendReady(Served& served, size_t index) {
  ServedItem& item = served.items[index];
  while (!item.closed && item.sent < item.ready) {
    SendLayer(served, index, item.sent++);
    if (item.sent == context_.model.layers) Close(item);
  }
}

void KvNode::SendLayer(Served& served, size_t index, uint32_t layer) {
  ServedItem& item = served.items[index];
  const size_t bytes = context_.segment_bytes();
  const uint8_t* const from = item.data + layer * bytes;
  Segment segment;
  segment.item = index;
  segment.layer = layer;
  segment.bytes.assign(from, from + bytes);
  segment.checksum = item.summed
                         ? item.checksums.at(layer)
                         : kv::SegmentChecksum(item.id, layer, item.first_position, from, bytes);
  segment.destination =
      served.client->fetches_.contains(served.fetch)
          ? served.client->fetches_.at(served.fetch).spec.items[index].destination + layer * bytes
          : nullptr;
  if (segment.destination == nullptr) return;
  ++item.in_flight;
  const std::vector<uint8_t> posted = segment.bytes;
  const bool corrupts = context_.faults.corruption && !context_.faults_stopped;
  if (corrupts && world_.random().Chance(0.03)) {
    segment.bytes[world_.random().Below(bytes)] ^= 1 << world_.random().Below(8);
    world_.Note(Injected::kCorruption);
  }
  const Label label{"segment", pid_, served.client->pid_,
                    Digest().Bytes(item.id.bytes).U64(layer).Bytes(segment.bytes).value()};
  const ServedKey key{served.stream, served.fetch};
  network_.Send(served.stream, label,
                [this, client = served.client, key, from, posted, segment = std::move(segment)] {
                  // The transfer reads the sender's memory until now.
                  if (world_.Alive(pid_) && std::memcmp(from, posted.data(), posted.size()) != 0) {
                    return world_.Fail(absl::StrCat("memory of ", self_.name,
                                                    " changed while a transfer was reading it"));
                  }
                  client->OnSegment(key.second, segment);
                  world_.After(0, {"sent", client->pid_, pid_, segment.item},
                               [this, key, item = segment.item] { OnLayerTaken(key, item); });
                });
}

void KvNode::OnLayerTaken(ServedKey key, size_t index) {
  const auto found = served_.find(key);
  if (found == served_.end()) return;
  ServedItem& item = found->second.items[index];
  --item.in_flight;
  if (item.closed && item.in_flight == 0 && item.unpin) std::exchange(item.unpin, nullptr)();
  EraseIfClosed(key);
}

void KvNode::Close(ServedItem& item) {
  item.closed = true;
  if (item.in_flight == 0 && item.unpin) std::exchange(item.unpin, nullptr)();
}

void KvNode::EraseIfClosed(ServedKey key) {
  const auto found = served_.find(key);
  if (found == served_.end()) return;
  for (const ServedItem& item : found->second.items) {
    if (!item.closed || item.in_flight > 0) return;
  }
  served_.erase(found);
}

void KvNode::OnCancel(StreamId stream, uint64_t fetch, KvNode* client) {
  const auto found = served_.find({stream, fetch});
  if (found != served_.end()) {
    for (ServedItem& item : found->second.items) Close(item);
    EraseIfClosed({stream, fetch});
  }
  // The stream's order puts this behind everything that was sent.
  network_.Send(stream, {"fetch_quiet", pid_, client->pid_, fetch},
                [client, fetch] { client->Finish(fetch); });
}

void KvNode::OnClientLost(StreamId stream) {
  std::vector<ServedKey> theirs;
  for (auto& [key, served] : served_) {
    if (key.first != stream) continue;
    theirs.push_back(key);
    for (ServedItem& item : served.items) {
      item.in_flight = 0;
      Close(item);
    }
  }
  for (const ServedKey& key : theirs) served_.erase(key);
}

void KvNode::Publish(const kv::BlockId& id, uint32_t layers_ready,
                     const std::vector<uint32_t>& checksums) {
  for (auto& [key, served] : served_) {
    for (size_t i = 0; i < served.items.size(); ++i) {
      ServedItem& item = served.items[i];
      if (item.id != id || item.closed || layers_ready <= item.ready) continue;
      item.ready = layers_ready;
      item.checksums = checksums;
      SendReady(served, i);
    }
  }
}

void KvNode::Withdraw(const kv::BlockId& id) {
  std::vector<ServedKey> touched;
  for (auto& [key, served] : served_) {
    for (size_t i = 0; i < served.items.size(); ++i) {
      ServedItem& item = served.items[i];
      if (item.id != id || item.closed) continue;
      Close(item);
      touched.push_back(key);
      network_.Send(served.stream, {"withdrawn", pid_, served.client->pid_, i},
                    [client = served.client, fetch = served.fetch, i] {
                      client->OnItemEnd(fetch, i, absl::NotFoundError("withdrawn"));
                    });
    }
  }
  for (const ServedKey& key : touched) EraseIfClosed(key);
}

}  // namespace reprise::sim
